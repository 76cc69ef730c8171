"""What splits and classes are called; and the classes of images whose source counts them: in parquet files, shards and
lists.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import PurePosixPath

from data_prep.common.text import encodable
from data_prep.sources.base import Listing

SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
WNID = re.compile(r"n\d{8}")

# n01440764_10026_n01440764.JPEG and ILSVRC2012_val_00000001_n01751748.JPEG: the official name, then the class.
_NAME_AND_WNID = re.compile(rf"(?P<stem>.+)_(?P<wnid>{WNID.pattern})(?P<ending>\.\w+)")
_NAME_OF_WNID = re.compile(rf"(?P<wnid>{WNID.pattern})_\d+\.\w+")

Label = int | str


def label_of(text: str) -> Label:
    """A label as it is written: a number, -1 where there is none, or a text."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def name_and_wnid(path: str) -> tuple[str, str]:
    """The official name of an image, and the wnid that its name has, or ""."""
    name = encodable(PurePosixPath(path).name)
    if match := _NAME_AND_WNID.fullmatch(name):
        return match["stem"] + match["ending"], match["wnid"]
    match = _NAME_OF_WNID.fullmatch(name)
    return name, match["wnid"] if match else ""


_GAP = "\0"  # between label and wnid, while a listing is made


def provisional(label: Label | None, wnid: str) -> str:
    """What stands for the class of an image until `resolve` knows it; "" for an image without a label."""
    none = label is None or label == "" or (isinstance(label, int) and label < 0)
    return "" if none else f"{'i' if isinstance(label, int) else 's'}{label}{_GAP}{wnid}"


def resolve(splits: Mapping[str, Listing], names: list[str]) -> tuple[dict[str, Listing], dict[str, str], list[str]]:
    """Splits with provisional classes -> the same with their classes; `names`, of label 0, 1, ..., by class;
    and what is left out.

    The class of a label is the wnid, where the images' names give one for each label; the data set then equals the one
    made from the official archives. Else that of a text label is the text; that of a number is its name, if the names'
    order is that of the labels, as it is where the data set was made from folders; else the number.
    """
    pairs = {text: _label_and_wnid(text) for images in splits.values() for text in images.class_counts() if text}
    key_of = _class_keys(set(pairs.values()), names)
    left_out = []
    resolved = {}
    for split, images in splits.items():
        labelled = images.of_classes(set(images.class_counts()) - {""})
        if len(labelled) < len(images):
            left_out.append(f"{len(images) - len(labelled):,} {split} images have no label (-1)")
        if labelled:
            resolved[split] = labelled.rename_classes(lambda text: key_of[pairs[text][0]] if text else "")
    class_names = {key_of[label]: name for label, name in enumerate(names) if label in key_of}
    return resolved, class_names, left_out


def _label_and_wnid(text: str) -> tuple[Label, str]:
    label, _, wnid = text[1:].partition(_GAP)
    return (int(label) if text.startswith("i") else label), wnid


def _class_keys(pairs: Collection[tuple[Label, str]], names: list[str]) -> dict[Label, str]:
    """The class of each label, to be sorted by; `pairs`: every label with each wnid, or "", of its images' names."""
    wnids: dict[Label, set[str]] = defaultdict(set)
    for label, wnid in pairs:
        if wnid:
            wnids[label].add(wnid)
    labels = {label for label, _ in pairs}
    known = {label: next(iter(found)) for label, found in wnids.items() if len(found) == 1}
    if labels <= set(known) and len(set(known.values())) == len(known):
        return known
    numbers = {label for label in labels if isinstance(label, int)}
    if numbers != labels:
        return {label: str(label) for label in labels}
    if numbers <= set(range(len(names))) and all(a < b for a, b in pairwise(names)):
        return dict(enumerate(names))
    width = len(str(max([*numbers, len(names) - 1], default=0)))
    return {label: f"{label:0{width}d}" for label in labels}
