"""Units of work for several processes, each leaving a record by which a stopped preparation continues.

Usually a unit is a shard, whose images are read where they lie. With `in_source_order`, other units come before the
shards: they read the source from its beginning to its end and keep each prepared image in OUT/.unfinished, from which
the shards are then filled. Either way every image is decoded once.
"""

import errno
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_prep.common.errors import RunError
from data_prep.common.files import write_atomically
from data_prep.common.text import one_line
from data_prep.format import ShardInfo, ShardWriter, encode, encoding_suffix, shard_name
from data_prep.plan import UNFINISHED, PrepareConfig, Splits
from data_prep.pool import count_image, is_stopped
from data_prep.resize import MOST_BYTES, pillow_warnings, square_image
from data_prep.sources import Listing, SourceImage
from data_prep.statistics import ImageSums, RunningSums

_GO_ON = "what was finished is kept; start again to continue"


class Unreadable(Exception):
    """Why an image is rejected: its file is damaged, or is no image."""


class Stopped(Exception):
    """The whole preparation ends: another unit has failed, or the user has interrupted."""


def write_error(path: Path, error: OSError) -> RunError:
    """One line for a full disk, a missing permission and whatever else keeps OUT from being written."""
    remedy = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
    return RunError(f"{path}: cannot be written ({error.strerror or error}); {remedy}; {_GO_ON}")


def _read(image: SourceImage, most: int) -> bytes:
    """RunError if the file cannot be read: a broken disk stops the preparation, a broken image does not."""
    data = b""
    try:
        data = image.read(most)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise RunError(
            f"{image.path}: cannot be read, or has changed since it was listed ({reason}); mend the source; {_GO_ON}"
        ) from None
    finally:  # rejected ones, too
        count_image(len(data))
    return data


@dataclass
class ImageFormat:
    """What the images of a data set are made to be."""

    image_size: int
    channels: int
    encoding: str
    jpeg_quality: int

    def prepare(self, image: SourceImage, sums: RunningSums) -> bytes:
        """The bytes of the image's member in a shard; its pixels are added to `sums`.

        Unreadable if the image is to be rejected, RunError if its file cannot be read.
        """
        try:
            data = _read(image, MOST_BYTES + 1)
            square = square_image(data, self.image_size, self.channels)
        except (OSError, ValueError) as error:
            raise Unreadable(one_line(error)) from None
        # Each channel by itself from Pillow: half the time of an array of all three, taken apart again.
        sums.add([np.frombuffer(square.tobytes("raw", band), np.uint8) for band in square.getbands()])
        return encode(square, self.encoding, self.jpeg_quality)


@dataclass(frozen=True, slots=True)
class PreparedImage(SourceImage):
    """An image that a GatherTask has prepared and keeps, or the reason why it could not."""

    reason: str

    def member(self) -> bytes:
        """The bytes of its member, which ImageFormat.prepare has returned; the same errors."""
        if self.reason:
            count_image(0)
            raise Unreadable(self.reason)
        return _read(self, self.size)


@dataclass
class Record:
    """What a finished unit leaves: of a shard, its manifest entry and index; of both kinds, sums and rejections."""

    index: np.ndarray
    sums: ImageSums
    rejected: list[tuple[int, str, str]]  # number within the unit, name, reason
    info: ShardInfo | None = None

    def save(self, path: Path) -> None:
        info = None if self.info is None else asdict(self.info)
        text = json.dumps({"info": info, "rejected": self.rejected, "images": self.sums.images})
        # A unit has at most 8192 images: their sums of pixels fit into half the space.
        arrays = {"index": self.index, "pixels": self.sums.pixels.astype(np.int32), "products": self.sums.products}
        write_atomically(path, lambda file: np.savez(file, text=np.array(text), **arrays))  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Record":
        with np.load(path, allow_pickle=False) as arrays:
            text = json.loads(str(arrays["text"]))
            sums = ImageSums(text["images"], arrays["pixels"].astype(np.int64), arrays["products"])
            rejected = [(number, name, reason) for number, name, reason in text["rejected"]]
            return cls(arrays["index"], sums, rejected, text["info"] and ShardInfo(**text["info"]))


@dataclass
class Task(ABC):
    """A unit: its images, and the two files that it writes, `record` last."""

    split: str
    images: Sequence[SourceImage]
    file: Path
    record: Path
    format: ImageFormat

    def is_done(self) -> bool:
        return self.record.is_file() and self.file.is_file()

    def run(self) -> None:
        """RunError if the source cannot be read, or OUT cannot be written. Leaves neither file if it is stopped."""
        sums = RunningSums(self.format.image_size, self.format.channels)
        rejected: list[tuple[int, str, str]] = []
        written: list[tuple[np.ndarray, ShardInfo | None]] = []
        try:
            with pillow_warnings():  # around all images: for each by itself it would take a hundredth of the time
                prepared = self._prepared(sums, rejected)
                write_atomically(self.file, lambda file: written.append(self._write(file, prepared)))
            index, info = written[0]
            Record(index, sums.total(), rejected, info).save(self.record)
        except Stopped:
            pass
        except OSError as error:
            raise write_error(self.file, error) from None

    def _prepared(self, sums: RunningSums, rejected: list[tuple[int, str, str]]) -> Iterator[bytes | None]:
        """The encoded bytes of each image; None for those that it adds to `rejected`."""
        for number, image in enumerate(self.images):
            if is_stopped():
                raise Stopped
            data = None
            try:
                data = image.member() if isinstance(image, PreparedImage) else self.format.prepare(image, sums)
            except Unreadable as reason:
                rejected.append((number, image.name, str(reason)))
            yield data

    @abstractmethod
    def _write(self, file: BinaryIO, prepared: Iterator[bytes | None]) -> tuple[np.ndarray, ShardInfo | None]:
        """Fills `file`; returns what the record has of it."""


@dataclass
class ShardTask(Task):
    """One shard of the data set."""

    number: int  # of the shard
    first_key: int
    labels: np.ndarray  # int32 [N]

    def _write(self, file: BinaryIO, prepared: Iterator[bytes | None]) -> tuple[np.ndarray, ShardInfo | None]:
        writer, suffix = ShardWriter(file, self.number), encoding_suffix(self.format.encoding)
        for key, (data, label) in enumerate(zip(prepared, self.labels.tolist(), strict=True), start=self.first_key):
            if data is not None:
                writer.add(key, suffix, data, label)
        info, index = writer.finish()
        return index, info


@dataclass
class GatherTask(Task):
    """Neighbours in the source, prepared one after the other into one file: index rows are offset, length (or -1)."""

    def _write(self, file: BinaryIO, prepared: Iterator[bytes | None]) -> tuple[np.ndarray, ShardInfo | None]:
        rows: list[tuple[int, int]] = []
        for data in prepared:
            rows.append((file.tell(), -1 if data is None else len(data)))
            file.write(data or b"")
        return np.array(rows, np.int64).reshape(-1, 2), None


def shard_tasks(
    config: PrepareConfig, out: Path, images: Splits, wnids: list[str], form: ImageFormat
) -> list[ShardTask]:
    """`images` in the order of the shards; `wnids` in the order of the labels."""
    tasks = []
    for split, listed in images.items():
        labels = listed.labels(wnids)
        for number, first in enumerate(range(0, len(listed), config.images_per_shard)):
            chosen = listed[first : first + config.images_per_shard]
            file, record = out / split / shard_name(number), out / UNFINISHED / f"{split}-{number:05d}.npz"
            own = labels[first : first + config.images_per_shard]
            tasks.append(ShardTask(split, chosen, file, record, form, number, first, own))
    return tasks


def gather_tasks(config: PrepareConfig, out: Path, images: Splits, form: ImageFormat) -> list[GatherTask]:
    """The same images in the order of the source."""
    tasks = []
    for split, listed in images.items():
        ordered = listed.take(listed.source_order())
        for number, first in enumerate(range(0, len(ordered), config.images_per_shard)):
            chosen = ordered[first : first + config.images_per_shard]
            name = out / UNFINISHED / f"source-{split}-{number:05d}"
            tasks.append(GatherTask(split, chosen, name.with_suffix(".bin"), name.with_suffix(".npz"), form))
    return tasks


def gathered(images: Splits, tasks: Sequence[GatherTask]) -> Splits:
    """The same images in the same places, as the finished tasks keep them."""
    result: Splits = {}
    for split, listed in images.items():
        order = listed.source_order()
        place_of = np.empty_like(order)
        place_of[order] = np.arange(len(order))
        own = (task for task in tasks if task.split == split)
        result[split] = Listing(image for task in own for image in _prepared_images(task)).take(place_of)
    return result


def _prepared_images(task: GatherTask) -> Iterator[PreparedImage]:
    record = Record.load(task.record)
    reasons = {number: reason for number, _, reason in record.rejected}
    for number, (image, (offset, length)) in enumerate(zip(task.images, record.index.tolist(), strict=True)):
        yield PreparedImage(image.name, image.wnid, str(task.file), offset, max(0, length), reasons.get(number, ""))
