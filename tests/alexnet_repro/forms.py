"""The steps after a convolution in both forms, for the tests of fused.py on a CPU and on a GPU."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_repro.config import NormConfig
from alexnet_repro.model.fused import after_conv

PAPER = NormConfig(5, 1e-4, 0.75, 2.0)
Case = dict[str, Any]

CASES: list[Case] = [
    {"groups": groups, "relu": relu, "norm": norm, "pool": pool, "relu_last": relu_last}
    for groups, relu, norm, pool, relu_last in [
        (2, True, PAPER, (3, 2), False),  # paper, conv1 and conv2
        (2, False, PAPER, (3, 2), True),  # code2012, conv1
        (1, True, PAPER, (1, 1), False),  # code2012, conv2, before the same-map normalisation
        (2, True, None, (1, 1), False),  # conv3, conv4
        (1, True, None, (3, 2), False),  # paper, conv5
        (1, False, None, (3, 2), True),  # code2012, conv5
        (1, True, None, (4, 1), False),
        (2, True, PAPER, (2, 2), False),  # pooling that does not overlap
        (1, True, NormConfig(3, 1e-3, 0.6, 1.0), (3, 3), False),
        (1, True, NormConfig(9, 1.111e-4, 0.75, 1.0), (3, 2), False),  # the CIFAR-10 nets of section 3.3
    ]
]


def conv_steps(x: Tensor, bias: Tensor, case: Case, pieces: int) -> list[Tensor]:
    return after_conv(x, bias, pieces=pieces, **case)


def plain_steps(x: Tensor, bias: Tensor, case: Case) -> Tensor:
    """One after the other, by PyTorch's own functions."""
    x = x + bias[:, None, None]
    x = x.relu() if case["relu"] else x
    if norm := case["norm"]:
        columns = x.chunk(case["groups"], 1)
        x = torch.cat([F.local_response_norm(c, norm.size, norm.torch_alpha, norm.beta, norm.k) for c in columns], 1)
    x = F.max_pool2d(x, *case["pool"], ceil_mode=True)
    return x.relu() if case["relu_last"] else x


def run_steps(
    ours: Callable[[Tensor, Tensor, Case, int], list[Tensor]],
    case: Case,
    pieces: int,
    dtype: torch.dtype,
    device: torch.device,
    shape: tuple[int, ...] = (2, 24, 13, 14),
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Maps and gradients of `ours` in `dtype`, and of the plain form in float64 from the same numbers."""
    x = (torch.randn(shape, device=device) * 60).to(dtype).to(memory_format=torch.channels_last)
    bias = torch.randn(shape[1], device=device)
    made: list[dict[str, Tensor]] = []
    grad: Tensor | None = None
    for own in (True, False):
        x_own = (x if own else x.double()).detach().requires_grad_()
        bias_own = (bias if own else bias.double()).detach().requires_grad_()
        out = torch.cat(ours(x_own, bias_own, case, pieces), 1) if own else plain_steps(x_own, bias_own, case)
        grad = torch.randn_like(out) if grad is None else grad
        out.backward(grad.to(out.dtype))
        made.append({"maps": out.detach(), "gradient": x_own.grad, "of the bias": bias_own.grad})
    return made[0], made[1]


def error(found: Tensor, expected: Tensor) -> float:
    """Relative, in the 2-norm."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()
