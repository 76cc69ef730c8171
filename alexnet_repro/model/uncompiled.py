"""What stays outside of the graphs of torch.compile."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def uncompiled(function: Function) -> Function:
    """As torch.compiler.disable, which takes a second to load the compiler, but only where something is compiled."""

    @wraps(function)
    def call(*args):  # type: ignore[no-untyped-def]
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args)
        return function(*args)

    return call  # type: ignore[return-value]
