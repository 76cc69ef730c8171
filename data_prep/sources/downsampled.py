"""ImageNet scaled down to 8x8, 16x16, 32x32 or 64x64 pixels, in batches of arrays, as image-net.org offers it.

    SRC/train_data_batch_1 ... train_data_batch_10, val_data       pickled, or .npz: uint8 [N, 3 x S x S], labels from 1
    SRC/map_clsloc.txt     n02119789 1 kit_fox: the class of every label; without it the numbers are the classes

Each batch of 128,116 images is one array, of 0.4 GB (32x32) or 1.6 GB (64x64): .npz files are read in place, pickled
ones (and compressed .npz) batch by batch, one of them in memory at a time.
"""

import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_prep.common.errors import RequestError
from data_prep.common.text import one_line
from data_prep.sources import zips
from data_prep.sources.base import Listing, Source, SourceImage, as_pnm
from data_prep.sources.ilsvrc import ILSVRC2012
from data_prep.sources.inventory import entries
from data_prep.sources.pickles import DAMAGE, unpickled

MAP = "map_clsloc.txt"

_BATCH = re.compile(r"(train_data_batch_(\d+)|val_data)(\.npz)?")
_DAMAGE = (*DAMAGE, zipfile.BadZipFile, zlib.error, SyntaxError, MemoryError)


@dataclass(frozen=True, slots=True)
class BatchImage(SourceImage):
    """`offset` is the row in the batch; `start` where its pixels begin in an .npz that is not compressed, or -1."""

    start: int
    side: int

    def read(self, most: int) -> bytes:
        """As a portable pixmap. OSError if the file is shorter than it was."""
        if self.start < 0:
            rows = _rows(self.path)
            if self.offset >= len(rows):
                raise OSError(f"it has {len(rows)} rows, and not row {self.offset}")
            planes = rows[self.offset].tobytes()
        else:
            planes = SourceImage("", "", self.path, self.start, self.size).read(self.size)
        pixels = np.frombuffer(planes, np.uint8).reshape(3, -1).T
        return as_pnm(pixels.tobytes(), self.side, self.side, 3)


def recognises(src: Path) -> bool:
    return bool(_batches(src, "train"))


def _batches(src: Path, split: str) -> list[Path]:
    """The batches of a split in their order, in SRC or in folders in it (Imagenet32_train_npz/)."""
    found: dict[int, Path] = {}
    below = entries(src)
    inside = [path for folder in below if folder.is_dir() for path in entries(folder)]
    for path in (*below, *inside):
        match = _BATCH.fullmatch(path.name)
        if match and match[1].startswith(split) and path.is_file():
            number = int(match[2] or 0)
            if number in found:
                raise RequestError(f"src={src}: {found[number]} and {path} are the same batch; move one of them away")
            found[number] = path
    if absent := sorted(set(range(1, max(found, default=0))) - set(found)):
        raise RequestError(f"src={src}: train_data_batch_{absent[0]} is missing, of {max(found)}; download it")
    return [found[number] for number in sorted(found)]


def read(src: Path) -> Source:
    """RequestError if a batch is damaged."""
    classes = _classes(src)
    splits, side = {}, 0
    for split in ("train", "val"):
        listed = Listing(image for path in _batches(src, split) for image in _images(path, classes))
        if listed:
            splits[split] = listed
            side = math.isqrt(listed[0].size // 3)
    in_place = all(getattr(images[0], "start", -1) >= 0 for images in splits.values())
    return Source(
        "downsampled ImageNet's batches", src, splits, {wnid: name for wnid, name in classes.values() if name},
        ILSVRC2012.complete, side=side, slow_at_random=not in_place, no_val="val_data is missing",
    )  # fmt: skip


def _classes(src: Path) -> dict[int, tuple[str, str]]:
    """{label: (wnid, name)}; {} without the list."""
    path = src / MAP
    if not path.is_file():
        return {}
    lines = [line.split(maxsplit=2) for line in path.read_text("utf-8-sig", "replace").splitlines() if line.strip()]
    try:
        return {int(line[1]): (line[0], line[2].replace("_", " ") if len(line) > 2 else "") for line in lines}
    except (IndexError, ValueError):
        raise RequestError(f"{path}: no list of wnid, label, name; download it again") from None


def _images(path: Path, classes: dict[int, tuple[str, str]]) -> Iterator[SourceImage]:
    try:
        labels, rows, start = _layout(path)
        if len(labels) != rows[0]:
            raise ValueError(f"{rows[0]:,} images, but {len(labels):,} labels")
        side = math.isqrt(rows[1] // 3)
        if 3 * side * side != rows[1]:
            raise ValueError(f"{rows[1]} values are no square of three colours")
    except _DAMAGE as error:
        reason = one_line(error)
        raise RequestError(f"{path}: cannot be read as a batch of images ({reason}); download it again") from None
    if classes and (odd := set(labels) - classes.keys()):
        raise RequestError(f"{path}: label {min(odd)} is not in {MAP}; download that again, or take it away")
    stem = path.name.removesuffix(".npz")
    for row, label in enumerate(labels):
        wnid = classes[label][0] if classes else f"{label:04d}"
        place = start + row * rows[1] if start >= 0 else -1
        yield BatchImage(f"{stem}-{row:06d}", wnid, str(path), row, rows[1], place, side)


def _layout(path: Path) -> tuple[list[int], tuple[int, int], int]:
    """The labels; images and bytes of each; where the first begins in the file, or -1."""
    if path.suffix != ".npz":
        with path.open("rb") as file:
            batch = unpickled(file)
        return [int(label) for label in batch["labels"]], _shape(np.asarray(batch["data"])), -1
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
        labels = [int(label) for label in arrays["labels"]]
        info = archive.getinfo("data.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            return labels, _shape(arrays["data"]), -1
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(member)
            header = member.tell()
        if fortran or dtype != np.uint8 or len(shape) != 2:
            raise ValueError(f"data is {dtype} {list(shape)}, not uint8 [images, values]")
        with path.open("rb") as file:
            file.seek(info.header_offset)
            local = file.read(30)
        start = info.header_offset + zips.data_offset(local)
        return labels, (shape[0], shape[1]), start + header


def _shape(data: np.ndarray) -> tuple[int, int]:
    if data.dtype != np.uint8 or data.ndim != 2:
        raise ValueError(f"data is {data.dtype} {list(data.shape)}, not uint8 [images, values]")
    return data.shape[0], data.shape[1]


@lru_cache(maxsize=1)  # one batch in memory is enough for reading in the source's order
def _rows(path: str) -> np.ndarray:
    """The pixels of a batch, an image a row. OSError if the file has changed."""
    try:
        with Path(path).open("rb") as file:
            batch = np.load(file, allow_pickle=False) if path.endswith(".npz") else unpickled(file)
            return np.asarray(batch["data"])
    except _DAMAGE as error:
        raise OSError(one_line(error)) from None
