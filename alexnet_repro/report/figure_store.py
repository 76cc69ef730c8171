"""The figures of a report folder: their files, and figures.json with their titles and captions.

`figures` and `evaluate` are two commands, in any order; a figure enters a report if it was drawn from the same weights.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_repro.report import plots
from data_prep.common.files import write_atomically
from data_prep.format import as_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIST = "figures.json"
_THUMBNAILS, _SIDE = "pictures", 144
ORDER = ("curves", "kernels", "labels", "neighbours")


@dataclass
class StoredFigure:
    name: str  # one of ORDER
    file: str  # beside figures.json
    title: str
    caption: str
    drawn_from: str  # fingerprint of the weights
    rows: list[dict[str, Any]] = field(default_factory=list)  # what it shows, for report.html to lay out itself


class FigureStore:
    def __init__(self, folder: Path, drawn_from: str) -> None:
        self.folder, self.drawn_from = folder, drawn_from
        folder.mkdir(parents=True, exist_ok=True)

    def add(
        self, name: str, title: str, caption: str, figure: "Figure", rows: list[dict[str, Any]] | None = None
    ) -> Path:
        """Saves a figure and its entry in figures.json, in place of one of the same name. Returns its path."""
        path = self.folder / f"{name}.png"
        write_atomically(path, lambda file: plots.save(figure, file))
        kept = [stored for stored in _read(self.folder) if stored.name != name]
        kept.append(StoredFigure(name, path.name, title, caption, self.drawn_from, rows or []))
        text = json.dumps([asdict(stored) for stored in kept], indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.folder / LIST, lambda file: file.write(text.encode()))
        return path

    def thumbnail(self, name: str, pixels: np.ndarray) -> str:
        """Writes an image of a data set in small: uint8 [S, S, C]. Returns its path relative to the folder."""
        file = f"{_THUMBNAILS}/{name.replace('/', '-')}.jpg"
        (self.folder / _THUMBNAILS).mkdir(exist_ok=True)
        small = as_image(pixels)
        small.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
        write_atomically(self.folder / file, lambda out: out.write(buffer.getvalue()))
        return file


def figures_of(folder: Path, drawn_from: str) -> list[StoredFigure]:
    """The figures of a report folder that were drawn from these weights, in the order in which a report shows them."""
    usable = [f for f in _read(folder) if f.drawn_from == drawn_from and (folder / f.file).is_file()]
    return sorted(usable, key=lambda figure: ORDER.index(figure.name))


def _read(folder: Path) -> list[StoredFigure]:
    try:
        entries = json.loads((folder / LIST).read_text(encoding="utf-8"))
        return [StoredFigure(**entry) for entry in entries]
    except (OSError, ValueError, TypeError):  # none yet, or written by another version: they are drawn again
        return []
