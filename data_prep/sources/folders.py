"""Folders of pictures: flat, or one a class."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data_prep.common.text import encodable
from data_prep.sources import tars
from data_prep.sources.base import SourceImage

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def flat(folder: Path) -> Iterator[SourceImage]:
    """The pictures that lie in `folder` itself, without a class."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS and path.is_file():
            yield SourceImage(encodable(path.name), "", str(path), 0, path.stat().st_size)


def by_class(folder: Path) -> Iterator[SourceImage]:
    """folder/<class>/<picture>, and the pictures of folder/<class>.tar."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            wnid = encodable(path.name)
            for image in flat(path):
                yield replace(image, name=f"{wnid}/{image.name}", wnid=wnid)
        elif path.suffix == ".tar" and path.is_file():
            yield from tars.pictures(path, encodable(path.stem))


def has_classes(folder: Path) -> bool:
    """Whether the pictures of `folder` are sorted by class."""
    return any(path.is_dir() or path.suffix == ".tar" for path in folder.iterdir())
