"""A faithful reproduction of AlexNet (Krizhevsky, Sutskever and Hinton, 2012).

For notebooks and scripts (docs/python.md): the names below. They are imported when they are first used, as PyTorch
takes seconds and the commands answer --help and wrong requests without it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_repro.library import AlexNet, PreparedDataset, TrainedAlexNet, initialise, load_run, place, transform

__all__ = ["AlexNet", "PreparedDataset", "TrainedAlexNet", "initialise", "load_run", "place", "transform"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from alexnet_repro import library

    return getattr(library, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
