"""Units of work for several processes, each leaving a record by which a stopped preparation continues.

Usually a unit is a shard, whose pictures are read where they lie. `in_source_order` puts other units before those:
they read the source from its beginning to its end and keep each prepared picture in OUT/.unfinished, from where shards
are then filled. Either way all pictures are decoded once.
"""

import errno
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from data_prep.common.errors import RunError
from data_prep.common.files import write_atomically
from data_prep.format import ShardInfo, ShardWriter, encode, encoding_suffix
from data_prep.pool import count_picture, is_stopped
from data_prep.resize import MOST_BYTES, pillows_warnings, square_picture
from data_prep.sources import SourceImage
from data_prep.statistics import ImageSums, RunningSums

GO_ON = "what was finished is kept; start again to continue"


@dataclass
class PictureFormat:
    """What the pictures of a data set are made to be."""

    image_size: int
    channels: int
    encoding: str
    jpeg_quality: int

    def make(self, image: SourceImage, sums: RunningSums) -> bytes | str:
        """The member's bytes, its pixels added to `sums`; or the reason why the picture cannot be read.

        RunError if its file cannot be read: a broken disk stops the preparation, a broken picture does not.
        """
        data = _read(image, MOST_BYTES + 1)
        count_picture(len(data))
        try:
            picture = square_picture(data, self.image_size, self.channels)
        except (OSError, ValueError) as error:
            return " ".join(str(error).split())
        # Each channel by itself from Pillow: half the time of an array of all three, taken apart again.
        sums.add([np.frombuffer(picture.tobytes("raw", band), np.uint8) for band in picture.getbands()])
        return encode(picture, self.encoding, self.jpeg_quality)


def _read(image: SourceImage, most: int) -> bytes:
    try:
        return image.read(most)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise RunError(
            f"{image.path}: cannot be read, or has changed since it was listed ({reason}); mend the source; {GO_ON}"
        ) from None


def cannot_be_written(path: Path, error: OSError) -> RunError:
    """One line for a full disk, a missing permission and whatever else keeps OUT from being written."""
    remedy = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
    return RunError(f"{path}: cannot be written ({error.strerror or error}); {remedy}; {GO_ON}")


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
        # A unit has at most 8192 pictures: its sums of pixels fit into half the space.
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
    """A unit: its pictures, and what it writes."""

    split: str
    images: Sequence[SourceImage]
    file: Path
    record: Path
    format: PictureFormat

    def is_done(self) -> bool:
        return self.record.is_file()

    def run(self) -> None:
        """RunError if the source cannot be read, or OUT cannot be written."""
        try:
            with pillows_warnings():  # around all pictures: for each by itself it would take a hundredth of the time
                record = self._made()
            if record is not None:
                record.save(self.record)
        except OSError as error:
            self.file.with_name(self.file.name + ".partial").unlink(missing_ok=True)
            raise cannot_be_written(self.file, error) from None

    @abstractmethod
    def _made(self) -> Record | None:
        """None if everything was stopped meanwhile."""


@dataclass
class ShardTask(Task):
    """One shard to make."""

    number: int = 0
    first_key: int = 0
    labels: Sequence[int] = field(default_factory=list)

    def _made(self) -> Record | None:
        writer = ShardWriter(self.file, self.number)
        suffix = encoding_suffix(self.format.encoding)
        sums = RunningSums(self.format.image_size, self.format.channels)
        rejected: list[tuple[int, str, str]] = []
        for i, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            if is_stopped():
                writer.abandon()
                return None
            made = image.member() if isinstance(image, PreparedImage) else self.format.make(image, sums)
            if isinstance(made, str):
                rejected.append((i, image.name, made))
            else:
                writer.add(self.first_key + i, suffix, made, label)
        info, index = writer.close()
        return Record(index, sums.total(), rejected, info)


@dataclass
class GatherTask(Task):
    """Neighbours in the source, prepared one after the other into one file: index rows are offset, length (or -1)."""

    def _made(self) -> Record | None:
        sums = RunningSums(self.format.image_size, self.format.channels)
        rejected: list[tuple[int, str, str]] = []
        rows: list[tuple[int, int]] = []

        def write(file) -> None:  # type: ignore[no-untyped-def]
            for i, image in enumerate(self.images):
                if is_stopped():
                    return
                made = self.format.make(image, sums)
                if isinstance(made, str):
                    rejected.append((i, image.name, made))
                    rows.append((file.tell(), -1))
                else:
                    rows.append((file.tell(), len(made)))
                    file.write(made)

        write_atomically(self.file, write)
        if len(rows) < len(self.images):
            return None
        return Record(np.array(rows, np.int64).reshape(-1, 2), sums.total(), rejected)


@dataclass(frozen=True, slots=True)
class PreparedImage(SourceImage):
    """A picture that a GatherTask has prepared, or the reason why it could not."""

    reason: str

    def member(self) -> bytes | str:
        if self.reason:
            return self.reason
        data = _read(self, self.size)
        count_picture(len(data))
        return data


def gathered(tasks: Sequence[GatherTask]) -> Iterator[PreparedImage]:
    """The pictures of finished tasks, in their order."""
    for task in tasks:
        record = Record.load(task.record)
        reasons = {number: reason for number, _, reason in record.rejected}
        for i, (image, (offset, length)) in enumerate(zip(task.images, record.index.tolist(), strict=True)):
            yield PreparedImage(image.name, image.wnid, str(task.file), offset, max(0, length), reasons.get(i, ""))
