"""The tree of Kaggle's ImageNet Object Localization Challenge.

SRC/ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG ..., val/ILSVRC2012_val_00000001.JPEG ..., or val sorted
SRC/ILSVRC/ImageSets/CLS-LOC/train_cls.txt      n01440764/n01440764_10026 1, a line an image
SRC/LOC_val_solution.csv                        ImageId,PredictionString: the labels of val
SRC/LOC_synset_mapping.txt                      n01440764 tench, Tinca tinca

SRC may also be any of the folders down to CLS-LOC, or hold train/ and val/ beside the lists.
"""

import csv
from collections import Counter
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import folders
from data_prep.sources.base import Source
from data_prep.sources.ilsvrc import ILSVRC2012
from data_prep.sources.inventory import Seen

IMAGES, TRAIN_LIST = Path("ILSVRC/Data/CLS-LOC"), Path("ILSVRC/ImageSets/CLS-LOC/train_cls.txt")
SOLUTION, CLASS_NAMES = "LOC_val_solution.csv", "LOC_synset_mapping.txt"


def recognises(src: Path) -> bool:
    return _root_and_images(src) is not None


def _root_and_images(src: Path) -> tuple[Path, Path] | None:
    """The folder of the lists, and that of train/ and val/."""
    if (src / IMAGES).is_dir():
        return src, src / IMAGES
    if (src / SOLUTION).is_file() and (src / "train").is_dir():
        return src, src
    here = src.absolute()
    for depth in range(1, len(IMAGES.parts) + 1):  # src is ILSVRC/, Data/ or CLS-LOC/ itself
        if here.parts[-depth:] == IMAGES.parts[:depth]:
            images = src.joinpath(*IMAGES.parts[depth:])
            return (here.parents[depth - 1], images) if images.is_dir() else None
    return None


def read(src: Path) -> Source:
    """RequestError if the list of labels is missing or lacks an image."""
    root, place = _root_and_images(src) or (src, src / IMAGES)
    seen = Seen(place)
    parts = {split: folders.split_folders(place, split) if place.is_dir() else [] for split in folders.SPLITS}
    if not parts["train"]:
        raise RequestError(f"src={src}: {IMAGES / 'train'} is missing; Kaggle's tree needs it")
    train = folders.read_split(parts["train"], seen)
    known = train.class_counts()
    splits, labels = {"train": train}, {}
    if (root / SOLUTION).is_file():
        labels = _labels(root / SOLUTION)
    if parts["val"]:
        val = folders.read_split(parts["val"], seen, known)
        if not labels and "" in val.class_counts():
            raise RequestError(f"src={src}: {SOLUTION} is missing; it has the labels of {parts['val'][0]}")
        if labels:
            val = folders.with_labels(val, known, lambda image: labels.get(_stem(image.name), ""))
        if unlabelled := [image.name for image in val.of_classes([""])]:
            raise RequestError(
                f"{root / SOLUTION}: has no label for {len(unlabelled)} val images, {unlabelled[0]} first"
            )
        splits["val"] = val
    if parts["test"]:
        seen.pass_over("test split, without labels", parts["test"][0])
    class_names = _class_names(root / CLASS_NAMES) if (root / CLASS_NAMES).is_file() else {}
    source = Source(
        "Kaggle's tree of ILSVRC-2012", src, splits, class_names, ILSVRC2012.complete, left_out=seen.left_out(),
        notes=seen.notes(), no_val=f"{IMAGES / 'val'} is missing; Kaggle's tree needs it",
    )  # fmt: skip
    if (root / TRAIN_LIST).is_file():
        lines = (root / TRAIN_LIST).read_text("utf-8", "replace").split("\n")
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
