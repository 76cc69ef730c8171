"""The tree of Kaggle's ImageNet Object Localization Challenge.

SRC/ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG ..., val/ILSVRC2012_val_00000001.JPEG ..., or val sorted
SRC/ILSVRC/ImageSets/CLS-LOC/train_cls.txt      n01440764/n01440764_10026 1, a line an image
SRC/LOC_val_solution.csv                        ImageId,PredictionString: the labels of val
SRC/LOC_synset_mapping.txt                      n01440764 tench, Tinca tinca

SRC may also be any of the folders down to CLS-LOC. ILSVRC/, ILSVRC/Data/ or all three may be missing, so that Data/,
CLS-LOC/, or train/ and val/ lie beside the lists. All may be spelled in small letters.
"""

import csv
from collections import Counter
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import folders
from data_prep.sources.base import Source
from data_prep.sources.ilsvrc import ILSVRC2012
from data_prep.sources.inventory import Notes, find_named, is_called
from data_prep.sources.labels import SPLITS

IMAGES, LISTS, TRAIN_LIST = Path("ILSVRC/Data/CLS-LOC"), Path("ILSVRC/ImageSets/CLS-LOC"), "train_cls.txt"
SOLUTION, CLASS_NAMES = "LOC_val_solution.csv", "LOC_synset_mapping.txt"


def recognises(src: Path) -> bool:
    return _root_and_images(src) is not None


def _root_and_images(src: Path) -> tuple[Path, Path] | None:
    """The folder of the lists, and that of train/ and val/; None without a list where the path is not Kaggle's."""
    images = _inside(src, IMAGES)
    # A link is not followed, since it leads away from the lists.
    root = images.resolve() if ".." in images.parts else images.absolute()
    for name in reversed(IMAGES.parts):
        if find_named(root, SOLUTION):
            return (root, images) if folders.split_folders(images, "train") else None
        if not is_called(root, name):
            return None
        root = root.parent
    return root, images


def _inside(folder: Path, path: Path) -> Path:
    """The folder at the end of `path` below `folder`, in any case, also without its first names; else `folder`."""
    for first in range(len(path.parts)):
        place: Path | None = folder
        for name in path.parts[first:]:
            place = find_named(place, name) if place else None
        if place and place.is_dir():
            return place
    return folder


def read(src: Path) -> Source:
    """RequestError if the list of labels is missing or lacks an image."""
    root, place = _root_and_images(src) or (src, src / IMAGES)
    notes = Notes(place)
    parts = {split: folders.split_folders(place, split) if place.is_dir() else [] for split in SPLITS}
    if not parts["train"]:
        raise RequestError(f"src={src}: {IMAGES / 'train'} is missing; Kaggle's tree needs it")
    train = folders.read_split(parts["train"], notes)
    known = train.class_counts()
    splits = {"train": train}
    solution = find_named(root, SOLUTION)
    labels = _labels(solution) if solution else {}
    if parts["val"]:
        val = folders.read_split(parts["val"], notes, known)
        if not labels and "" in val.class_counts():
            raise RequestError(f"src={src}: {SOLUTION} is missing; it has the labels of {parts['val'][0]}")
        if labels:
            val = folders.with_labels(val, known, lambda image: labels.get(_stem(image.name), ""))
        if unlabelled := [image.name for image in val.of_classes([""])]:
            raise RequestError(f"{solution}: has no label for {len(unlabelled)} val images, {unlabelled[0]} first")
        splits["val"] = val
    if parts["test"]:
        notes.pass_over("test split, without labels", parts["test"][0])
    names, train_list = find_named(root, CLASS_NAMES), find_named(_inside(root, LISTS), TRAIN_LIST)
    class_names = _class_names(names) if names else {}
    source = Source(
        "Kaggle's tree of ILSVRC-2012", src, splits, class_names, ILSVRC2012.complete, left_out=notes.left_out(),
        notes=notes.taken(), no_val=f"{IMAGES / 'val'} is missing; Kaggle's tree needs it",
    )  # fmt: skip
    if train_list:
        lines = train_list.read_text("utf-8-sig", "replace").split("\n")
        listed = Counter(line.partition("/")[0] for line in lines if line.partition("/")[0])
        source.per_class = {"train": dict(listed), "val": dict(Counter(labels.values()))}
    elif class_names:
        source.per_class, source.per_class_is_least = ILSVRC2012.least(class_names), True
    return source


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def _labels(path: Path) -> dict[str, str]:
    """ImageId,PredictionString: the first word of the string is the wnid."""
    try:
        # utf-8-sig: Excel puts a mark at the beginning.
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: no list of ImageId,PredictionString ({error}); download it again") from None


def _class_names(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return {wnid: name for wnid, _, name in (line.partition(" ") for line in lines if line)}
