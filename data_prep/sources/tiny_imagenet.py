"""Tiny-ImageNet as it is downloaded: 200 classes of ImageNet, images of 64x64 pixels.

tiny-imagenet-200.zip, or the folder that it unpacks to
    wnids.txt, words.txt                       the classes; wnid, tab, name: of all of WordNet. Either may be missing
    train/n01443537/images/n01443537_0.JPEG    and so on
    val/images/val_0.JPEG, val/val_annotations.txt     name, tab, wnid, tab, a box that is not used
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_prep.common.errors import RequestError
from data_prep.common.text import encodable, few
from data_prep.sources import inventory, zips
from data_prep.sources.base import DeadLink, Listing, Source, SourceImage
from data_prep.sources.folders import split_folders
from data_prep.sources.inventory import Notes
from data_prep.sources.labels import SPLIT_OF

FOLDER, ARCHIVES = "tiny-imagenet-200", "tiny-imagenet*.zip"
CLASSES, CLASS_NAMES, LABELS = "wnids.txt", "words.txt", "val/val_annotations.txt"
COMPLETE, PER_CLASS, SIDE = {"train": 100_000, "val": 10_000}, {"train": 500, "val": 50}, 64

_MOST_BYTES = 64 << 20  # of a list; words.txt, the longest, has 2.7 MB
_AGAIN = "download it again"


def recognises(src: Path) -> bool:
    return _place(src) is not None


def read(src: Path) -> Source:
    """RequestError if a list is missing, or if the images are not those of the lists."""
    place = _place(src)
    if place is None:
        raise RequestError(f"src={src}: neither {FOLDER}.zip is there nor {FOLDER}/, which it unpacks to")
    notes = Notes(place)
    files = _files(place, notes)
    classes = _text(files, CLASSES, place).split() if CLASSES in files else None
    labels = dict(line.split("\t")[:2] for line in _text(files, LABELS, place).splitlines() if "\t" in line)
    names = _text(files, CLASS_NAMES, place).splitlines() if CLASS_NAMES in files else []
    splits: dict[str, list[SourceImage]] = {"train": [], "val": []}
    unlabelled = 0
    for name, image in files.items():
        split, *below = PurePosixPath(name).parts
        if inventory.is_system_path(name):
            notes.pass_over(inventory.HIDDEN, name)
        elif below and not inventory.is_named_as_image(name) and not inventory.begins_as_image(_head(image)):
            if not name.endswith(("_boxes.txt", LABELS)):
                notes.pass_over(inventory.NO_IMAGES, name)
        elif split == "train" and len(below) > 1:
            splits[split].append(replace(image, wnid=below[0]))
        elif split == "val":
            splits[split].append(replace(image, wnid=labels.get(below[-1], "")))
        elif split == "test":
            unlabelled += 1
    if classes is None:
        classes = sorted({image.wnid for image in splits["train"]})
    _check(place, classes, splits)
    return Source(
        layout="Tiny-ImageNet as downloaded",
        path=place,
        splits={split: Listing(images) for split, images in splits.items()},
        class_names=dict(line.split("\t", 1) for line in names if "\t" in line),
        complete=COMPLETE,
        per_class={split: dict.fromkeys(classes, number) for split, number in PER_CLASS.items()},
        side=SIDE,
        left_out=[*([f"test/: {unlabelled:,} images without labels"] if unlabelled else []), *notes.left_out()],
    )


def _place(src: Path) -> Path | None:
    """The folder or the archive: `src`, or what lies in it."""
    if src.is_file():
        return src if src.suffix.lower() == ".zip" and _has_lists(src) else None
    for folder in (src, src / FOLDER):
        marks = [PurePosixPath(LABELS).name, *(["images"] if (folder / CLASSES).is_file() else [])]
        vals = split_folders(folder, "val") if folder.is_dir() else []
        if any((val / mark).exists() for val in vals for mark in marks):
            return folder
    return next((path for path in sorted(src.glob(ARCHIVES)) if path.is_file()), None)


def _has_lists(archive: Path) -> bool:
    return any(image.name.endswith((CLASSES, LABELS)) for image in zips.members(archive))


def _files(place: Path, notes: Notes) -> dict[str, SourceImage]:
    """Every file by its name: the path below what has train/ and val/, whatever that is called in an archive, and
    however these are spelled.
    """
    if place.is_dir():
        return {_name(image): image for image in _below(place, notes)}
    listed = list(zips.members(place))
    roots = [image.name.removesuffix(CLASSES) for image in listed if PurePosixPath(image.name).name == CLASSES]
    root = min(roots, key=len, default=f"{FOLDER}/")
    inside = [replace(image, name=image.name.removeprefix(root)) for image in listed if image.name.startswith(root)]
    return {_name(image): image for image in inside}


def _name(image: SourceImage) -> str:
    split, slash, below = image.name.partition("/")
    return SPLIT_OF.get(split.lower(), split) + slash + below


def _below(folder: Path, notes: Notes) -> Iterator[SourceImage]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        for path in [Path(parent, name) for name in folders if inventory.is_endless_link(Path(parent, name))]:
            notes.pass_over(inventory.LINKS, path)
            folders.remove(path.name)
        for path in (Path(parent, name) for name in names):
            name = encodable(path.relative_to(folder).as_posix())
            if path.exists():
                yield SourceImage(name, "", str(path), 0, path.stat().st_size)
            elif inventory.is_named_as_image(name):
                yield DeadLink(name, "", str(path), 0, 0, encodable(str(path.readlink())))


def _head(image: SourceImage) -> bytes:
    try:
        return image.read(16)
    except OSError:
        return b""


def _text(files: dict[str, SourceImage], name: str, place: Path) -> str:
    if name not in files:
        raise RequestError(f"{place}: {name} is missing; {_AGAIN}")
    try:
        return files[name].read(_MOST_BYTES).decode("utf-8-sig", "replace")
    except OSError as error:
        raise RequestError(f"{place}: {name} cannot be read ({error.strerror or error}); {_AGAIN}") from None


def _check(place: Path, classes: list[str], splits: dict[str, list[SourceImage]]) -> None:
    found = {image.wnid for image in splits["train"]}
    if absent := sorted(set(classes) - found):
        raise RequestError(
            f"{place}: {CLASSES} lists {few(absent, 1)}, but there are no images in train/{absent[0]}/; "
            f"{_AGAIN}, or take out the line"
        )
    if unknown := sorted(found - set(classes)):
        raise RequestError(f"{place}: {CLASSES} does not list {few(unknown, 1)}, which train/ has; {_AGAIN}")
    if odd := [image.name for image in splits["val"] if not image.wnid]:
        raise RequestError(f"{place}: {LABELS} has no label for {few(odd, 1)}; {_AGAIN}")
    names: dict[str, str] = {}
    for image in splits["val"]:
        if (other := names.setdefault(PurePosixPath(image.name).name, image.name)) != image.name:
            raise RequestError(f"{place}: {other} and {image.name} are the same image; delete one copy of val")
