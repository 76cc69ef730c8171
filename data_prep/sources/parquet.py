"""Hugging Face's imagenet-1k, and data sets of the same make: parquet files with the columns image and label.

    SRC/data/train-00000-of-00294.parquet ...            or in SRC itself, or in folders named after the split
    SRC/data/validation-00000-of-00014.parquet ...
    SRC/data/test-00000-of-00028.parquet ...             without labels: left out

`image` holds whole image files, struct{bytes, path}; `label` counts the classes. Images are read where they lie, row by
row, never more than a few at a time, however large the row groups are.
"""

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.common.errors import RequestError
from data_prep.common.text import encodable
from data_prep.sources.base import Source, SourceImage
from data_prep.sources.ilsvrc import ILSVRC2012

_SPLITS = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}
_BATCH_BYTES = 1 << 20  # of images decoded at a time

# n01440764_10026_n01440764.JPEG and ILSVRC2012_val_00000001_n01751748.JPEG: the official name, then the class.
_NAME_AND_WNID = re.compile(r"(?P<stem>.+)_(?P<wnid>n\d{8})(?P<ending>\.\w+)")
_NAME_OF_WNID = re.compile(r"(?P<wnid>n\d{8})_\d+\.\w+")

_Labelled = tuple["ParquetImage", int]


def recognises(src: Path) -> bool:
    return "train" in _files(src)


def _files(src: Path) -> dict[str, list[Path]]:
    """By split, which the file's name begins with, or its folder is called."""
    files: dict[str, list[Path]] = defaultdict(list)
    for folder in (src, src / "data", *(src / name for name in _SPLITS), *(src / "default" / name for name in _SPLITS)):
        for path in sorted(folder.glob("*.parquet")) if folder.is_dir() else ():
            named = re.split(r"[-_.]", path.name)[0]
            if split := _SPLITS.get(named) or _SPLITS.get(folder.name):
                files[split].append(path)
    return files


def read(src: Path) -> Source:
    """RequestError if pyarrow is not installed, or the files are damaged or of another make."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise RequestError(
            f"src={src}: parquet files need pyarrow, which is not installed; .venv/bin/pip install -e '.[parquet]'"
        ) from None
    files = _files(src)
    if not {"train", "val"} <= set(files):
        found = ", ".join(files) or "none"
        raise RequestError(f"src={src}: needs parquet files of train and of validation; found {found}")
    rows: dict[str, list[_Labelled]] = {}
    left_out: list[str] = []
    names: list[str] = []
    for split, paths in files.items():
        listed: list[_Labelled] = []
        for path in paths:
            with _one_line_if_damaged(path), pyarrow.parquet.ParquetFile(path) as file:
                listed += _rows(file, path)
                names = names or _class_names(file.schema_arrow.metadata)
        labelled = [(image, label) for image, label in listed if label >= 0]
        if len(labelled) < len(listed):
            left_out.append(f"{len(listed) - len(labelled):,} {split} images have no label (-1)")
        if labelled:
            rows[split] = labelled
    key_of = _class_keys(rows, names)
    splits: dict[str, list[SourceImage]] = {
        split: [replace(image, wnid=key_of[label]) for image, label in rows[split]]
        for split in ("train", "val", "test")
        if split in rows
    }
    class_names = {key_of[label]: name for label, name in enumerate(names) if label in key_of}
    source = Source(
        "parquet files as Hugging Face has them", src, splits, class_names, slow_at_random=True, left_out=left_out
    )
    if len(key_of) == 1000 and all(re.fullmatch(r"n\d{8}", key) for key in key_of.values()):
        source.complete = ILSVRC2012.complete
        source.per_class, source.per_class_is_least = ILSVRC2012.least(key_of.values()), True
    return source


def _rows(file: Any, path: Path) -> Iterator[_Labelled]:
    """(image, label) of every row, from the small columns alone; `wnid` is what its name says, or ""."""
    leaves = [file.schema.column(i).path for i in range(len(file.schema))]
    if "image.bytes" not in leaves or "label" not in leaves:
        raise RequestError(f"{path}: needs the columns image (bytes, path) and label; found {', '.join(leaves)}")
    row = 0
    for group in range(file.num_row_groups):
        meta = file.metadata.row_group(group)
        # Images hardly compress: what the group takes, by its rows, is as near as can be had without reading it.
        size = meta.column(leaves.index("image.bytes")).total_compressed_size // max(1, meta.num_rows)
        wanted = ["label", *(["image.path"] if "image.path" in leaves else [])]
        table = file.read_row_group(group, columns=wanted)
        labels = table.column("label").to_pylist()
        images = table.column("image").to_pylist() if len(wanted) == 2 else [None] * len(labels)
        for label, image in zip(labels, images, strict=True):
            name, wnid = _name_and_wnid((image or {}).get("path") or f"{path.stem}-{row:08d}")
            yield ParquetImage(name, wnid, str(path), row, size), -1 if label is None else label
            row += 1


def _name_and_wnid(path: str) -> tuple[str, str]:
    name = encodable(PurePosixPath(path).name)
    if match := _NAME_AND_WNID.fullmatch(name):
        return match["stem"] + match["ending"], match["wnid"]
    match = _NAME_OF_WNID.fullmatch(name)
    return name, match["wnid"] if match else ""


def _class_names(metadata: dict[bytes, bytes] | None) -> list[str]:
    """Of label 0, 1, ..., as the `datasets` library writes them into the files; [] if it did not."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _class_keys(rows: dict[str, list[_Labelled]], names: list[str]) -> dict[int, str]:
    """Label -> the class's key in the data set, by which classes are sorted.

    Keys are the wnids, where the images' names give one for each label; then all is as it is from the official
    archives. Else the classes' names, if their order is that of the labels, as it is where the data set was made from
    folders. Else the labels as numbers.
    """
    wnids: dict[int, set[str]] = defaultdict(set)
    labels = {label for listed in rows.values() for _, label in listed}
    for listed in rows.values():
        for image, label in listed:
            if image.wnid:
                wnids[label].add(image.wnid)
    known = {label: next(iter(found)) for label, found in wnids.items() if len(found) == 1}
    if labels <= set(known) and len(set(known.values())) == len(known):
        return known
    if labels <= set(range(len(names))) and all(a < b for a, b in pairwise(names)):
        return dict(enumerate(names))
    width = len(str(max([*labels, len(names) - 1], default=0)))
    return {label: f"{label:0{width}d}" for label in labels}


@dataclass(frozen=True, slots=True)
class ParquetImage(SourceImage):
    """`offset` is the row in the file; `size` an estimate."""

    def read(self, most: int) -> bytes:
        """OSError if the file is damaged or has become another."""
        import pyarrow

        try:
            return _cursor_at(self.path).bytes_of(self.offset)[:most]
        except (pyarrow.ArrowException, IndexError, KeyError, StopIteration) as error:
            raise OSError(f"row {self.offset}: {' '.join(str(error).split()) or type(error).__name__}") from None


class _Cursor:
    """Where this process is in one file. The next row costs nothing but itself; another one, its row group up to it."""

    def __init__(self, path: str) -> None:
        import pyarrow.parquet

        self.file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        meta = self.file.metadata
        self.starts = [0]
        largest = 1
        for group in range(meta.num_row_groups):
            rows, taken = meta.row_group(group).num_rows, meta.row_group(group).total_byte_size
            self.starts.append(self.starts[-1] + rows)
            largest = max(largest, taken // max(1, rows))
        self.batch_rows = max(1, min(256, _BATCH_BYTES // largest))
        self.batches: Iterator[Any] = iter(())
        self.first, self.images, self.group = 0, None, -1

    def bytes_of(self, row: int) -> bytes:
        if not 0 <= row < self.starts[-1]:
            raise IndexError(f"the file has {self.starts[-1]} rows")
        group = bisect_right(self.starts, row) - 1
        if group != self.group or row < self.first:
            self.group, self.first, self.images = group, self.starts[group], None
            self.batches = self.file.iter_batches(self.batch_rows, [group], ["image.bytes"], use_threads=False)
        while self.images is None or row >= self.first + len(self.images):
            self.first += 0 if self.images is None else len(self.images)
            self.images = next(self.batches).column("image").flatten()[0]
        return self.images[row - self.first].as_py() or b""


@lru_cache(maxsize=1)  # one file at a time is enough for reading in the source's order
def _cursor_at(path: str) -> _Cursor:
    return _Cursor(path)


@contextmanager
def _one_line_if_damaged(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"{path}: cannot be read as parquet ({reason}); download it again") from None
