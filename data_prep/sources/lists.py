"""A list of images: a line an image, its path and its class, parted by a space, a tab or a comma.

    SRC/train.txt, val.txt      n01440764/n01440764_10026.JPEG 0      as Caffe has them; also .lst, .csv, .tsv
    SRC/train/..., val/...      paths count from the list's folder or from that of its split, or are absolute

SRC may be the list of train itself, with that of val beside it. Classes are numbers or names.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.common.text import encodable
from data_prep.sources.base import DeadLink, Listing, Source, SourceImage
from data_prep.sources.folders import SPLITS
from data_prep.sources.labels import Label, name_and_wnid, provisional, resolve

ENDINGS = (".txt", ".lst", ".csv", ".tsv")
_HEADINGS = {"path", "image", "file", "filename", "file_name", "image_path", "filepath", "name"}


def recognises(src: Path) -> bool:
    if src.is_file():
        return src.suffix.lower() in ENDINGS
    return "train" in _lists(src)


def _lists(src: Path) -> dict[str, Path]:
    """RequestError if a folder has two lists of one split."""
    folder, lists = (src.parent, {"train": src}) if src.is_file() else (src, {})
    for split in SPLITS.keys() - lists.keys():
        found = [path for name in SPLITS[split] for ending in ENDINGS if (path := folder / f"{name}{ending}").is_file()]
        if len(found) > 1:
            one, other = found[0].name, found[1].name
            raise RequestError(f"src={src}: {one} and {other} could both be the list of {split}; move one of them away")
        if found:
            lists[split] = found[0]
    return lists


def read(src: Path) -> Source:
    """RequestError if a line has no path and class. A path that leads nowhere is an image that is rejected."""
    lists = _lists(src)
    if "train" not in lists:
        raise RequestError(f"src={src}: no list of train (train.txt, .lst, .csv or .tsv)")
    listed = {split: Listing(_images(path, split)) for split, path in lists.items()}
    splits, class_names, left_out = resolve(listed, [])
    return Source(
        "lists of paths and classes", src if src.is_dir() else src.parent, splits, class_names, left_out=left_out,
        no_val="no list of val (val.txt, .lst, .csv or .tsv)",
    )  # fmt: skip


def _images(path: Path, split: str) -> Iterator[SourceImage]:
    places = [path.parent, *(path.parent / name for name in SPLITS[split])]
    for number, (name, label) in enumerate(_rows(path), start=1):
        if number == 1 and name.lower() in _HEADINGS:
            continue
        file = next((found for place in places if (found := place / name).is_file()), None)
        short, wnid = name_and_wnid(name)
        text = provisional(label, wnid)
        if file is None:
            yield DeadLink(short, text, str(path.parent / name), 0, 0, encodable(str(path.parent / name)))
        else:
            yield SourceImage(short, text, str(file), 0, file.stat().st_size)


def _rows(path: Path) -> Iterator[tuple[str, Label]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                line = line.strip("\r\n")
                if not line.strip():
                    continue
                parts = next(csv.reader([line])) if "," in line and "\t" not in line else line.rsplit(None, 1)
                if len(parts) < 2 or not parts[0] or not parts[1]:
                    raise RequestError(f"{path}: line {number} is {line[:60]!r}, not a path and a class")
                label = parts[1].strip()
                yield parts[0].strip(), int(label) if label.isdecimal() else label
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: cannot be read as a list ({error}); save it as UTF-8") from None
