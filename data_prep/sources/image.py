"""One image of a source, where it lies."""

import zlib
from dataclasses import dataclass
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
        """The bytes of an image file: all, or the first `most`.

        OSError if the file is shorter than it was; ValueError if this image alone is at fault.
        """
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


def as_pnm(pixels: bytes, height: int, width: int, channels: int) -> bytes:
    """uint8 [height, width, channels] as an image file: a portable graymap or pixmap."""
    return b"%s %d %d 255\n" % (b"P5" if channels == 1 else b"P6", width, height) + pixels


@dataclass(frozen=True, slots=True)
class PixelImage(SourceImage):
    """An image that its source holds as plain pixels, not as an image file; small, and kept in memory."""

    pixels: bytes  # uint8 [height, width, channels]
    shape: tuple[int, int, int]

    def read(self, most: int) -> bytes:
        """As a portable graymap or pixmap, a header before the same bytes."""
        return as_pnm(self.pixels, *self.shape)

    def mark(self) -> str:
        return f"{self.shape} {zlib.crc32(self.pixels)}"


@dataclass(frozen=True, slots=True)
class DeadLink(SourceImage):
    """A link, named as an image, to a file that is not there: one of the images that are rejected."""

    target: str

    def read(self, most: int) -> bytes:
        raise ValueError(f"a link to {self.target}, which does not exist")

    def mark(self) -> str:
        return f"link to {self.target}"
