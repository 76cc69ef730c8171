"""The prepared data set on disk: the one contract between preparation and training, both its sides.

    OUT/manifest.json     written last: a folder without it is not finished
    OUT/mean.npy          float32 [S, S, C], 0..255: the mean training image
    OUT/train/shard-00000.tar ...   plain POSIX tars in the WebDataset convention: 000000123.jpg + 000000123.cls
    OUT/train/index.npy   one row a picture (shard, offset, length, label): random access without reading the tars
    OUT/val/ [OUT/test/]  the same

Everything is written under a temporary name, synced, and renamed.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from data_prep.command import RequestError, RunError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MEAN = "mean.npy"
INDEX = "index.npy"
INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i4"), ("label", "<i4")])


@dataclass
class ShardInfo:
    file: str  # relative to the split's folder
    images: int
    bytes: int
    sha256: str


@dataclass
class SplitInfo:
    images: int
    per_class: list[int]  # in label order
    shards: list[ShardInfo]


@dataclass
class ClassInfo:
    wnid: str  # or the folder's name
    words: str


@dataclass
class Rejected:
    split: str
    name: str
    reason: str


@dataclass
class Manifest:
    name: str
    source: dict[str, Any]  # layout, path, what was understood
    classes: list[ClassInfo]  # in label order: sorted wnids or folder names
    image_size: int
    channels: int
    encoding: str
    preparation: dict[str, Any]  # the settings and library versions that the pixels follow from
    statistics: dict[str, Any]  # rgb_mean, rgb_covariance on 0..255, from which the PCA follows
    splits: dict[str, SplitInfo]
    rejected: list[Rejected] = field(default_factory=list)
    format_version: int = FORMAT_VERSION

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        write_atomically(folder / MANIFEST, lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Raises RequestError if `folder` holds no finished data set of this format."""
        path = folder / MANIFEST
        if not path.is_file():
            raise RequestError(
                f"{folder}: no prepared data set here ({MANIFEST} is missing); prepare one with "
                f"`make prepare-imagenet SRC=/path/to/archives OUT={folder}`, or `make sample` for the embedded one"
            )
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            found = raw["format_version"]
        except (ValueError, KeyError, TypeError):
            raise RequestError(f"{path}: not a manifest of a prepared data set; prepare the data again") from None
        if found != FORMAT_VERSION:
            raise RequestError(
                f"{path}: format version {found}, but this program reads {FORMAT_VERSION}; prepare again"
            )
        raw["classes"] = [ClassInfo(**c) for c in raw["classes"]]
        raw["rejected"] = [Rejected(**r) for r in raw["rejected"]]
        raw["splits"] = {
            name: SplitInfo(s["images"], s["per_class"], [ShardInfo(**shard) for shard in s["shards"]])
            for name, s in raw["splits"].items()
        }
        return cls(**raw)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """`path` holds either what it held before or all that `write` wrote, whenever the program or the machine stops."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def encode(image: np.ndarray, encoding: str, jpeg_quality: int) -> tuple[str, bytes]:
    """uint8 [S, S, C] -> (member suffix, bytes)."""
    buffer = io.BytesIO()
    if encoding == "raw":
        np.save(buffer, image)
        return "npy", buffer.getvalue()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=jpeg_quality)
    return "jpg", buffer.getvalue()


def decode(data: bytes | memoryview, encoding: str) -> np.ndarray:
    """The bytes of one member -> uint8 [S, S, C]."""
    if encoding == "raw":
        array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        return array
    array = np.asarray(Image.open(io.BytesIO(data)))
    return array[..., None] if array.ndim == 2 else array


class ShardWriter:
    """One shard, image by image; `close` renames it into place and returns its manifest entry and index rows."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number
        self.partial = path.with_name(path.name + ".partial")
        self._file = self.partial.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._rows: list[tuple[int, int, int, int]] = []

    def add(self, key: int, suffix: str, data: bytes, label: int) -> None:
        offset = self._add_member(f"{key:09d}.{suffix}", data)
        self._add_member(f"{key:09d}.cls", str(label).encode())
        self._rows.append((self.number, offset, len(data), label))

    def _add_member(self, name: str, data: bytes) -> int:
        """The offset of the member's bytes in the file."""
        info = tarfile.TarInfo(name)  # owner, time and mode stay at fixed values: same pictures, same bytes
        info.size = len(data)
        offset = self._file.tell() + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(data))
        return offset

    def close(self) -> tuple[ShardInfo, np.ndarray]:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        info = ShardInfo(self.path.name, len(self._rows), self.partial.stat().st_size, sha256_of(self.partial))
        self.partial.replace(self.path)
        return info, np.array(self._rows, dtype=INDEX_DTYPE)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.tar"


class SplitReader:
    """Random access to one split through its index: `reader[i]` is (uint8 [S, S, C], label).

    Shards are opened on first use, in whichever process reads them.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        if split not in manifest.splits:
            raise RequestError(f"{folder}: has no split {split!r}; it has {', '.join(manifest.splits)}")
        self.folder = folder / split
        self.encoding = manifest.encoding
        self.info = manifest.splits[split]
        self.index = self._load_index()
        self.labels = np.ascontiguousarray(self.index["label"], dtype=np.int64)
        self._maps: dict[int, np.memmap] = {}

    def _load_index(self) -> np.ndarray:
        path = self.folder / INDEX
        try:
            index: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RequestError(f"{path}: cannot be read ({error}); prepare the data set again") from None
        if len(index) != self.info.images or index.dtype != INDEX_DTYPE:
            raise RequestError(
                f"{path}: {len(index)} rows, but the manifest has {self.info.images} images; prepare the data set again"
            )
        return index

    def __len__(self) -> int:
        return len(self.index)

    def member(self, i: int) -> memoryview:
        """The encoded bytes of picture i."""
        _, offset, length, _ = row = self.index[i]
        data = self._map(int(row["shard"]))[int(offset) : int(offset) + int(length)]
        return memoryview(data)  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        try:
            return decode(self.member(i), self.encoding), int(self.labels[i])
        except (OSError, ValueError) as error:
            shard = self.info.shards[int(self.index[i]["shard"])]
            raise RunError(
                f"{self.folder / shard.file}: picture {i} cannot be decoded ({error}); "
                f"check the data set with `python -m data_prep.verify {self.folder.parent}`"
            ) from None

    def _map(self, shard: int) -> np.memmap:
        if shard not in self._maps:
            info = self.info.shards[shard]
            path = self.folder / info.file
            if not path.is_file() or path.stat().st_size != info.bytes:
                found = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
                raise RunError(f"{path}: {found}, but the manifest says {info.bytes} bytes; prepare the data set again")
            self._maps[shard] = np.memmap(path, mode="r")
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}
