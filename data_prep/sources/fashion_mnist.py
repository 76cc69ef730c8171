"""Fashion-MNIST: four idx files, compressed (.gz) or not, in SRC, SRC/raw, or where torchvision lays them.

SRC/FashionMNIST/raw/
    train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz     uint8 [N, 28, 28] behind a header
    train-labels-idx1-ubyte.gz, t10k-labels-idx1-ubyte.gz     uint8 [N]
"""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.common.errors import RequestError
from data_prep.sources import arrays
from data_prep.sources.base import Source

GARMENTS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
IDX = {"train": "train", "val": "t10k"}  # <name>-images-idx3-ubyte and <name>-labels-idx1-ubyte, or the same with .gz
LOCAL = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist


def recognises(src: Path) -> bool:
    """MNIST's files have the same names: only what the folder is called tells the two apart."""
    folder = _idx_folder(src)
    return folder is not None and any("fashion" in part.lower() for part in folder.resolve().parts[-2:])


def read(src: Path) -> Source:
    """60,000 + 10,000 grey images of 28x28 in ten classes. RequestError if a file is missing or damaged."""
    folder = _idx_folder(src) or _idx_folder(LOCAL)
    if folder is None:
        arrays.download("FashionMNIST", src, "the four *-idx?-ubyte.gz files")
        folder = src / "FashionMNIST" / "raw"
    splits = {}
    for split, prefix in IDX.items():
        images, labels = _idx(folder, f"{prefix}-images-idx3-ubyte", 3), _idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
        splits[split] = arrays.images([images[..., None]], labels.tolist(), split, folder, len(GARMENTS))
    source = arrays.source("Fashion-MNIST's idx files", folder, GARMENTS, splits, per_class=(6000, 1000))
    source.channels = 1
    return source


def _idx_folder(src: Path) -> Path | None:
    """Where the files of train lie: in `src` itself, or as torchvision lays them below it."""
    for folder in (src, src / "raw", src / "FashionMNIST" / "raw"):
        if any((folder / f"{IDX['train']}-images-idx3-ubyte{ending}").is_file() for ending in ("", ".gz")):
            return folder
    return None


def _idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """An idx file of unsigned bytes: 0, 0, 8, the number of dimensions; their sizes, big-endian; the bytes."""
    path = next((path for path in (folder / name, folder / (name + ".gz")) if path.is_file()), None)
    if path is None:
        raise RequestError(f"{folder}: {name}, or {name}.gz, is missing; download it again")
    opener: Callable[[Path, str], Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4 + 4 * dimensions)
            if head[:4] != bytes([0, 0, 8, dimensions]):
                raise ValueError("no idx file of bytes")
            shape = np.frombuffer(head, ">u4", dimensions, 4).astype(np.int64)
            length = int(shape.prod())
            if length > 1 << 30:
                raise ValueError(f"claims {length} bytes")
            data = file.read(length + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RequestError(f"{path}: cannot be read ({error}); download it again") from None
    if len(data) != length:
        raise RequestError(f"{path}: has not the {length} bytes that it should have; download it again")
    return np.frombuffer(data, np.uint8).reshape(shape)
