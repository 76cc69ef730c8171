"""The update rule of section 5."""

from collections.abc import Iterable, Mapping
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor


def drop_frozen_gradients(optimiser: torch.optim.Optimizer) -> None:
    """A rate of 0 freezes a group: PyTorch's step passes over parameters that have no gradient."""
    for group in optimiser.param_groups:
        if group["lr"] == 0:
            for parameter in group["params"]:
                parameter.grad = None


class PaperSGD(torch.optim.SGD):
    """v <- momentum v - weight_decay eps w - eps grad;  w <- w + v.

    PyTorch keeps b = -v / eps and applies w <- w - eps b. The two rules are the same while eps stays. When eps changes,
    the paper's v keeps its scale, so b is multiplied by old / new before the next step. A rate of 0 freezes the group:
    weights and velocity stay as they are.

    `found_inf`, a float tensor of one element on the device: if it is 1 when the step runs there, nothing is changed,
    and the host need not know. (PyTorch's fused kernels read it, and `grad_scale`, for mixed precision.)
    """

    BUFFERS = ("momentum_buffer",)
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    # PyTorch's wrappers of these and of `step` import torch._dynamo, which takes a second. They keep torch.compile away
    # from the optimiser; that of `step` also switches gradients off, which our `step` does itself.
    add_param_group = unwrap(torch.optim.SGD.add_param_group)
    zero_grad = unwrap(torch.optim.SGD.zero_grad)

    def __init__(self, parameters: Iterable[Any], learning_rate: float, momentum: float, weight_decay: float) -> None:
        """`parameters`: tensors, or groups as dicts with `params` and what differs: `lr`, `weight_decay`, a `name`."""
        super().__init__(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            group["buffer_rate"] = group["lr"]  # the eps for which b = -v / eps

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        drop_frozen_gradients(self)
        for group in self.param_groups:
            self._rescale(group)
        unwrap(torch.optim.SGD.step)(self)

    @torch.no_grad()
    def prepare_capture(self) -> None:
        """Creates missing velocities, and rescales those of groups whose rate has changed. To be called before a step
        is captured as a CUDA graph, or every replay would do both again.
        """
        for group in self.param_groups:
            if group["lr"] == 0:
                continue
            for parameter in group["params"]:
                if self.state[parameter].get("momentum_buffer") is None:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            self._rescale(group)

    def _rescale(self, group: dict[str, Any]) -> None:
        """b = -v / eps for the group's present eps, unless it is frozen."""
        old, new = group["buffer_rate"], group["lr"]
        if new in (0, old):
            return
        buffers = [b for p in group["params"] if (b := self.state[p].get("momentum_buffer")) is not None]
        if buffers and old != 0:
            torch._foreach_mul_(buffers, old / new)
        group["buffer_rate"] = new

    def velocity(self, parameter: Tensor) -> Tensor | None:
        """v of section 5 for one parameter, of its shape; None before its first step."""
        group = next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        buffer = self.state[parameter].get("momentum_buffer")
        return None if buffer is None else buffer * -group["buffer_rate"]

    def restore(
        self, names: Mapping[Tensor, str], buffers: Mapping[str, Mapping[str, Tensor]], rates: Mapping[str, float]
    ) -> None:
        """Takes what optimisers.buffers_of gave; the next step is, to the bit, as without the interruption."""
        for group in self.param_groups:
            kept = [buffers["momentum_buffer"].get(names[parameter]) for parameter in group["params"]]
            if all(buffer is None for buffer in kept):  # no step yet, or frozen from the first
                continue
            rate = group["buffer_rate"] = rates[names[group["params"][0]]]
            for parameter, buffer in zip(group["params"], kept, strict=True):
                # Rates differ within a group, or a buffer is missing, only if a run continues with other groups.
                own = rates[names[parameter]]
                buffer = torch.zeros_like(parameter) if buffer is None else buffer.to(parameter.device)
                self.state[parameter]["momentum_buffer"] = buffer if own == rate else buffer * own / rate
