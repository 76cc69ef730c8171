"""CUDA graphs without a GPU, for the tests: a capture writes down every operation and every kernel of Triton's
interpreter, and changes no memory that was there before; a replay does them on the memory of the capture, whatever
Python would compute by then.

Streams are not imitated, and memory that a capture frees is not used again: faults of order or of lifetime are not
found here.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

_launch = GridExecutor.__call__


class Graph:
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def replay(self) -> None:
        with torch.no_grad():
            for call in self.calls:
                call()


class Capture(TorchDispatchMode):
    """Stands for torch.cuda.graph."""

    current: ClassVar["Capture | None"] = None
    default_capture_stream: Any = None

    def __init__(self, graph: Graph, **_options: object) -> None:
        super().__init__()
        self.graph = graph

    def __enter__(self) -> "Capture":
        Capture.current = self
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        Capture.current = None
        super().__exit__(*raised)

    def __torch_dispatch__(self, function: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default, "the host waits for a number"
        if function._schema.is_mutable:
            written = [arg for arg, of in zip(args, function._schema.arguments, strict=False) if of.is_write]
            results = written[0] if function._schema.returns else None
        else:
            Capture.current = None  # what happens within is part of this operation
            results = function(*args, **(kwargs or {}))
            Capture.current = self
        if "empty" in function.__name__:
            return results.zero_()  # not cleared at a replay: what is read before it is written is of the last one
        self.graph.calls.append(partial(_do_again, function, args, kwargs or {}, results))
        return results


def _do_again(function: Any, args: Any, kwargs: Any, results: Any) -> None:
    for old, new in zip(tree_leaves(results), tree_leaves(function(*args, **kwargs)), strict=True):
        if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # neither a view nor written in place
            old.copy_(new)


def _launch_or_write_down(executor: GridExecutor, *args: Any, **kwargs: Any) -> None:
    if Capture.current is None:
        return _launch(executor, *args, **kwargs)
    Capture.current.graph.calls.append(partial(_launch, executor, *args, **kwargs))


class _Stream:
    def __init__(self, *_: object) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass


def record_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the CPU takes graphs as a GPU does."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(GridExecutor, "__call__", _launch_or_write_down)
