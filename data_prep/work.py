"""Units of work for several processes, each leaving a record by which a stopped preparation continues.

A unit is a shard, whose images are read where they lie. With `in_source_order`, others come first: they read the source
from its beginning to its end, into shards in OUT/.unfinished, from which those of the data set are then filled. Either
way every image is decoded once.
"""

import errno
import json
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
    remedy = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the disk and the permissions"
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
    """An image that an earlier task has prepared and keeps, or the reason why it could not."""

    reason: str

    def member(self) -> bytes:
        """The bytes of its member, which ImageFormat.prepare has returned; the same errors."""
        if self.reason:
            count_image(0)
            raise Unreadable(self.reason)
        return _read(self, self.size)


@dataclass
class Record:
    """What a finished unit leaves: the shard's manifest entry and its rows of the index, sums and rejections."""

    info: ShardInfo
    index: np.ndarray
    sums: ImageSums
    rejected: list[tuple[int, str, str]]  # number within the unit, name, reason

    def save(self, path: Path) -> None:
        text = json.dumps({"info": asdict(self.info), "rejected": self.rejected, "images": self.sums.images})
        # A unit has at most 8192 images: their sums of pixels fit into half the space.
        arrays = {"index": self.index, "pixels": self.sums.pixels.astype(np.int32), "products": self.sums.products}
        write_atomically(path, lambda file: np.savez(file, text=np.array(text), **arrays))  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Record":
        with np.load(path, allow_pickle=False) as arrays:
            text = json.loads(str(arrays["text"]))
            sums = ImageSums(text["images"], arrays["pixels"].astype(np.int64), arrays["products"])
            rejected = [(number, name, reason) for number, name, reason in text["rejected"]]
            return cls(ShardInfo(**text["info"]), arrays["index"], sums, rejected)


@dataclass
class ShardTask:
    """A unit: its images, and the two files that it writes, `record` last."""

    split: str
    images: Sequence[SourceImage]
    file: Path
    record: Path
    format: ImageFormat
    number: int  # of the shard
    first_key: int
    labels: np.ndarray  # int32 [N]

    def is_done(self) -> bool:
        return self.record.is_file() and self.file.is_file()

    def run(self) -> None:
        """RunError if the source cannot be read, or OUT cannot be written. Leaves neither file if it is stopped."""
        records: list[Record] = []
        try:
            with pillow_warnings():  # around all images: for each by itself it would take a hundredth of the time
                write_atomically(self.file, lambda file: records.append(self._fill(file)))
            records[0].save(self.record)
        except Stopped:
            pass
        except OSError as error:
            raise write_error(self.file, error) from None

    def _fill(self, file: BinaryIO) -> Record:
        writer, suffix = ShardWriter(file, self.number), encoding_suffix(self.format.encoding)
        sums = RunningSums(self.format.image_size, self.format.channels)
        rejected: list[tuple[int, str, str]] = []
        for number, (image, label) in enumerate(zip(self.images, self.labels.tolist(), strict=True)):
            if is_stopped():
                raise Stopped
            try:
                data = image.member() if isinstance(image, PreparedImage) else self.format.prepare(image, sums)
            except Unreadable as reason:
                rejected.append((number, image.name, str(reason)))
            else:
                writer.add(self.first_key + number, suffix, data, label)
        return Record(*writer.finish(), sums.total(), rejected)


def shard_tasks(
    config: PrepareConfig, out: Path, images: Splits, wnids: list[str], form: ImageFormat, gather: bool = False
) -> list[ShardTask]:
    """`images` in the order of the shards; `wnids` in the order of the labels. `gather`: those in OUT/.unfinished, for
    the same images in the order of the source.
    """
    tasks = []
    for split, listed in images.items():
        listed = listed.take(listed.source_order()) if gather else listed
        labels = listed.labels(wnids)
        for number, first in enumerate(range(0, len(listed), config.images_per_shard)):
            own = slice(first, first + config.images_per_shard)
            record = out / UNFINISHED / f"{'gathered-' * gather}{split}-{number:05d}.npz"
            file = record.with_suffix(".tar") if gather else out / split / shard_name(number)
            tasks.append(ShardTask(split, listed[own], file, record, form, number, first, labels[own]))
    return tasks


def gathered(images: Splits, tasks: Sequence[ShardTask]) -> Splits:
    """The same images in the same places, as the finished tasks keep them."""
    result: Splits = {}
    for split, listed in images.items():
        order = listed.source_order()
        place_of = np.empty_like(order)
        place_of[order] = np.arange(len(order))
        own = (task for task in tasks if task.split == split)
        result[split] = Listing(image for task in own for image in _prepared_images(task)).take(place_of)
    return result


def _prepared_images(task: ShardTask) -> Iterator[PreparedImage]:
    record = Record.load(task.record)
    reasons = {number: reason for number, _, reason in record.rejected}
    rows = iter(record.index[["offset", "length"]].tolist())
    for number, image in enumerate(task.images):
        offset, size = (0, 0) if number in reasons else next(rows)
        yield PreparedImage(image.name, image.wnid, str(task.file), offset, size, reasons.get(number, ""))
