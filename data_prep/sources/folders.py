"""Folders of images: what several layouts are made of, and two layouts that are nothing else.

    folders      SRC/train/<class>/<image>                 fall2011      SRC/fall11_whole.tar, a tar of n<number>.tar
                 SRC/val/<class>/<image>                              or SRC/n<number>.tar
                 SRC/test/<class>/<image>, if there is one            or SRC/n<number>/<image>; train only

Instead of the folder of a class its tar may lie there, <class>.tar.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data_prep.common.text import encodable
from data_prep.sources import tars
from data_prep.sources.base import Source, SourceImage

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_FALL2011 = "fall11_whole.tar"


def flat(folder: Path) -> Iterator[SourceImage]:
    """The images that lie in `folder` itself, without a class."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS and path.is_file():
            yield SourceImage(encodable(path.name), "", str(path), 0, path.stat().st_size)


def by_class(folder: Path) -> Iterator[SourceImage]:
    """folder/<class>/<image>, and the images of folder/<class>.tar."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            wnid = encodable(path.name)
            for image in flat(path):
                yield replace(image, name=f"{wnid}/{image.name}", wnid=wnid)
        elif path.suffix == ".tar" and path.is_file():
            yield from tars.images(path, encodable(path.stem))


def has_classes(folder: Path) -> bool:
    """Whether the images of `folder` are sorted by class."""
    return folder.is_dir() and any(path.is_dir() or path.suffix == ".tar" for path in folder.iterdir())


def recognises(src: Path) -> bool:
    return has_classes(src / "train") and has_classes(src / "val")


def read(src: Path) -> Source:
    present = [split for split in ("train", "val", "test") if has_classes(src / split)]
    return Source("folders of pictures", src, {split: list(by_class(src / split)) for split in present})


def recognises_fall2011(src: Path) -> bool:
    named = (re.fullmatch(r"n\d{8}(\.tar)?", path.name) for path in src.iterdir())
    return (src / _FALL2011).is_file() or any(named)


def read_fall2011(src: Path) -> Source:
    archive = src / _FALL2011
    train = tars.images_by_class(archive) if archive.is_file() else by_class(src)
    return Source("ImageNet's Fall-2011 release", src, {"train": list(train)})
