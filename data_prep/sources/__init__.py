"""Layouts in which people have the pictures. Each is found by looking, and yields the same `SourceImage`s."""

from pathlib import Path

from data_prep.command import RequestError
from data_prep.sources import ilsvrc2012, imagefolder
from data_prep.sources.base import Source, SourceImage

LAYOUTS = (ilsvrc2012, imagefolder)

__all__ = ["LAYOUTS", "Source", "SourceImage", "find_source"]


def find_source(src: Path) -> Source:
    """The pictures below `src`, in whichever layout is there; RequestError says what was looked for."""
    if not src.is_dir():
        what = "is a file; give the folder that holds it" if src.is_file() else "does not exist; give src=FOLDER"
        raise RequestError(f"src={src}: {what}")
    for layout in LAYOUTS:
        if layout.recognises(src):
            return layout.read(src)
    found = sorted(path.name for path in src.iterdir())
    shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "") or "nothing"
    looked_for = "; ".join(layout.LOOKS_LIKE for layout in LAYOUTS)
    raise RequestError(f"src={src}: found {shown}, but no layout known here: {looked_for}")
