"""Adam (Kingma and Ba, 2015), for what was published with it; the paper's rule is sgd.py's."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """PyTorch's, with what training asks of PaperSGD too: a group whose rate is 0 is frozen, and where `found_inf` is 1
    when the step runs on the device, nothing is changed.
    """

    BUFFERS = ("exp_avg", "exp_avg_sq", "step")
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, parameters: Iterable[Any], learning_rate: float, beta1: float, beta2: float) -> None:
        super().__init__(parameters, lr=learning_rate, betas=(beta1, beta2), fused=True)

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def]
        if closure is not None:
            raise ValueError("the gradient is evaluated once a step; call step() without a closure")
        for group in self.param_groups:
            if group["lr"] == 0:
                for parameter in group["params"]:
                    parameter.grad = None
        super().step()

    def velocity(self, parameter: Tensor) -> Tensor | None:
        """The running mean of the gradient, times minus the rate; None before the first step."""
        group = next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        mean = self.state[parameter].get("exp_avg")
        return None if mean is None else mean * -group["lr"]

    def buffers(self, names: Mapping[Tensor, str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
        """As PaperSGD's; no rates."""
        kept: dict[str, dict[str, Tensor]] = {buffer: {} for buffer in self.BUFFERS}
        for parameter, name in names.items():
            for buffer, tensor in self.state[parameter].items():
                kept[buffer][name] = tensor
        return kept, {}

    def restore(
        self, names: Mapping[Tensor, str], buffers: Mapping[str, Mapping[str, Tensor]], _rates: Mapping[str, float]
    ) -> None:
        """As PaperSGD's."""
        for parameter, name in names.items():
            if name in buffers["step"]:
                self.state[parameter] = {
                    buffer: buffers[buffer][name].to(parameter.device, copy=True) for buffer in self.BUFFERS
                }
