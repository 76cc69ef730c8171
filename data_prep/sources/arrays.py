"""The small sets that torchvision has, in the files in which they are published: Fashion-MNIST and CIFAR-10.

A copy on this machine is read where it lies, compressed or not; only where there is none does torchvision download one.
Their official test set, the only other part that is published, is `val` here, as the tables of both sets use it.
"""

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_prep.command import RequestError
from data_prep.sources.base import PixelImage, Source, SourceImage

GARMENTS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
IDX = {"train": "train", "val": "t10k"}  # <name>-images-idx3-ubyte and <name>-labels-idx1-ubyte, or the same with .gz
LOCAL_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
CIFAR_FOLDER, CIFAR_ARCHIVE, CIFAR_NAMES = "cifar-10-batches-py", "cifar-10-python.tar.gz", "batches.meta"
CIFAR_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "val": ["test_batch"]}

_DAMAGE = (
    pickle.UnpicklingError, tarfile.TarError, zlib.error, OSError, EOFError,
    AttributeError, IndexError, KeyError, TypeError, ValueError,
)  # fmt: skip


def recognises_fashion_mnist(src: Path) -> bool:
    """MNIST's files have the same names: only what the folder is called tells the two apart."""
    folder = _idx_folder(src)
    return folder is not None and any("fashion" in part.lower() for part in folder.resolve().parts[-2:])


def read_fashion_mnist(src: Path) -> Source:
    """60,000 + 10,000 grey pictures of 28x28 in ten classes. RequestError if a file is missing or damaged."""
    folder = _idx_folder(src) or _idx_folder(LOCAL_FASHION_MNIST)
    if folder is None:
        _download("FashionMNIST", src, "the four *-idx?-ubyte.gz files")
        folder = src / "FashionMNIST" / "raw"
    splits = {}
    for split, prefix in IDX.items():
        images, labels = _idx(folder, f"{prefix}-images-idx3-ubyte", 3), _idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
        splits[split] = _pictures(images[..., None], labels.tolist(), split, folder, len(GARMENTS))
    source = _source("Fashion-MNIST's idx files", folder, GARMENTS, splits, per_class=(6000, 1000))
    source.channels = 1
    return source


def recognises_cifar10(src: Path) -> bool:
    return _cifar_place(src) is not None


def read_cifar10(src: Path) -> Source:
    """50,000 + 10,000 colour pictures of 32x32 in ten classes. RequestError if a file is missing or damaged."""
    place = _cifar_place(src)
    if place is None:
        _download("CIFAR10", src, CIFAR_ARCHIVE)
        place = src / CIFAR_FOLDER
    wanted = [CIFAR_NAMES, *(name for names in CIFAR_BATCHES.values() for name in names)]
    try:
        files = _cifar_files(place, wanted)
        if missing := [name for name in wanted if name not in files]:
            raise RequestError(f"{place}: {missing[0]} is missing; it needs {', '.join(wanted)}")
        words = [str(name) for name in files[CIFAR_NAMES]["label_names"]]
        splits: dict[str, list[SourceImage]] = {}
        for split, names in CIFAR_BATCHES.items():
            pixels = np.concatenate([np.asarray(files[name]["data"], np.uint8) for name in names])
            labels = [int(label) for name in names for label in files[name]["labels"]]
            planes = pixels.reshape(-1, 3, 32, 32)  # red, green, blue, each row by row
            splits[split] = _pictures(planes.transpose(0, 2, 3, 1), labels, split, place, len(words))
    except RequestError:
        raise
    except _DAMAGE as error:
        raise RequestError(f"{place}: cannot be read as CIFAR-10 ({error}); download it again") from None
    return _source("CIFAR-10's batches", place, words, splits, per_class=(5000, 1000))


def _source(
    layout: str, path: Path, words: list[str], splits: dict[str, list[SourceImage]], per_class: tuple[int, int]
) -> Source:
    keys = [str(label) for label in range(len(words))]
    sizes = dict(zip(("train", "val"), per_class, strict=True))
    side = next((image.shape[0] for image in splits["train"] if isinstance(image, PixelImage)), None)
    return Source(
        layout,
        path,
        dict(zip(keys, words, strict=True)),
        splits,
        complete={split: size * len(words) for split, size in sizes.items()},
        per_class={split: dict.fromkeys(keys, size) for split, size in sizes.items()},
        side=side,
    )


def _pictures(pixels: np.ndarray, labels: list[int], split: str, path: Path, classes: int) -> list[SourceImage]:
    """uint8 [N, height, width, channels] and N labels."""
    if len(pixels) != len(labels):
        raise RequestError(f"{path}: {len(pixels)} {split} pictures, but {len(labels)} labels; download it again")
    if odd := [label for label in labels if not 0 <= label < classes]:
        raise RequestError(f"{path}: label {odd[0]} in {split}; there are {classes} classes; download it again")
    height, width, channels = pixels.shape[1:]
    return [
        PixelImage(
            f"{split}-{i:05d}", str(label), str(path), i, picture.nbytes, picture.tobytes(), (height, width, channels)
        )
        for i, (picture, label) in enumerate(zip(pixels, labels, strict=True))
    ]


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


def _cifar_place(src: Path) -> Path | None:
    if (src / CIFAR_BATCHES["train"][0]).is_file():
        return src
    folder, archive = src / CIFAR_FOLDER, src / CIFAR_ARCHIVE
    return folder if folder.is_dir() else archive if archive.is_file() else None


def _cifar_files(place: Path, wanted: Iterable[str]) -> dict[str, dict[str, Any]]:
    if place.is_dir():
        return {
            name: _unpickled(io.BytesIO((place / name).read_bytes())) for name in wanted if (place / name).is_file()
        }
    found = {}
    with tarfile.open(place) as tar:
        for member in tar:
            name = Path(member.name).name
            if name in wanted and member.isfile() and (file := tar.extractfile(member)):
                found[name] = _unpickled(file)  # type: ignore[arg-type]
    return found


_NEEDED_BY_BATCHES = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _PlainUnpickler(pickle.Unpickler):
    """A pickle can name any function to be called; the published batches name these, and no other is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NEEDED_BY_BATCHES:
            return super().find_class(module, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # wherever this numpy keeps it
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 needs")


def _unpickled(file: BinaryIO) -> dict[str, Any]:
    content = _PlainUnpickler(file, encoding="latin1").load()
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}")
    return content


def _download(name: str, folder: Path, files: str) -> None:
    """By torchvision, which checks what it gets."""
    import torchvision

    print(f"src={folder}: no copy of {name} there; torchvision downloads it")
    try:
        for train in (True, False):
            getattr(torchvision.datasets, name)(folder, train=train, download=True)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors
        reason = " ".join(str(error).split())
        raise RequestError(
            f"src={folder}: no copy of {name} there, and it cannot be downloaded ({reason}); put {files} there"
        ) from None
