"""The tree of Kaggle's ImageNet Object Localization Challenge: ILSVRC/Data/CLS-LOC, and lists beside ILSVRC/."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import folders
from data_prep.sources.base import Source
from data_prep.sources.ilsvrc import ILSVRC2012

IMAGES, SOLUTION, WORDS = Path("ILSVRC/Data/CLS-LOC"), "LOC_val_solution.csv", "LOC_synset_mapping.txt"
TRAIN_LIST = Path("ILSVRC/ImageSets/CLS-LOC/train_cls.txt")  # n01440764/n01440764_10026 1, a line a picture


def recognises(src: Path) -> bool:
    return (src / IMAGES).is_dir()


def read(src: Path) -> Source:
    """RequestError if the list of labels is missing or lacks a picture."""
    for path in (src / IMAGES / "train", src / IMAGES / "val", src / SOLUTION):
        if not path.exists():
            raise RequestError(f"src={src}: {path.relative_to(src)} is missing; Kaggle's tree needs it")
    train = list(folders.by_class(src / IMAGES / "train"))
    labels = _labels(src / SOLUTION)
    val = [replace(image, wnid=labels.get(Path(image.name).stem, "")) for image in folders.flat(src / IMAGES / "val")]
    if unlabelled := [image.name for image in val if not image.wnid]:
        raise RequestError(f"{src / SOLUTION}: has no label for {len(unlabelled)} val pictures, {unlabelled[0]} first")
    known = _words(src / WORDS) if (src / WORDS).is_file() else {}
    words = {wnid: known.get(wnid, wnid) for wnid in {image.wnid for image in train}}
    source = Source("Kaggle's tree of ILSVRC-2012", src, words, {"train": train, "val": val}, ILSVRC2012.complete)
    if (src / TRAIN_LIST).is_file():
        listed = Counter(
            line.partition("/")[0] for line in (src / TRAIN_LIST).read_text("utf-8", "replace").split("\n")
        )
        source.per_class = {"train": {wnid: count for wnid, count in listed.items() if wnid}}
        source.per_class["val"] = dict(Counter(labels.values()))
    elif known:
        source.per_class, source.per_class_is_least = ILSVRC2012.least(known), True
    return source


def _labels(path: Path) -> dict[str, str]:
    """ImageId,PredictionString: the first word of the string is the wnid."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: no list of ImageId,PredictionString ({error}); download it again") from None


def _words(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {wnid: words for wnid, _, words in (line.partition(" ") for line in lines if line)}
