"""What every layout yields."""

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

    def read(self) -> bytes:
        with Path(self.path).open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(f"{self.path} ends after {len(data)} of {self.size} bytes")
        return data


@dataclass
class Source:
    """All pictures of a source, by split, in the source's own order."""

    layout: str
    path: Path
    words: dict[str, str]  # wnid (or folder name) -> what people call it
    splits: dict[str, list[SourceImage]]
    expected: dict[str, int] = field(default_factory=dict)  # images a complete copy has, where that is known

    def describe(self) -> dict[str, Any]:
        return {"layout": self.layout, "path": str(self.path.resolve())}
