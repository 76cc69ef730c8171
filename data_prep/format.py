"""The prepared data set on disk: the one contract between preparation and training. reader.py gives random access.

    OUT/manifest.json     written last: a folder without it is not finished
    OUT/mean.npy          float32 [S, S, C], 0..255: the mean training image
    OUT/preview.png, mean.png    for people: training images with their labels, the mean image
    OUT/train/shard-00000.tar ...   plain POSIX tars in the WebDataset convention: 000000123.jpg + 000000123.cls
    OUT/train/index.npy   one row an image (shard, offset, length, label): random access without reading the tars
    OUT/val/ [OUT/test/]  the same

Everything is written under a temporary name, synced, and renamed.
"""

import hashlib
import io
import json
import tarfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:  # Pillow alone gives the same pixels
    simplejpeg = None

from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically
from data_prep.common.text import one_line

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
    source: dict[str, str]  # layout and path
    classes: list[ClassInfo]  # in label order: sorted wnids or folder names
    image_size: int
    channels: int
    encoding: str
    preparation: dict[str, Any]  # the settings and library versions that the pixels follow from
    statistics: dict[str, Any]  # images, rgb_mean, rgb_covariance (0..255), from which the PCA of section 4.1 follows
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
                "`make cifar10`, `make fashion-mnist`; Tiny-ImageNet: `python -m data_prep.prepare "
                f"src=tiny-imagenet-200.zip out={folder}`"
            )
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if (version := raw["format_version"]) == FORMAT_VERSION:
                raw["classes"] = [ClassInfo(**c) for c in raw["classes"]]
                raw["rejected"] = [Rejected(**r) for r in raw["rejected"]]
                raw["splits"] = {
                    name: SplitInfo(s["images"], s["per_class"], [ShardInfo(**shard) for shard in s["shards"]])
                    for name, s in raw["splits"].items()
                }
                return cls(**raw)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RequestError(f"{path}: not a manifest of a prepared data set; {PREPARE_AGAIN}") from None
        raise RequestError(f"{path}: format version {version}, but {FORMAT_VERSION} is read here; {PREPARE_AGAIN}")


def encoding_suffix(encoding: str) -> str:
    """What the names of images in a shard end with."""
    return {"jpeg": "jpg", "raw": "npy"}[encoding]


def encode(image: Image.Image, encoding: str, jpeg_quality: int) -> bytes:
    """A square image, RGB or grey -> the bytes of one member: a JPEG, or uint8 [S, S, C] as .npy."""
    buffer = io.BytesIO()
    if encoding == "raw":
        np.save(buffer, np.asarray(image).reshape(*image.size, -1))
    else:
        image.save(buffer, "JPEG", quality=jpeg_quality)
    return buffer.getvalue()


def decode(data: bytes, encoding: str, shape: tuple[int, int, int]) -> np.ndarray:
    """The bytes of one member -> uint8 of `shape`, [S, S, C]. ValueError, in one line, if they are anything else."""
    try:
        if encoding == "raw":
            pixels: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            pixels = _decode_jpeg(data, shape)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(one_line(error)) from None
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ValueError(f"is {pixels.dtype} {list(pixels.shape)}, not uint8 {list(shape)}")
    return pixels


def _decode_jpeg(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """simplejpeg gives the same pixels as Pillow in two thirds of the time (docs/results.md). Pillow sees what it
    refuses, and what has another shape, and raises the errors.
    """
    stored, wanted = {3: ("YCbCr", "RGB"), 1: ("Gray", "GRAY")}.get(shape[2], ("", ""))
    if simplejpeg is not None:
        with suppress(ValueError):
            if simplejpeg.decode_jpeg_header(data)[:3] == (*shape[:2], stored):
                return simplejpeg.decode_jpeg(data, wanted)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def as_image(pixels: np.ndarray) -> Image.Image:
    """[S, S, C] of 0..255, whole numbers or not -> RGB, or grey where C is 1."""
    whole = pixels.round().astype(np.uint8)
    return Image.fromarray(whole.squeeze(-1) if whole.shape[-1] == 1 else whole)


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.tar"


# Of a member of a tar, with fixed values for owner, time and mode, so that the same images give the same bytes. Name,
# size and checksum are to be filled in; the checksum is that with its own eight bytes blank.
_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_HEADER = _HEADER[:148] + b" " * 8 + _HEADER[156:]


class ShardWriter:
    """Writes shard `number` of a split into `file`, image by image."""

    def __init__(self, file: BinaryIO, number: int) -> None:
        self._file, self._number = file, number
        self._end, self._digest = 0, hashlib.sha256()  # of what is written
        self._rows: list[tuple[int, int, int, int]] = []  # of the index

    def add(self, key: int, suffix: str, data: bytes, label: int) -> None:
        """An encoded image and its label: two members, <key>.<suffix> and <key>.cls."""
        self._rows.append((self._number, self._end + tarfile.BLOCKSIZE, len(data), label))
        self._add_member(f"{key:09d}.{suffix}", data)
        self._add_member(f"{key:09d}.cls", str(label).encode())

    def _add_member(self, name: str, data: bytes) -> None:
        header = bytearray(_HEADER)  # TarInfo.tobuf for each member would take as long as a small image itself
        header[: len(name)] = name.encode()
        header[124:135] = b"%011o" % len(data)
        header[148:156] = b"%06o\0 " % sum(header)
        self._write(bytes(header) + data + bytes(-len(data) % tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        self._end += self._file.write(data)
        self._digest.update(data)

    def finish(self) -> tuple[ShardInfo, np.ndarray]:
        """Writes the end of the tar; returns the shard's entry in the manifest, and its rows of the index."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self._end + end) % tarfile.RECORDSIZE))
        info = ShardInfo(shard_name(self._number), len(self._rows), self._end, self._digest.hexdigest())
        return info, np.array(self._rows, dtype=INDEX_DTYPE)
