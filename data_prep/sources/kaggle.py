"""The tree of Kaggle's ImageNet Object Localization Challenge.

SRC/ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG ..., val/ILSVRC2012_val_00000001.JPEG ...
SRC/ILSVRC/ImageSets/CLS-LOC/train_cls.txt      n01440764/n01440764_10026 1, a line an image
SRC/LOC_val_solution.csv                        ImageId,PredictionString: the labels of val
SRC/LOC_synset_mapping.txt                      n01440764 tench, Tinca tinca
"""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import folders
from data_prep.sources.base import Source
from data_prep.sources.ilsvrc import ILSVRC2012

IMAGES, TRAIN_LIST = Path("ILSVRC/Data/CLS-LOC"), Path("ILSVRC/ImageSets/CLS-LOC/train_cls.txt")
SOLUTION, CLASS_NAMES = "LOC_val_solution.csv", "LOC_synset_mapping.txt"


def recognises(src: Path) -> bool:
    return (src / IMAGES).is_dir()


def read(src: Path) -> Source:
    """RequestError if the list of labels is missing or lacks an image."""
    for path in (src / IMAGES / "train", src / IMAGES / "val", src / SOLUTION):
        if not path.exists():
            raise RequestError(f"src={src}: {path.relative_to(src)} is missing; Kaggle's tree needs it")
    train = list(folders.by_class(src / IMAGES / "train"))
    labels = _labels(src / SOLUTION)
    val = [replace(image, wnid=labels.get(Path(image.name).stem, "")) for image in folders.flat(src / IMAGES / "val")]
    if unlabelled := [image.name for image in val if not image.wnid]:
        raise RequestError(f"{src / SOLUTION}: has no label for {len(unlabelled)} val images, {unlabelled[0]} first")
    class_names = _class_names(src / CLASS_NAMES) if (src / CLASS_NAMES).is_file() else {}
    source = Source("Kaggle's tree of ILSVRC-2012", src, {"train": train, "val": val}, class_names, ILSVRC2012.complete)
    if (src / TRAIN_LIST).is_file():
        lines = (src / TRAIN_LIST).read_text("utf-8", "replace").split("\n")
        listed = Counter(line.partition("/")[0] for line in lines if line.partition("/")[0])
        source.per_class = {"train": dict(listed), "val": dict(Counter(labels.values()))}
    elif class_names:
        source.per_class, source.per_class_is_least = ILSVRC2012.least(class_names), True
    return source


def _labels(path: Path) -> dict[str, str]:
    """ImageId,PredictionString: the first word of the string is the wnid."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: no list of ImageId,PredictionString ({error}); download it again") from None


def _class_names(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {wnid: name for wnid, _, name in (line.partition(" ") for line in lines if line)}
