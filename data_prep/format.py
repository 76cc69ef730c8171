"""The prepared data set on disk: the one contract between preparation and training. reader.py reads it at random.

    OUT/manifest.json     written last: a folder without it is not finished
    OUT/mean.npy          float32 [S, S, C], 0..255: the mean training image
    OUT/preview.png, mean.png    for people: training pictures with their labels, the mean image
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MEAN = "mean.npy"
INDEX = "index.npy"
PREPARE_AGAIN = "delete the data set and prepare it again"
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
    files: dict[str, str] = field(default_factory=dict)  # sha256 of mean.npy and of each split's index.npy
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
                f"`make prepare-imagenet SRC=/path/to/archives OUT={folder}`; smaller ones: `make sample`, "
                "`make cifar10`, `make fashion-mnist`"
            )
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["format_version"] != FORMAT_VERSION:
                found = raw["format_version"]
                raise RequestError(
                    f"{path}: format version {found}, but {FORMAT_VERSION} is read here; {PREPARE_AGAIN}"
                )
            raw["classes"] = [ClassInfo(**c) for c in raw["classes"]]
            raw["rejected"] = [Rejected(**r) for r in raw["rejected"]]
            raw["splits"] = {
                name: SplitInfo(s["images"], s["per_class"], [ShardInfo(**shard) for shard in s["shards"]])
                for name, s in raw["splits"].items()
            }
            return cls(**raw)
        except RequestError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RequestError(f"{path}: not a manifest of a prepared data set; {PREPARE_AGAIN}") from None


def encoding_suffix(encoding: str) -> str:
    """What the names of pictures in a shard end with."""
    return {"jpeg": "jpg", "raw": "npy"}[encoding]


def encode(picture: Image.Image, encoding: str, jpeg_quality: int) -> bytes:
    """A square picture, RGB or grey -> the bytes of one member: a JPEG, or uint8 [S, S, C]."""
    buffer = io.BytesIO()
    if encoding == "raw":
        np.save(buffer, np.asarray(picture).reshape(*picture.size, -1))
    else:
        picture.save(buffer, "JPEG", quality=jpeg_quality)
    return buffer.getvalue()


def decode(data: bytes, encoding: str) -> np.ndarray:
    """The bytes of one member -> uint8 [S, S, C]."""
    if encoding == "raw":
        array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        return array
    array = np.asarray(Image.open(io.BytesIO(data)))
    return array[..., None] if array.ndim == 2 else array


# Owner, time and mode stay at fixed values: same pictures, same bytes. The checksum takes itself for spaces.
_EMPTY_HEADER = bytearray(tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT))
_EMPTY_HEADER[124:135] = bytes(11)  # the size
_EMPTY_HEADER[148:156] = b" " * 8
_EMPTY_SUM = sum(_EMPTY_HEADER)


def _tar_header(name: str, size: int) -> bytes:
    """What tarfile would write, in a tenth of the time."""
    header = _EMPTY_HEADER.copy()
    encoded, octal = name.encode("ascii"), b"%011o" % size
    assert len(encoded) <= 100
    header[: len(encoded)] = encoded
    header[124:135] = octal
    header[148:155] = b"%06o\0" % (_EMPTY_SUM + sum(encoded) + sum(octal))
    return bytes(header)


class ShardWriter:
    """One shard, image by image; `close` renames it into place and returns its manifest entry and index rows."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number
        self.partial = path.with_name(path.name + ".partial")
        self._file = self.partial.open("wb", buffering=1 << 20)  # some 30 pictures to a call of the system
        self._end, self._digest = 0, hashlib.sha256()  # of what is written
        self._rows: list[tuple[int, int, int, int]] = []

    def add(self, key: int, suffix: str, data: bytes, label: int) -> None:
        offset = self._add_member(f"{key:09d}.{suffix}", data)
        self._add_member(f"{key:09d}.cls", str(label).encode())
        self._rows.append((self.number, offset, len(data), label))

    def _add_member(self, name: str, data: bytes) -> int:
        """The offset of the member's bytes in the file."""
        offset = self._end + tarfile.BLOCKSIZE
        self._write(b"".join((_tar_header(name, len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE))))
        return offset

    def _write(self, data: bytes) -> None:
        self._end += self._file.write(data)
        self._digest.update(data)

    def abandon(self) -> None:
        self._file.close()
        self.partial.unlink(missing_ok=True)

    def close(self) -> tuple[ShardInfo, np.ndarray]:
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self._end + end) % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        info = ShardInfo(self.path.name, len(self._rows), self._end, self._digest.hexdigest())
        self.partial.replace(self.path)
        return info, np.array(self._rows, dtype=INDEX_DTYPE)


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.tar"
