"""Plain folders: train/<class>/<picture> and val/<class>/<picture>."""

from pathlib import Path

from data_prep.command import RequestError
from data_prep.sources.base import Source, SourceImage

LOOKS_LIKE = "folders train/<class>/ and val/<class>/ of pictures"
_SPLITS = ("train", "val", "test")
_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def recognises(src: Path) -> bool:
    return all((src / split).is_dir() for split in ("train", "val"))


def read(src: Path) -> Source:
    splits = {split: _pictures(src / split) for split in _SPLITS if (src / split).is_dir()}
    for split, images in splits.items():
        if not images:
            raise RequestError(
                f"src={src}: no pictures below {split}/<class>/; found none of {', '.join(sorted(_ENDINGS))}"
            )
    words = {image.wnid: image.wnid for image in splits["train"]}
    return Source("folders of pictures", src, words, splits)


def _pictures(folder: Path) -> list[SourceImage]:
    return [
        SourceImage(f"{path.parent.name}/{path.name}", path.parent.name, str(path), 0, path.stat().st_size)
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in _ENDINGS and path.is_file()
    ]
