"""The pickled batches of CIFAR-10 and of downsampled ImageNet, read without calling what a pickle may name."""

import pickle
import struct
from typing import Any, BinaryIO

import numpy as np

# What a damaged batch makes `unpickled` raise.
DAMAGE = (
    pickle.UnpicklingError, struct.error, OSError, EOFError, RecursionError, AttributeError, LookupError, TypeError,
    ValueError,
)  # fmt: skip

_NEEDED_BY_BATCHES = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _PlainUnpickler(pickle.Unpickler):
    """A pickle can name any function to be called; the published batches name these, and no other is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NEEDED_BY_BATCHES:
            return super().find_class(module, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # wherever this numpy keeps it
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of images needs")


def unpickled(file: BinaryIO) -> dict[str, Any]:
    """What a pickled batch holds. ValueError if it is no dict, whatever is in DAMAGE if it cannot be read."""
    batch = _PlainUnpickler(file, encoding="latin1").load()
    if not isinstance(batch, dict):
        raise ValueError(f"holds a {type(batch).__name__}")
    return batch
