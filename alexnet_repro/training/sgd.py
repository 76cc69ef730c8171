"""The update rule of section 5."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class PaperSGD(torch.optim.SGD):
    """v <- momentum v - weight_decay eps w - eps grad;  w <- w + v.

    PyTorch keeps b = -v / eps and applies w <- w - eps b. The two rules are one as long as eps stays; when eps changes,
    the paper's v keeps its scale, so b is multiplied by old / new before the next step. A rate of 0 freezes the group:
    weights and velocity stay as they are.
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            group["buffer_rate"] = learning_rate  # the eps for which b = -v / eps

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
