"""What stays outside of the graphs of torch.compile."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def uncompiled(function: Function) -> Function:
    """Keeps `function` out of compiled graphs, as torch.compiler.disable does. That one imports torch._dynamo when a
    function is decorated, which takes a second; this one imports it only while something is compiled.
    """

    @wraps(function)
    def call(*args, **kwargs):  # type: ignore[no-untyped-def]
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
