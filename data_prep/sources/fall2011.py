"""ImageNet's whole Fall-2011 release: a tar of per-class tars, or what it unpacks to; train only."""

import re
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import folders, tars
from data_prep.sources.base import Source

ARCHIVE = "fall11_whole.tar"
_WNID = re.compile(r"n\d{8}(\.tar)?")


def recognises(src: Path) -> bool:
    return (src / ARCHIVE).is_file() or any(_WNID.fullmatch(path.name) for path in src.iterdir())


def read(src: Path) -> Source:
    archive = src / ARCHIVE
    train = list(tars.pictures_by_class(archive) if archive.is_file() else folders.by_class(src))
    if not train:
        raise RequestError(f"src={src}: no pictures below n<number>.tar or n<number>/")
    words = {image.wnid: image.wnid for image in train}
    return Source("ImageNet's Fall-2011 release", src, words, {"train": train})
