"""What every layout yields."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One picture where it lies: `size` bytes at `offset` of the file `path`; nothing is ever extracted to disk."""

    name: str
    wnid: str
    path: str
    offset: int
    size: int

    def read(self, most: int) -> bytes:
        """The bytes of a picture file: all, or the first `most`. OSError if the file is shorter than it was."""
        length = min(self.size, most)
        with Path(self.path).open("rb", buffering=0) as file:
            file.seek(self.offset)
            data = file.read(length)
            while len(data) < length and (more := file.read(length - len(data))):  # some network drives give less
                data += more
        if len(data) != length:
            raise OSError(f"it ends after {len(data)} of the {self.size} bytes of {self.name}")
        return data

    def mark(self) -> str:
        """What tells this picture from another of the same name, without reading it where that takes long."""
        return str(self.size)


@dataclass(frozen=True, slots=True)
class PixelImage(SourceImage):
    """A picture that its source holds as plain pixels, not as a picture file; small, and kept in memory."""

    pixels: bytes  # uint8 [height, width, channels]
    shape: tuple[int, int, int]

    def read(self, most: int) -> bytes:
        """As a portable graymap or pixmap, a header before the same bytes."""
        height, width, channels = self.shape
        return b"%s %d %d 255\n" % (b"P5" if channels == 1 else b"P6", width, height) + self.pixels

    def mark(self) -> str:
        return f"{self.shape} {zlib.crc32(self.pixels)}"


@dataclass
class Source:
    """All pictures of a source, by split, in the source's own order."""

    layout: str
    path: Path
    words: dict[str, str]  # wnid (or folder name) -> what people call it
    splits: dict[str, list[SourceImage]]
    complete: dict[str, int] = field(default_factory=dict)  # images of each split of a complete copy, if known
    per_class: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> class -> the same
    per_class_is_least: bool = False  # those are what every class has at least
    md5: dict[Path, str] = field(default_factory=dict)  # of the files that were found, as officially published
    channels: int = 3
    side: int | None = None  # of its pictures, where all are squares of one size
    slow_at_random: bool = False  # a single picture can only be had by reading its neighbours too
    left_out: list[str] = field(default_factory=list)  # what lies there and is not used, and why

    def describe(self) -> dict[str, Any]:
        return {"layout": self.layout, "path": str(self.path.resolve())}
