"""Layouts in which people have the pictures. Each is found by looking, and yields the same `SourceImage`s."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_prep.command import RequestError
from data_prep.sources import cifar10, fall2011, fashion_mnist, imagefolder, kaggle, parquet
from data_prep.sources.base import Source, SourceImage
from data_prep.sources.ilsvrc import ILSVRC2010, ILSVRC2012

__all__ = ["LAYOUTS", "Source", "SourceImage", "find_source"]


@dataclass(frozen=True)
class Layout:
    looks_like: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Source]
    downloads: bool = False  # asked for by name, its folder need not be there


# In the order in which they are looked for, by the names that the key `layout` takes.
LAYOUTS = {
    "ilsvrc2012": Layout(ILSVRC2012.looks_like, ILSVRC2012.recognises, ILSVRC2012.read),
    "ilsvrc2010": Layout(ILSVRC2010.looks_like, ILSVRC2010.recognises, ILSVRC2010.read),
    "kaggle": Layout(kaggle.LOOKS_LIKE, kaggle.recognises, kaggle.read),
    "parquet": Layout(parquet.LOOKS_LIKE, parquet.recognises, parquet.read),
    "folders": Layout(imagefolder.LOOKS_LIKE, imagefolder.recognises, imagefolder.read),
    "fall2011": Layout(fall2011.LOOKS_LIKE, fall2011.recognises, fall2011.read),
    "fashion_mnist": Layout(fashion_mnist.LOOKS_LIKE, fashion_mnist.recognises, fashion_mnist.read, downloads=True),
    "cifar10": Layout(cifar10.LOOKS_LIKE, cifar10.recognises, cifar10.read, downloads=True),
}


def find_source(src: Path, layout: str | None = None) -> Source:
    """The pictures below `src`, in whichever layout is there, or in the one named.

    RequestError says what was looked for.
    """
    if not src.is_dir() and not (layout and LAYOUTS[layout].downloads and not src.exists()):
        what = "is a file; give the folder that holds it" if src.is_file() else "does not exist; give src=FOLDER"
        raise RequestError(f"src={src}: {what}")
    try:
        if layout is not None:
            return LAYOUTS[layout].read(src)
        for candidate in LAYOUTS.values():
            if candidate.recognises(src):
                return candidate.read(src)
        found = sorted(path.name for path in src.iterdir())
    except OSError as error:
        raise RequestError(
            f"src={src}: {error.filename or src} cannot be read ({error.strerror or error}); mend it, or copy it anew"
        ) from None
    shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "") or "nothing"
    looked_for = "; ".join(candidate.looks_like for candidate in LAYOUTS.values())
    raise RequestError(f"src={src}: found {shown}, but no layout known here: {looked_for}")
