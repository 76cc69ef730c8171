"""The update rule of section 5."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from alexnet_repro.config import OptimConfig
from alexnet_repro.model import AlexNet
from alexnet_repro.training.schedule import Phase


class PaperSGD(torch.optim.SGD):
    """v <- momentum v - weight_decay eps w - eps grad;  w <- w + v.

    PyTorch keeps b = -v / eps and applies w <- w - eps b. The two rules are one as long as eps stays; when eps changes,
    the paper's v keeps its scale, so b is multiplied by old / new before the next step. A rate of 0 freezes the group:
    weights and velocity stay as they are.

    `found_inf`, a float tensor of one element: where it is 1 when the step runs on the device, nothing is changed. The
    host need not know (PyTorch's fused kernels have this for mixed precision).
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, parameters: Iterable[Any], learning_rate: float, momentum: float, weight_decay: float) -> None:
        """`parameters`: tensors, or groups as dicts with `params` and what differs: `lr`, `weight_decay`, a `name`."""
        super().__init__(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            group["buffer_rate"] = group["lr"]  # the eps for which b = -v / eps

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def]
        if closure is not None:
            raise ValueError("the paper's rule evaluates the gradient once a step; call step() without a closure")
        for group in self.param_groups:
            if group["lr"] == 0:
                for parameter in group["params"]:
                    parameter.grad = None
            elif group["lr"] != group["buffer_rate"]:
                self._rescale(group)
        super().step()

    def _rescale(self, group: dict[str, Any]) -> None:
        if group["buffer_rate"] != 0:
            buffers = [b for p in group["params"] if (b := self.state[p].get("momentum_buffer")) is not None]
            if buffers:
                torch._foreach_mul_(buffers, group["buffer_rate"] / group["lr"])
        group["buffer_rate"] = group["lr"]

    def velocity(self, parameter: Tensor) -> Tensor | None:
        """v of section 5 for one parameter, or None before its first step."""
        group = next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        buffer = self.state[parameter].get("momentum_buffer")
        return None if buffer is None else buffer * -group["buffer_rate"]


def paper_sgd(config: OptimConfig, model: AlexNet, layers_apart: Iterable[str] = ()) -> PaperSGD:
    """An optimiser with a group for the weights and one for the biases, and two more for each of `layers_apart`."""
    members: dict[tuple[str, bool], list[Tensor]] = {}
    apart = set(layers_apart)
    for name, parameter in model.named_parameters():
        layer = name.split(".")[0]
        key = (layer if layer in apart else "", name.endswith(".bias"))
        members.setdefault(key, []).append(parameter)
    groups = [
        {
            "name": f"{layer or 'other layers'}, {'biases' if bias else 'weights'}",
            "layer": layer,
            "bias": bias,
            "params": parameters,
            "first_rate": config.learning_rate * (config.bias_rate_times if bias else 1),
            "weight_decay": 0.0 if bias and not config.decay_biases else config.weight_decay,
        }
        for (layer, bias), parameters in members.items()
    ]
    for group in groups:
        group["lr"] = group["first_rate"]
    return PaperSGD(groups, config.learning_rate, config.momentum, config.weight_decay)


def set_rates(optimiser: PaperSGD, phase: Phase) -> None:
    """The rates of an epoch, for an optimiser made by `paper_sgd`."""
    for group in optimiser.param_groups:
        group["lr"] = group["first_rate"] * phase.rate(group["layer"], group["bias"])
