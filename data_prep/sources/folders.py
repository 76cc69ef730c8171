"""Folders of images: what several layouts are made of, and two layouts that are nothing else.

    folders      SRC/train/<class>/<image>                 fall2011      SRC/fall11_whole.tar, a tar of n<number>.tar
                 SRC/val/<class>/<image>                              or SRC/n<number>.tar
                 SRC/test/<class>/<image>, if there is one            or SRC/n<number>/<image>; train only

Instead of the folder of a class its tar may lie there, <class>.tar. A split may be spelled as in SPLITS, in capital
letters too, lie in a folder of its own within its folder, or in several (train.X1 ... of Kaggle's ImageNet-100).
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.common.text import encodable
from data_prep.sources import inventory, tars
from data_prep.sources.base import Listing, Source, SourceImage
from data_prep.sources.inventory import Notes
from data_prep.sources.labels import SPLITS, WNID, name_and_wnid

NO_VAL = "no val images (val/, validation/ or valid/)"
CLASS_NAMES = "Labels.json"  # of Kaggle's ImageNet-100: {wnid: what people call it}

_FALL2011 = "fall11_whole.tar"
_COPY = re.compile(r"(?P<name>.+?) ?\(\d+\)")  # what browsers and desktops call a second one
_BESIDE = "archives beside the folders of their classes"
_FEWER = "archives with fewer images than the folders beside them"
_UNPACKED = "archives beside the images unpacked from them"
_FEW = 100  # images outside the folders of the classes, one for so many inside, are passed over; more are refused


def split_folders(src: Path, split: str) -> list[Path]:
    """The folders of a split: one, or numbered ones. RequestError if two spellings are there, a dead link, or a part is
    missing.
    """
    found: dict[str, list[Path]] = {}
    for path in inventory.entries(src):
        for name in SPLITS[split]:
            if re.fullmatch(rf"{name}[._-]?(x|part)?[._-]?\d*", path.name.lower()):
                inventory.refuse_dead_link(path)
                if path.is_dir():
                    whole = path.name.lower() == name
                    found.setdefault(path.name if whole else f"{name} in parts", []).append(path)
    if len(found) > 1:
        one, other = (paths[0].name for paths in islice(found.values(), 2))
        raise RequestError(f"src={src}: {one}/ and {other}/ could both be {split}; move one of them away")
    parts = next(iter(found.values()), [])
    inventory.refuse_missing_parts(parts)
    return parts


def read_split(folders: Iterable[Path], notes: Notes, known: Collection[str] = ()) -> Listing:
    """All images of a split; class "" where they are not sorted. `known`: the classes of train, for val.

    RequestError if a class is there twice, a number in brackets behind its name.
    """
    images = Listing(chain.from_iterable(_split(folder, notes, known) for folder in folders))
    classes = images.class_counts()
    for name in classes:
        if (copy := _COPY.fullmatch(name)) and copy["name"] in classes:
            path = next(iter(images.of_classes([name]))).path
            raise RequestError(
                f"{path}: of class {name}; is that {copy['name']} once more? Take it away, or rename it if it is not"
            )
    return images


def with_labels(images: Listing, known: Collection[str], label_of: Callable[[SourceImage], str]) -> Listing:
    """The images unchanged if they are sorted into train's classes; else each with the class that `label_of` gives."""
    found = images.class_counts()
    if found and "" not in found and any(wnid in known for wnid in found):
        return images
    return Listing(replace(image, wnid=label_of(image)) for image in images)


def _split(folder: Path, notes: Notes, known: Collection[str]) -> Iterator[SourceImage]:
    folder = _innermost(folder, known, notes)
    classes, files = inventory.folders_and_files(folder)
    archives = [path for path in files if inventory.is_archive(path.name) and path.is_file()]
    if not classes and len(archives) == 1 and tars.is_of_all(archives[0]):
        loose = list(inventory.loose_images(folder, notes))
        if loose:
            notes.pass_over(_UNPACKED, archives[0])
            yield from loose
        else:
            yield from tars.images_by_class(archives[0], notes)
        return
    if not classes and not archives:
        yield from inventory.loose_images(folder, notes)
        return
    _refuse_links_to_one([*classes, *archives])
    wnids = {encodable(path.name) for path in classes}
    count, names, packed = 0, set[str](), set(archives)  # of Fall 2011 there are 21,841
    loose = list(inventory.loose_images(folder, notes))
    for path in sorted([*classes, *archives]):
        if path not in packed:
            own = images_of_class(path, notes)
        elif not _is_passed_over(path, wnids, notes):
            own = tars.images(path, encodable(path.stem), notes)
        else:
            continue
        for image in own:
            count += 1
            if loose:
                names.add(image.name.rpartition("/")[2])
            yield image
    outside = [image for image in loose if image.name not in names]
    if count and len(outside) * _FEW > count:
        raise RequestError(
            f"{folder}: {len(outside):,} images lie outside the folders of the classes ({outside[0].name}), {count:,} "
            "inside; a sorting that was not finished? Sort these too, or move them away"
        )
    if not count:
        yield from loose
        return
    for image in loose:
        copied = image.name in names
        notes.pass_over(
            f"images outside the folders of the classes{', which have them too' * copied}", Path(image.path)
        )


def _refuse_links_to_one(classes: list[Path]) -> None:
    """RequestError if two classes are one, by a link."""
    links = {path.resolve(): path for path in classes if path.is_symlink()}
    for path in classes if links else ():
        if (link := links.get(path.resolve(), path)) != path:
            raise RequestError(f"{link}: a link to what {path.name} is; one cannot be two classes: take the link away")


def _innermost(folder: Path, known: Collection[str], notes: Notes) -> Path:
    """`folder`, or the only folder in it, where that is no class: train/train/, val/ILSVRC2012_img_val/."""
    for _ in range(3):
        inner, files = inventory.folders_and_files(folder)
        if len(inner) != 1 or inner[0].name in known or any(inventory.is_named_as_image(path.name) for path in files):
            return folder
        deeper, archives = inventory.folders_and_files(inner[0])
        if not known and len(deeper) + sum(inventory.is_archive(path.name) for path in archives) < 2:
            return folder
        for path in files:
            notes.pass_over(_UNPACKED if inventory.is_archive(path.name) else inventory.NO_IMAGES, path)
        folder = inner[0]
    return folder


def _is_passed_over(archive: Path, wnids: set[str], notes: Notes) -> bool:
    """Whether an archive beside the folders of classes holds what they hold. RequestError if it holds more."""
    wnid = encodable(archive.stem)
    folder = archive.with_suffix("")
    if wnid in wnids:
        unpacked = sum(1 for _ in inventory.images_below(folder, Notes(notes.src)))
        if unpacked == 0:
            return False
        packed = sum(1 for _ in tars.images(archive, wnid, Notes(notes.src)))
        if packed > unpacked:
            raise RequestError(
                f"{archive}: has {packed:,} images, and the folder {folder.name}/ beside it {unpacked:,}; it was not "
                "unpacked to its end: unpack it again, or delete one of the two"
            )
        notes.pass_over(_FEWER if packed < unpacked else _BESIDE, archive)
        return True
    odd = bool(wnids) and all(WNID.fullmatch(name) for name in wnids) and not WNID.fullmatch(wnid)
    if odd or (wnids and tars.is_of_all(archive)):
        notes.pass_over(_BESIDE, archive)
        return True
    return False


def images_of_class(folder: Path, notes: Notes) -> Iterator[SourceImage]:
    """The images of the class that `folder` is named after, however deep they lie in it."""
    wnid, empty = encodable(folder.name), True
    for image in inventory.images_below(folder, notes, f"{wnid}/"):
        empty = False
        yield replace(image, wnid=wnid)
    if empty and not any(folder.with_name(folder.name + ending).is_file() for ending in (".tar", ".TAR")):
        notes.pass_over(inventory.EMPTY, folder)


def recognises(src: Path) -> bool:
    inside = (path for folder in split_folders(src, "train") for path in inventory.entries(folder))
    return any(path.is_dir() or inventory.is_archive(path.name) for path in inside)


def read(src: Path) -> Source:
    """RequestError if val is not sorted by class, and the names of its images do not say their classes."""
    notes = Notes(src)
    splits = {"train": read_split(split_folders(src, "train"), notes)}
    known = splits["train"].class_counts()
    for split in ("val", "test"):
        images = read_split(split_folders(src, split), notes, known)
        images = with_labels(images, known, lambda image: image.wnid or name_and_wnid(image.name)[1])
        unlabelled = images.class_counts()[""]
        if unlabelled and split == "val":
            raise RequestError(
                f"{split_folders(src, split)[0]}: {unlabelled:,} images that are not sorted by class, and nothing says "
                "their labels; put the devkit (ILSVRC2012_devkit_t12.tar.gz) or Kaggle's LOC_val_solution.csv into "
                f"{src}, sort them into folders named as those of train, or leave them out with val_from_train=0.1"
            )
        if unlabelled:
            notes.pass_over(f"test split: {unlabelled:,} images without labels", split_folders(src, split)[0])
        elif images:
            splits[split] = images
    return Source(
        "folders of pictures", src, splits, _class_names(src / CLASS_NAMES), left_out=notes.left_out(),
        notes=notes.taken(), no_val=NO_VAL,
    )  # fmt: skip


def _class_names(path: Path) -> dict[str, str]:
    """{} where there is no such list."""
    if not path.is_file():
        return {}
    try:
        names = json.loads(path.read_text("utf-8-sig"))
        return {str(wnid): str(name) for wnid, name in names.items()}
    except (ValueError, AttributeError) as error:
        raise RequestError(f"{path}: no list of class names ({error}); download it again, or take it away") from None


def recognises_fall2011(src: Path) -> bool:
    names = (path.stem if inventory.is_archive(path.name) else path.name for path in src.iterdir())
    return (src / _FALL2011).is_file() or any(map(WNID.fullmatch, names))


def read_fall2011(src: Path) -> Source:
    """RequestError if a class is no n<number>, as val/ beside the classes would be."""
    archive, notes = src / _FALL2011, Notes(src)
    train = Listing(tars.images_by_class(archive, notes)) if archive.is_file() else read_split([src], notes)
    if others := [name for name in train.class_counts() if not WNID.fullmatch(name)]:
        path = next(iter(train.of_classes(others))).path
        raise RequestError(
            f"{path}: is in no class n<number>, as others here are; move those into {src / 'train'}, or this away"
        )
    return Source(
        "ImageNet's Fall-2011 release", src, {"train": train}, left_out=notes.left_out(), notes=notes.taken(),
        no_val="classes n<number> in no train/ are read as ImageNet's Fall-2011 release, which has no val",
    )  # fmt: skip
