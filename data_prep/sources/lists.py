"""A list of images: a line an image, its path and its class, parted by a space, a tab or a comma.

    SRC/train.txt, val.txt      n01440764/n01440764_10026.JPEG 0      as Caffe has them; also .lst, .csv, .tsv
    SRC/train/..., val/...      paths count from the list's folder or from that of its split, or are absolute

SRC may be the list of train itself, with that of val beside it. Classes are numbers or names.
"""

import csv
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.common.errors import RequestError
from data_prep.common.text import encodable
from data_prep.sources.base import DeadLink, Listing, Source, SourceImage
from data_prep.sources.folders import split_folders
from data_prep.sources.inventory import folders_and_files, is_named_as_image
from data_prep.sources.labels import SPLITS, Label, label_of, name_and_wnid, provisional, resolve

ENDINGS = (".txt", ".lst", ".csv", ".tsv")


def recognises(src: Path) -> bool:
    if src.is_file():
        return src.suffix.lower() in ENDINGS
    return "train" in _lists(src)


def are_all_that_labels_val(src: Path) -> bool:
    """Whether val lies flat in its folder, as Caffe has it, and nothing but a list says the classes of its images."""
    if not src.is_dir() or not any((src / f"val{ending}").is_file() for ending in ENDINGS):
        return False
    others = any("devkit" in path.name.lower() or path.name.startswith("LOC_") for path in src.iterdir())
    inside = [folders_and_files(folder) for folder in split_folders(src, "val")]
    flat = any(not folders and any(is_named_as_image(file.name) for file in files) for folders, files in inside)
    return flat and not others and recognises(src)


def _lists(src: Path) -> dict[str, Path]:
    """The list of each split. RequestError if a folder has two of one split."""
    folder, lists = (src.parent, {"train": src}) if src.is_file() else (src, {})
    for split in SPLITS:
        if split in lists:
            continue
        found = [path for name in SPLITS[split] for ending in ENDINGS if (path := folder / f"{name}{ending}").is_file()]
        if len(found) > 1:
            one, other = found[0].name, found[1].name
            raise RequestError(f"src={src}: {one} and {other} could both be the list of {split}; move one of them away")
        if found:
            lists[split] = found[0]
    return lists


def read(src: Path) -> Source:
    """RequestError if a line has no path and class, or a file stands in a list twice. A path that leads nowhere is an
    image that is rejected.
    """
    lists = _lists(src)
    if "train" not in lists:
        raise RequestError(f"src={src}: no list of train (train.txt, .lst, .csv or .tsv)")
    skipped: list[str] = []
    listed = {split: _listing(path, split, skipped) for split, path in lists.items()}
    splits, class_names, left_out = resolve(listed, [])
    left_out += skipped
    return Source(
        "lists of paths and classes", src if src.is_dir() else src.parent, splits, class_names, left_out=left_out,
        no_val="no list of val (val.txt, .lst, .csv or .tsv)",
    )  # fmt: skip


@dataclass
class _Lines:
    """What is noted of the lines of a list while its images are read."""

    headings: list[str] = field(default_factory=list)  # lines above the first path: a heading, remarks
    files: "array[int]" = field(default_factory=lambda: array("q"))  # hashes: 1.3 million paths would be 150 MB
    with_file: set[str] = field(default_factory=set)  # classes of which some image is there


def _listing(path: Path, split: str, skipped: list[str]) -> Listing:
    """The images of a list. What is passed over is added to `skipped`."""
    lines = _Lines()
    images = Listing(_images(path, split, lines))
    if lines.headings:
        skipped.append(f"{path.name}, lines above the first path: {len(lines.headings)} ({lines.headings[0][:60]!r})")
    if not len(images):
        raise RequestError(f"{path}: no line has the path of an image{'; ' + skipped[-1] if lines.headings else ''}")
    _, first = np.unique(np.frombuffer(lines.files, np.int64), return_index=True)
    if len(first) < len(images):
        again = images[int(np.setdiff1d(np.arange(len(images)), first)[0])]
        raise RequestError(
            f"{path}: {len(images) - len(first):,} of {len(images):,} lines name a file that an earlier line names, "
            f"{again.name} first; take them out"
        )
    gone = sorted(images.class_counts().keys() - lines.with_file - {""})
    if gone:  # a remark further down, or another folder's list
        missing = next(image.path for image in images.of_classes(gone[:1]))
        raise RequestError(
            f"{path}: {missing} is not there, nor is any other image of its class; paths count from {path.parent}, or "
            "from train/ and val/ in it"
        )
    return images


def _images(path: Path, split: str, lines: _Lines) -> Iterator[SourceImage]:
    places = [path.parent, *(path.parent / name for name in SPLITS[split])]
    for name, label in _rows(path):
        file = next((found for place in places if (found := place / name).is_file()), None)
        if not lines.files and file is None and "/" not in name and not is_named_as_image(name):
            lines.headings.append(name)
            continue
        short, wnid = name_and_wnid(name)
        text = provisional(label, wnid)
        where = str(file or path.parent / name)
        # Without a label a file may stand there twice: its place instead.
        lines.files.append(hash(where) if text else len(lines.files))
        if file is None:
            yield DeadLink(short, text, where, 0, 0, encodable(where))
        else:
            lines.with_file.add(text)
            yield SourceImage(short, text, where, 0, file.stat().st_size)


def _rows(path: Path) -> Iterator[tuple[str, Label]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                line = line.rstrip()
                if not line.strip():
                    continue
                parts = _parts(line)
                if len(parts) < 2 or not parts[0] or not parts[1]:
                    raise RequestError(f"{path}: line {number} is {line[:60]!r}, not a path and a class")
                yield parts[0].strip(), label_of(parts[1].strip())
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: cannot be read as a list ({error}); save it as UTF-8") from None


def _parts(line: str) -> list[str]:
    if "\t" in line:
        return re.split(r"\t+", line)
    by_space = line.rsplit(None, 1)
    if "," not in line:
        return by_space
    by_comma = next(csv.reader([line]))
    # The comma of a folder's name parts nothing: "my images, all/x.jpg 0".
    return by_space if is_named_as_image(by_space[0]) and not is_named_as_image(by_comma[0]) else by_comma
