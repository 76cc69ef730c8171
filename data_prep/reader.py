"""Random access to the images of a prepared data set, one by one or as a batch of patches.

Shards are read with `preadv` into a buffer that is used again, not through mmap: about as fast (docs/results.md), and
a shard that is cut short is a short read, where a map would end the process with SIGBUS. JPEGs are decoded whole:
a crop of 224 from 256 leaves out an eighth of the rows, whose bits must be read all the same.
"""

import copy
import errno
import io
import os
import tarfile
from pathlib import Path

import numpy as np

from data_prep.common.errors import RequestError, RunError
from data_prep.format import INDEX, INDEX_DTYPE, PREPARE_AGAIN, Manifest, ShardInfo, decode

_MOST_OPEN = 64  # shards kept open; ImageNet has 1252, and a process often may open 256 or 1024 files


class Shards:
    """The shards of one split, read by rows of the index.

    Cheap to pickle: it holds names and sizes only. A process forked from this one may go on reading (`preadv` leaves
    the position of a file alone); threads may not share one.
    """

    def __init__(self, folder: Path, infos: list[ShardInfo], encoding: str, shape: tuple[int, int, int]) -> None:
        """`shape`: [S, S, C] of every image."""
        self.folder, self.encoding, self.shape = folder, encoding, shape
        self._files = [(info.file, info.bytes) for info in infos]
        self._open: dict[int, io.FileIO] = {}  # the one used last comes last
        self._buffer = np.empty(0, np.uint8)
        if encoding == "raw":
            self._header = _npy_header(shape)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_open": {}, "_buffer": np.empty(0, np.uint8)}

    def path(self, shard: int) -> Path:
        return self.folder / self._files[shard][0]

    def member(self, row: np.void) -> bytes:
        """The encoded bytes of the image of an index row.

        RunError if its shard is missing, has another size than the manifest says, or ends too early.
        """
        return self._read(int(row["shard"]), int(row["offset"]), int(row["length"])).tobytes()

    def member_name(self, row: np.void) -> str:
        """What the image of an index row is called in its shard. Errors as `member`."""
        header = int(row["offset"]) - tarfile.BLOCKSIZE
        return self._read(int(row["shard"]), header, tarfile.LENGTH_NAME).tobytes().split(b"\0")[0].decode()

    def patches(
        self,
        rows: np.ndarray,
        numbers: np.ndarray,
        top: np.ndarray,
        left: np.ndarray,
        out: np.ndarray,
        reading: np.ndarray | None = None,
    ) -> None:
        """Fills `out`, uint8 [N, side, side, C], with a patch of each image, its first row and column at top, left.

        rows: of the index, [N]. numbers: int64 [N], which images they are, for error messages. reading: int64 [1],
        set to each shard before it is read. Errors as `member`, and RunError for an image that cannot be decoded.
        """
        side = out.shape[1]
        height, width, channels = self.shape
        assert top.min() >= 0 and top.max() + side <= height and left.min() >= 0 and left.max() + side <= width
        line = width * channels  # bytes
        flat = out.reshape(len(out), side, side * channels)  # two dimensions copy faster than three
        shards, offsets, lengths = (rows[name].tolist() for name in ("shard", "offset", "length"))
        for i, (shard, t, x) in enumerate(zip(shards, top.tolist(), left.tolist(), strict=True)):
            if reading is not None:
                reading[0] = shard
            if self.encoding == "raw" and self._is_plain(shard, offsets[i], lengths[i]):
                lines = self._read(shard, offsets[i] + len(self._header) + t * line, side * line)
                flat[i] = lines.reshape(side, line)[:, x * channels : (x + side) * channels]
            else:
                member = self._read(shard, offsets[i], lengths[i]).tobytes()
                out[i] = self._decode(member, shard, int(numbers[i]))[t : t + side, x : x + side]

    def image(self, row: np.void, number: int) -> np.ndarray:
        """The whole image of an index row, uint8 [S, S, C]. Errors as `patches`."""
        return self._decode(self.member(row), int(row["shard"]), number)

    def _decode(self, data: bytes, shard: int, number: int) -> np.ndarray:
        try:
            return decode(data, self.encoding, self.shape)
        except ValueError as error:
            raise RunError(
                f"{self.path(shard)}: image {number} cannot be decoded ({error}); "
                f"check the data set with `python -m data_prep.verify {self.folder.parent}`"
            ) from None

    def _is_plain(self, shard: int, offset: int, length: int) -> bool:
        """Whether a raw member is as numpy writes it, so that a line of its pixels lies where it can be computed."""
        size = self.shape[0] * self.shape[1] * self.shape[2]
        if length != len(self._header) + size:
            return False
        return self._read(shard, offset, len(self._header)).tobytes() == self._header

    def _read(self, shard: int, offset: int, length: int) -> np.ndarray:
        """uint8 [length], good until the next call."""
        if len(self._buffer) < length:
            self._buffer = np.empty(length, np.uint8)
        wanted = self._buffer[:length]
        try:
            file = self._file(shard)
            done = 0
            while done < length:
                got = _read_at(file, wanted[done:], offset + done)
                if not got:
                    raise RunError(
                        f"{self.path(shard)}: ends at byte {offset + done}, within an image; {PREPARE_AGAIN}"
                    )
                done += got
        except OSError as error:
            raise RunError(f"{self.path(shard)}: cannot be read ({error.strerror}); {PREPARE_AGAIN}") from None
        return wanted

    def _file(self, shard: int) -> io.FileIO:
        if shard in self._open:
            self._open[shard] = self._open.pop(shard)
            return self._open[shard]
        while len(self._open) >= _MOST_OPEN:
            self._close_least_recent()
        path, expected = self.path(shard), self._files[shard][1]
        while True:
            try:
                file = io.FileIO(path)
                break
            except OSError as error:
                if error.errno != errno.EMFILE or not self._open:
                    raise
                self._close_least_recent()
        if (found := os.fstat(file.fileno()).st_size) != expected:
            file.close()
            raise RunError(f"{path}: {found} bytes, but the manifest says {expected}; {PREPARE_AGAIN}")
        self._open[shard] = file
        return file

    def _close_least_recent(self) -> None:
        self._open.pop(next(iter(self._open))).close()


def _npy_header(shape: tuple[int, int, int]) -> bytes:
    """What stands before the pixels in a raw member."""
    buffer = io.BytesIO()
    np.save(buffer, np.empty(shape, np.uint8))
    return buffer.getvalue()[: -int(np.prod(shape))]


def _read_at(file: io.FileIO, into: np.ndarray, offset: int) -> int:
    """Bytes read; 0 at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [into.data], offset)
    file.seek(offset)  # Windows, which does not fork
    return file.readinto(into.data) or 0


class SplitReader:
    """One split through its index: `reader[i]` is (uint8 [S, S, C], label). Errors as `Shards`."""

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        """RequestError if the data set has no such split, or an index that does not fit its manifest."""
        if split not in manifest.splits:
            remedy = "; prepare the data again with val_from_train=0.01, say" if split == "val" else ""
            raise RequestError(f"{folder}: has no split {split!r}; it has {', '.join(manifest.splits)}{remedy}")
        self.folder = folder / split
        self.info = manifest.splits[split]
        self.index = self._load_index()
        self.labels = np.ascontiguousarray(self.index["label"], dtype=np.int64)
        shape = (manifest.image_size, manifest.image_size, manifest.channels)
        self.shards = Shards(self.folder, self.info.shards, manifest.encoding, shape)

    def _load_index(self) -> np.ndarray:
        path = self.folder / INDEX
        try:
            index: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RequestError(f"{path}: cannot be read ({error}); {PREPARE_AGAIN}") from None
        if len(index) != self.info.images or index.dtype != INDEX_DTYPE:
            raise RequestError(
                f"{path}: {len(index)} rows, but the manifest has {self.info.images} images; {PREPARE_AGAIN}"
            )
        if len(index) and not 0 <= index["shard"].min() <= index["shard"].max() < len(self.info.shards):
            raise RequestError(f"{path}: names shards that the manifest does not have; {PREPARE_AGAIN}")
        return index

    def __len__(self) -> int:
        return len(self.index)

    def member(self, i: int) -> bytes:
        """The encoded bytes of image i."""
        return self.shards.member(self.index[i])

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.shards.image(self.index[i], i), int(self.labels[i])

    def subset(self, numbers: slice | np.ndarray) -> "SplitReader":
        """The same split as if it had these images only, in this order."""
        part = copy.copy(self)
        part.index = np.ascontiguousarray(self.index[numbers])
        part.labels = np.ascontiguousarray(self.labels[numbers])
        return part

    def names(self) -> np.ndarray:
        """split/key of every image: text [N]. The key is the member's name in its shard, without its ending."""
        keys = (self.shards.member_name(row).rsplit(".", 1)[0] for row in self.index)
        return np.array([f"{self.folder.name}/{key}" for key in keys])
