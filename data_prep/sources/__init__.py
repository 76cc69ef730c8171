"""Layouts in which people have the images. Each is found by looking, and yields the same `SourceImage`s.

A layout is two functions, mostly of one file:

- `recognises(src) -> bool` looks at names and at a few bytes. It may raise RequestError for a tree that it knows to be
  broken.
- `read(src) -> Source` lists every image and decodes no image file (CIFAR-10's sheets of many images apart). With
  `layout=NAME` it runs also where nothing was recognised, and then says what is missing.

Of an image's `name` the last part counts, the official file name: images are sorted by it, and it enters the
fingerprint, so that the same names, classes and bytes give the same shards from any layout. `wnid` is the class; ""
means unlabelled. An image that is not simply a part of a file is of a kind of its own: a frozen dataclass after
SourceImage, with `read` and, if its size does not tell it from another of its name, `mark`. The fields that it adds are
kept in a Listing.

Of each place that is looked at, the first of LAYOUTS that recognises it wins; only `lists` goes before all others where
nothing but a list labels val.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import (
    cifar10,
    downsampled,
    fashion_mnist,
    folders,
    inventory,
    kaggle,
    lists,
    parquet,
    tiny_imagenet,
    webdataset,
)
from data_prep.sources.base import Listing, Source, SourceImage
from data_prep.sources.ilsvrc import ILSVRC2010, ILSVRC2012
from data_prep.sources.labels import SPLIT_OF, SPLITS


@dataclass(frozen=True)
class Layout:
    tree: str  # what it looks like, for messages
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Source]
    downloads: bool = False  # asked for by name, its folder need not be there
    archive: bool = False  # `src` may be its one file


# In the order in which they are looked for, by the names that the key `layout` takes.
LAYOUTS = {
    "kaggle": Layout("Kaggle's ILSVRC/", kaggle.recognises, kaggle.read),
    "ilsvrc2012": Layout("official archives", ILSVRC2012.recognises, ILSVRC2012.read),
    "ilsvrc2010": Layout("official archives", ILSVRC2010.recognises, ILSVRC2010.read),
    "parquet": Layout("parquet files", parquet.recognises, parquet.read),
    "webdataset": Layout("WebDataset shards", webdataset.recognises, webdataset.read),
    "tiny_imagenet": Layout("Tiny-ImageNet's zip", tiny_imagenet.recognises, tiny_imagenet.read, archive=True),
    "folders": Layout("train/<class>/ and val/<class>/", folders.recognises, folders.read),
    "fall2011": Layout("n<number>.tar", folders.recognises_fall2011, folders.read_fall2011),
    "downsampled": Layout("ImageNet 32x32", downsampled.recognises, downsampled.read),
    "fashion_mnist": Layout(
        "idx files with layout=fashion_mnist", fashion_mnist.recognises, fashion_mnist.read, downloads=True
    ),
    "cifar10": Layout("CIFAR-10", cifar10.recognises, cifar10.read, downloads=True),
    "lists": Layout("train.txt", lists.recognises, lists.read, archive=True),
}

_BELOW = ("ILSVRC", "Data", "CLS-LOC")


def find_source(src: Path, layout: str | None = None, needs_val: bool = True) -> Source:
    """The images below `src`, in whichever layout is there, or in the one named. No split is empty, and train is there.

    `needs_val`: val is not to be taken from train. RequestError says what was looked for, or what is missing.
    """
    named = [] if layout is None else [LAYOUTS[layout]]
    if not src.exists() and not any(candidate.downloads for candidate in named):
        raise RequestError(f"src={src}: does not exist; give src=FOLDER")
    try:
        for place in _places(src):
            candidates = named or list(LAYOUTS.values())
            if not named and lists.are_all_that_labels_val(place):  # `folders` would refuse this val as unlabelled
                candidates = [LAYOUTS["lists"]]
            for candidate in candidates:
                if (candidate.archive or place.is_dir()) and candidate.recognises(place):
                    source = _read(candidate, place, needs_val)
                    if place != src:
                        source.notes.append(f"src={src}: read from {place}")
                    return source
        if named and (named[0].archive or not src.is_file()):
            return _read(named[0], src, needs_val)
        if not src.is_dir():
            raise RequestError(f"src={src}: is a file; give the folder that holds it")
        found = inventory.entries(src)
    except OSError as error:
        raise RequestError(
            f"src={src}: {error.filename or src} cannot be read ({error.strerror or error}); mend it, or copy it anew"
        ) from None
    names = [path.name for path in found]
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "nothing"
    near = _nearest(src, found) or ", ".join(dict.fromkeys(candidate.tree for candidate in LAYOUTS.values()))
    raise RequestError(f"src={src}: found {shown}, but no layout known here: {near}; see docs/preparing.md")


def _places(src: Path) -> Iterator[Path]:
    """`src`; what is above it, where it is a split's folder; and what is below, where nothing else is in it."""
    above = src.absolute().parent
    is_split = src.is_dir() and src.name.lower() in SPLIT_OF
    if is_split and all(folders.split_folders(above, split) for split in ("train", "val")):
        yield above
    yield src
    place = src
    for _ in range(4):
        if not place.is_dir():
            return
        if (place / "snapshots").is_dir() and (place / "blobs").is_dir():  # of the hub's cache
            place = _snapshot(place)
        else:
            inner = [path for path in inventory.entries(place) if path.is_dir()]
            inner = [path for path in inner if path.name.lower() not in SPLIT_OF]
            named = [path for path in inner if path.name in _BELOW]
            if len(inner) != 1 and len(named) != 1:
                return
            place = (named or inner)[0]
        yield place


def _snapshot(cache: Path) -> Path:
    """The version that the cache's branch main stands at, or the only one. RequestError if that cannot be told."""
    versions = inventory.entries(cache / "snapshots")
    main = cache / "refs" / "main"
    chosen = cache / "snapshots" / main.read_text("utf-8").strip() if main.is_file() else None
    if chosen is None or not chosen.is_dir():
        if len(versions) != 1:
            raise RequestError(f"src={cache}: {len(versions)} versions in snapshots/; give one of them as src")
        chosen = versions[0]
    return chosen


def _nearest(src: Path, found: list[Path]) -> str:
    """What the layout lacks that is nearest to what is there; "" if none is near."""
    names = [path.name for path in found]
    lower = [name.lower() for name in names]
    if any(name.startswith(("ilsvrc", "loc_")) for name in lower):
        archives = ", ".join(ILSVRC2012.archives.values())
        return f"the official archives lack {archives}, and Kaggle's tree lacks ILSVRC/Data/CLS-LOC/"
    if any(name.endswith(".parquet") for name in lower):
        return "names of parquet files must begin with train, validation or test, or those of their folders"
    if any(name.endswith((".tar", ".tgz")) for name in lower):
        return "names of WebDataset's shards must say train or val, and beside each image must be its label, <key>.cls"
    if packed := [name for name in names if name.lower().endswith((".zip", ".tar.gz", ".7z", ".rar"))]:
        return f"{packed[0]} is not read in place; unpack it"
    if "train" in lower:
        return "for train/<class>/ and val/<class>/, train/ lacks folders, one a class"
    if set(lower) & set(SPLITS["val"]):
        return "for train/<class>/ and val/<class>/, train/ is missing"
    classes = [path.name for path in found if path.is_dir()]
    if len(classes) > 1 and any(
        next(inventory.images_below(src / name, inventory.Notes(src)), None) for name in classes
    ):
        return (
            f"for train/<class>/, train/ is missing; if {classes[0]}/ and {classes[1]}/ are classes, move them into it"
        )
    return ""


def _read(layout: Layout, place: Path, needs_val: bool) -> Source:
    """What `layout` finds at `place`; RequestError if it cannot be used.

    A source with a thousand wnids and no counts of its own gets those that every class of ILSVRC-2012 has at least.
    """
    source = layout.read(place)
    _refuse_unusable(source, layout, needs_val)
    classes = source.splits["train"].class_counts()
    if not source.per_class and ILSVRC2012.are_its_classes(classes):
        source.per_class, source.per_class_is_least = ILSVRC2012.least(classes), True
    return source


def _refuse_unusable(source: Source, layout: Layout, needs_val: bool) -> None:
    """RequestError if a split is empty, a train image has no class, or val is missing."""
    for split in ("train", *source.splits):
        if not source.splits.get(split):
            raise RequestError(
                f"src={source.path}: read as {layout.tree}, but there are no {split} images"
                f"{' (' + source.left_out[-1] + ')' if source.left_out else ''}; image files end in "
                f"{', '.join(sorted(inventory.ENDINGS))}"
            )
    if unsorted := source.splits["train"].class_counts()[""]:
        raise RequestError(
            f"src={source.path}: {unsorted:,} train images lie in no folder or archive of a class, which would be "
            "their label; sort them"
        )
    if needs_val and "val" not in source.splits and source.no_val:
        has = (
            "test is no val, since its labels must not be looked at while training; " if "test" in source.splits else ""
        )
        raise RequestError(
            f"src={source.path}: {source.no_val}; {has}val_from_train=0.1 would take a tenth of train for it"
        )
