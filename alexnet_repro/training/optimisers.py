"""The optimiser that conf/optim asks for: the paper's (sgd.py) or Adam, with a group of parameters for each rate that
the schedule may set; and what a checkpoint keeps of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from alexnet_repro.config import OptimConfig
from alexnet_repro.model import AlexNet
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.training.schedule import Phase
from alexnet_repro.training.sgd import PaperSGD, drop_frozen_gradients
from data_prep.common.errors import RequestError


class Adam(torch.optim.Adam):
    """PyTorch's Adam, with what training needs of PaperSGD: a rate of 0 freezes a group, `found_inf` as there, and the
    methods below.
    """

    BUFFERS = ("exp_avg", "exp_avg_sq", "step")
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, parameters: Iterable[Any], learning_rate: float, beta1: float, beta2: float) -> None:
        super().__init__(parameters, lr=learning_rate, betas=(beta1, beta2), fused=True)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        drop_frozen_gradients(self)
        found_inf = self.found_inf
        if found_inf is not None and any(p.device.type == "cpu" for g in self.param_groups for p in g["params"]):
            # PyTorch's Adam, unlike its SGD, does not wait for the copy of it to a CPU, which would read it too early.
            self.found_inf = found_inf.cpu()
        super().step()
        self.found_inf = found_inf

    def velocity(self, parameter: Tensor) -> Tensor | None:
        """What stands for the velocity v of section 5: minus the rate times the running mean of the gradient. None
        before the first step.
        """
        group = next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        mean = self.state[parameter].get("exp_avg")
        return None if mean is None else mean * -group["lr"]

    def restore(
        self, names: Mapping[Tensor, str], buffers: Mapping[str, Mapping[str, Tensor]], _rates: Mapping[str, float]
    ) -> None:
        """As PaperSGD.restore."""
        for parameter, name in names.items():
            if name in buffers["step"]:
                self.state[parameter] = {
                    buffer: buffers[buffer][name].to(parameter.device, copy=True) for buffer in self.BUFFERS
                }


Optimiser = PaperSGD | Adam


def optimiser_for(config: OptimConfig, model: AlexNet, layers_apart: Iterable[str] = ()) -> Optimiser:
    """A group for the weights and one for the biases, and two more for each layer of `layers_apart` or with a decay of
    its own. RequestError if `config` gives a decay to a layer that the network lacks.
    """
    if unknown := sorted(config.layer_decay.keys() - model.layers().keys()):
        raise RequestError(f"optim.layer_decay.{unknown[0]}: the network has no {unknown[0]}; remove it")
    members: dict[tuple[str, bool], list[Tensor]] = {}  # by layer ("": all others) and whether biases
    apart = {*layers_apart, *config.layer_decay}
    for name, parameter in model.named_parameters():
        layer = name.split(".")[0]
        key = (layer if layer in apart else "", name.endswith(".bias"))
        members.setdefault(key, []).append(parameter)
    groups = []
    for (layer, bias), parameters in members.items():
        decay = config.layer_decay.get(layer, config.weight_decay)
        rate = config.learning_rate * (config.bias_rate_times if bias else 1)
        groups.append(
            {
                "name": f"{layer or 'other layers'}, {'biases' if bias else 'weights'}",
                "layer": layer,
                "bias": bias,
                "params": parameters,
                "lr": rate,
                "first_rate": rate,
                "weight_decay": 0.0 if bias and not config.decay_biases else decay,
            }
        )
    if config.rule == "adam":
        return Adam(groups, config.learning_rate, config.momentum, config.second_momentum)
    return PaperSGD(groups, config.learning_rate, config.momentum, config.weight_decay)


def set_rates(optimiser: Optimiser, phase: Phase) -> None:
    """Gives each group of an optimiser made by `optimiser_for` its first rate times what `phase` says."""
    for group in optimiser.param_groups:
        group["lr"] = group["first_rate"] * phase.rate(group["layer"], group["bias"])


def buffers_of(model: AlexNet, optimiser: Optimiser) -> dict[str, Any]:
    """`buffers` and `buffer_rates` of a checkpoint: what the next step needs besides the weights, by PyTorch's name of
    the buffer and then by the parameter's (none before the first step), and for section 5's rule the rate of each. The
    buffers are the optimiser's own: the next step changes them.
    """
    names = _names(model)
    kept = {key: {name: optimiser.state[p].get(key) for p, name in names.items()} for key in optimiser.BUFFERS}
    groups = [group for group in optimiser.param_groups if "buffer_rate" in group]
    return {
        "buffers": {key: {name: b for name, b in own.items() if b is not None} for key, own in kept.items()},
        "buffer_rates": {names[p]: group["buffer_rate"] for group in groups for p in group["params"]},
    }


def restore(checkpoint: Checkpoint, model: AlexNet, optimiser: Optimiser) -> None:
    """Copies weights and buffers to where the columns are; the next step is, to the bit, as without the interruption.

    RequestError if the checkpoint was written with another optim.rule, or is of a network of other shapes.
    """
    if set(checkpoint.buffers) != set(optimiser.BUFFERS):
        raise RequestError("optim.rule: cannot change within a run; init_from=RUN begins another with its weights")
    own, kept = ({name: [*w.shape] for name, w in ws.items()} for ws in (model.state_dict(), checkpoint.weights))
    for name in own | kept:
        if own.get(name) != kept.get(name):
            raise RequestError(
                f"{name}: is {own.get(name, 'absent')} in this network and {kept.get(name, 'absent')} in the "
                "checkpoint; shapes cannot change within a run: choose another run=NAME, init_from=RUN takes weights"
            )
    model.load_state_dict(checkpoint.weights)
    optimiser.restore(_names(model), checkpoint.buffers, checkpoint.buffer_rates)


def _names(model: AlexNet) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}
