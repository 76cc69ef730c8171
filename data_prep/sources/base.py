"""What every layout yields."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def printable(name: str) -> str:
    """A file's name as it can be written into a manifest: bytes that are no UTF-8 as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One picture where it lies: `size` bytes at `offset` of the file `path`; nothing is ever extracted to disk."""

    name: str
    wnid: str
    path: str
    offset: int
    size: int

    def read(self, most: int) -> bytes:
        """All bytes, or the first `most`. OSError if the file is shorter than it was."""
        length = min(self.size, most)
        with Path(self.path).open("rb") as file:
            file.seek(self.offset)
            data = file.read(length)
        if len(data) != length:
            raise OSError(f"{self.path} ends after {len(data)} of {self.size} bytes of {self.name}")
        return data


@dataclass
class Source:
    """All pictures of a source, by split, in the source's own order."""

    layout: str
    path: Path
    words: dict[str, str]  # wnid (or folder name) -> what people call it
    splits: dict[str, list[SourceImage]]
    complete: dict[str, int] = field(default_factory=dict)  # images of each split of a complete copy, if known
    train_images: dict[str, int] = field(default_factory=dict)  # of each class of a complete copy, if known
    md5: dict[Path, str] = field(default_factory=dict)  # of the files that were found, as officially published

    def describe(self) -> dict[str, Any]:
        return {"layout": self.layout, "path": str(self.path.resolve())}
