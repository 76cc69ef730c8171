"""What every layout yields."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image where it lies: `size` bytes at `offset` of the file `path`; nothing is ever extracted to disk."""

    name: str
    wnid: str  # or the name of the class's folder; "": none
    path: str
    offset: int
    size: int

    def read(self, most: int) -> bytes:
        """The bytes of an image file: all, or the first `most`. OSError if the file is shorter than it was."""
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
        """What tells this image from another of the same name, without reading it where that takes long."""
        return str(self.size)


@dataclass(frozen=True, slots=True)
class PixelImage(SourceImage):
    """An image that its source holds as plain pixels, not as an image file; small, and kept in memory."""

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
    """All images of a source, by split, in the source's own order."""

    layout: str
    path: Path
    splits: dict[str, list[SourceImage]]
    class_names: dict[str, str] = field(default_factory=dict)  # what people call a class, by wnid, as far as is known
    complete: dict[str, int] = field(default_factory=dict)  # images of each split of a complete copy, if known
    per_class: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> class -> the same
    per_class_is_least: bool = False  # whether those are what every class has at least
    md5: dict[Path, str] = field(default_factory=dict)  # of the files that were found, as officially published
    channels: int = 3
    side: int | None = None  # of its images, where all are squares of one size
    slow_at_random: bool = False  # a single image can only be had by reading its neighbours too
    left_out: list[str] = field(default_factory=list)  # what lies there and is not used, and why
