"""Plain folders: train/<class>/<picture> and val/<class>/<picture>."""

from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import folders
from data_prep.sources.base import Source

_SPLITS = ("train", "val", "test")


def recognises(src: Path) -> bool:
    return all((src / split).is_dir() and folders.has_classes(src / split) for split in ("train", "val"))


def read(src: Path) -> Source:
    present = [split for split in _SPLITS if (src / split).is_dir() and folders.has_classes(src / split)]
    splits = {split: list(folders.by_class(src / split)) for split in present}
    for split, images in splits.items():
        if not images:
            raise RequestError(
                f"src={src}: no pictures below {split}/<class>/; found none of {', '.join(sorted(folders.ENDINGS))}"
            )
    words = {image.wnid: image.wnid for image in splits["train"]}
    return Source("folders of pictures", src, words, splits)
