"""Hugging Face's imagenet-1k, and data sets of the same make: parquet files with the columns image and label.

    SRC/data/train-00000-of-00294.parquet ...            or in SRC itself, or in folders named after the split
    SRC/data/validation-00000-of-00014.parquet ...
    SRC/data/test-00000-of-00028.parquet ...             without labels: left out

`image` holds whole image files, struct{bytes, path}; `label` counts the classes, or names them. Images are read where
they lie, row by row, never more than a few at a time, however large the row groups are.
"""

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_prep.common.errors import RequestError
from data_prep.common.text import one_line
from data_prep.sources.base import Listing, Source, SourceImage
from data_prep.sources.ilsvrc import ILSVRC2012
from data_prep.sources.inventory import is_system, refuse_missing_parts
from data_prep.sources.labels import SPLIT_OF, SPLITS, name_and_wnid, provisional, resolve

_BATCH_BYTES = 1 << 20  # of images decoded at a time


def recognises(src: Path) -> bool:
    return "train" in _files(src)


def _files(src: Path) -> dict[str, list[Path]]:
    """The files of each split, which their names begin with, or their folder is called."""
    files: dict[str, list[Path]] = defaultdict(list)
    for folder in (src, src / "data", *(place / name for place in (src, src / "default") for name in SPLIT_OF)):
        for path in sorted(folder.glob("*.parquet")):
            named = re.split(r"[-_.]", path.name.lower())[0]
            split = SPLIT_OF.get(named) or SPLIT_OF.get(folder.name)
            if split and not is_system(path.name):
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
    if "train" not in files:
        raise RequestError(f"src={src}: needs parquet files of train; found those of {', '.join(files) or 'no split'}")
    for paths in files.values():
        refuse_missing_parts(paths)
    names: list[str] = []

    def rows(paths: list[Path]) -> Iterator[ParquetImage]:
        for path in paths:
            try:
                with pyarrow.parquet.ParquetFile(path) as file:
                    yield from _rows(file, path)
                    if not names:
                        names.extend(_class_names(file.schema_arrow.metadata))
            except (pyarrow.ArrowException, OSError) as error:
                reason = one_line(error)
                raise RequestError(f"{path}: cannot be read as parquet ({reason}); download it again") from None

    listed = {split: Listing(rows(files[split])) for split in SPLITS if split in files}  # which finds the names, too
    splits, class_names, left_out = resolve(listed, names)
    source = Source(
        "parquet files as Hugging Face has them", src, splits, class_names, slow_at_random=True, left_out=left_out,
        no_val=f"needs parquet files of train and of validation; found {' and '.join(files)}",
    )  # fmt: skip
    if "train" in splits and ILSVRC2012.are_its_classes(splits["train"].class_counts()):
        source.complete = ILSVRC2012.complete
    return source


def _rows(file: Any, path: Path) -> Iterator["ParquetImage"]:
    """The image of every row, from the small columns alone, with a provisional class."""
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
        if odd := {type(label).__name__ for label in labels} - {"int", "str", "NoneType"}:
            raise RequestError(f"{path}: a label is a {min(odd)}; it must be a whole number or text")
        images = table.column("image").to_pylist() if len(wanted) == 2 else [None] * len(labels)
        for label, image in zip(labels, images, strict=True):
            name, wnid = name_and_wnid((image or {}).get("path") or f"{path.stem}-{row:08d}")
            yield ParquetImage(name, provisional(label, wnid), str(path), row, size)
            row += 1


def _class_names(metadata: dict[bytes, bytes] | None) -> list[str]:
    """What label 0, 1, ... are called, as the `datasets` library writes it into the files; [] if it did not."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


@dataclass(frozen=True, slots=True)
class ParquetImage(SourceImage):
    """`offset` is the row in the file; `size` an estimate."""

    def read(self, most: int) -> bytes:
        """OSError if the file is damaged or has become another."""
        import pyarrow

        try:
            return _Cursor(self.path).bytes_of(self.offset)[:most]
        except (pyarrow.ArrowException, IndexError, KeyError, StopIteration) as error:
            raise OSError(f"row {self.offset}: {one_line(error)}") from None


@lru_cache(maxsize=1)  # one file at a time is enough for reading in the source's order
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
