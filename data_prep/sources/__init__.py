"""Layouts in which people have the images. Each is found by looking, and yields the same `SourceImage`s."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import cifar10, fashion_mnist, folders, kaggle, parquet, tiny_imagenet
from data_prep.sources.base import Source, SourceImage
from data_prep.sources.ilsvrc import ILSVRC2010, ILSVRC2012

__all__ = ["LAYOUTS", "Source", "SourceImage", "find_source"]


@dataclass(frozen=True)
class Layout:
    tree: str  # what it looks like, for messages
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Source]
    downloads: bool = False  # asked for by name, its folder need not be there
    archive: bool = False  # `src` may be its one file


# In the order in which they are looked for, by the names that the key `layout` takes.
LAYOUTS = {
    "ilsvrc2012": Layout("the official archives", ILSVRC2012.recognises, ILSVRC2012.read),
    "ilsvrc2010": Layout("the official archives", ILSVRC2010.recognises, ILSVRC2010.read),
    "kaggle": Layout("Kaggle's ILSVRC/", kaggle.recognises, kaggle.read),
    "parquet": Layout("Hugging Face's parquet files", parquet.recognises, parquet.read),
    "tiny_imagenet": Layout("Tiny-ImageNet's zip", tiny_imagenet.recognises, tiny_imagenet.read, archive=True),
    "folders": Layout("train/<class>/ and val/<class>/", folders.recognises, folders.read),
    "fall2011": Layout("n<number>.tar or n<number>/", folders.recognises_fall2011, folders.read_fall2011),
    "fashion_mnist": Layout(
        "idx files with layout=fashion_mnist", fashion_mnist.recognises, fashion_mnist.read, downloads=True
    ),
    "cifar10": Layout("CIFAR-10's batches", cifar10.recognises, cifar10.read, downloads=True),
}


def find_source(src: Path, layout: str | None = None) -> Source:
    """The images below `src`, in whichever layout is there, or in the one named. No split is empty, and train is there.

    RequestError says what was looked for, or what is missing.
    """
    named = [LAYOUTS[layout]] if layout is not None else []
    if not src.exists() and not any(candidate.downloads for candidate in named):
        raise RequestError(f"src={src}: does not exist; give src=FOLDER")
    possible = [candidate for candidate in named or LAYOUTS.values() if candidate.archive or not src.is_file()]
    try:
        for candidate in possible:
            if named or candidate.recognises(src):
                return _not_empty(candidate.read(src), candidate)
        if not src.is_dir():
            raise RequestError(f"src={src}: is a file; give the folder that holds it")
        found = sorted(path.name for path in src.iterdir())
    except OSError as error:
        raise RequestError(
            f"src={src}: {error.filename or src} cannot be read ({error.strerror or error}); mend it, or copy it anew"
        ) from None
    shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "") or "nothing"
    known = ", ".join(dict.fromkeys(candidate.tree for candidate in LAYOUTS.values()))
    raise RequestError(f"src={src}: found {shown}, but no layout known here: {known}; more in docs/preparing.md")


def _not_empty(source: Source, layout: Layout) -> Source:
    for split in ("train", *source.splits):
        if not source.splits.get(split):
            raise RequestError(
                f"src={source.path}: read as {layout.tree}, but there are no {split} images; image files end in "
                f"{', '.join(sorted(folders.ENDINGS))}"
            )
    return source
