"""Shards in the WebDataset convention, of other tools and our own: tars of <key>.jpg and <key>.cls side by side.

    SRC/imagenet1k-train-0000.tar ..., imagenet1k-validation-0000.tar ...     or in folders named after the split
    SRC/train/shard-00000.tar ..., val/shard-00000.tar ..., manifest.json     a prepared data set

A label is a number or a text. The classes are the wnids in the images' names, if those have any; else those of
manifest.json or of a list of names, a line a class (classnames.txt, classes.txt, labels.txt); else the numbers.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from tarfile import TarInfo
from typing import BinaryIO

from data_prep.common.errors import RequestError
from data_prep.common.progress import progress_bar
from data_prep.common.text import encodable
from data_prep.format import MANIFEST
from data_prep.sources import inventory, tars
from data_prep.sources.base import Listing, Source, SourceImage, as_pnm
from data_prep.sources.inventory import Notes
from data_prep.sources.labels import SPLIT_OF, Label, label_of, name_and_wnid, provisional, resolve

NAMES = ("classnames.txt", "classes.txt", "labels.txt")

_SPLIT = re.compile(rf"(?:.*[^a-z])?({'|'.join(SPLIT_OF)})(?:[^a-z].*)?", re.IGNORECASE)
_LABEL_BYTES = 256


@dataclass(frozen=True, slots=True)
class ArrayImage(SourceImage):
    """Pixels as our own shards with encoding=raw hold them: an .npy of uint8 [height, width, channels]."""

    def read(self, most: int) -> bytes:
        """As a portable graymap or pixmap."""
        data = SourceImage.read(self, most)
        head = re.match(
            rb"\x93NUMPY\x01\x00..\{'descr': '\|u1', 'fortran_order': False, 'shape': \((\d+), (\d+), ([13])\)",
            data,
            re.S,
        )
        if head is None:
            raise ValueError("no array of uint8 [height, width, 1 or 3]")
        start = 10 + int.from_bytes(data[8:10], "little")
        return as_pnm(data[start:], *map(int, head.groups()))


def recognises(src: Path) -> bool:
    shards = _shards(src)
    return "train" in shards and _has_labels(shards["train"][0])


def _shards(src: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in inventory.entries(src):
        inside = SPLIT_OF.get(path.name.lower())
        for shard in inventory.entries(path) if path.is_dir() and inside else [path]:
            named = inside or ((match := _SPLIT.fullmatch(shard.stem)) and SPLIT_OF[match[1].lower()])
            if named and inventory.is_archive(shard.name):
                inventory.refuse_dead_link(shard)
                if shard.is_file():
                    found.setdefault(named, []).append(shard)
    return found


def _has_labels(shard: Path) -> bool:
    try:
        with shard.open("rb") as file:
            return any(member.name.endswith(".cls") for member in islice(tars.members(file, shard), 16))
    except RequestError:
        return False


def read(src: Path) -> Source:
    """RequestError if a shard is damaged, or an image has no label beside it."""
    notes, shards = Notes(src), _shards(src)
    keys, names = _class_names(src, shards)
    for paths in shards.values():
        inventory.refuse_missing_parts(paths)
    listed: dict[str, Listing] = {
        split: Listing(_images(shards[split], notes)) for split in ("train", "val", "test") if split in shards
    }
    splits, class_names, left_out = resolve(listed, keys)
    return Source(
        "shards in the WebDataset convention", src, splits,
        class_names if names is None else names, left_out=[*left_out, *notes.left_out()], notes=notes.taken(),
        no_val="no shards of val (their names, or their folder's, say val or validation)",
    )  # fmt: skip


def _images(shards: list[Path], notes: Notes) -> Iterator[SourceImage]:
    with progress_bar(sum(path.stat().st_size for path in shards), "list the shards", unit="B", stays=False) as bar:
        for path in shards:
            with path.open("rb") as file:
                yield from _of_shard(file, path, notes)
            bar.update(path.stat().st_size)


def _of_shard(file: BinaryIO, path: Path, notes: Notes) -> Iterator[SourceImage]:
    """The images of a shard, each with its label: the members of one key lie side by side, in any order."""
    key, image, label = "", None, None

    def finished() -> Iterator[SourceImage]:
        if image is not None and label is None:
            raise RequestError(
                f"{path}: {encodable(image.name)} has no label, {key.lstrip('/')}.cls, beside it; make the shard again"
            )
        if image is not None:
            yield _image(image, path, label)

    for member in tars.members(file, path):
        if inventory.is_system_path(member.name):
            notes.pass_over(inventory.HIDDEN, f"{path.name}: {member.name}")
            continue
        stem, _, ending = member.name.rpartition("/")[2].partition(".")
        here = f"{member.name.rpartition('/')[0]}/{stem}"
        if here != key:
            yield from finished()
            key, image, label = here, None, None
        if ending == "cls":
            file.seek(member.offset_data)
            text = file.read(min(member.size, _LABEL_BYTES)).decode("utf-8-sig", "replace")
            label = label_of(text.strip())
        elif ending in ("json", "txt", "__key__"):
            continue
        elif ending == "npy" or tars.is_image(file, member):
            if image is not None:
                one, other = (encodable(found.name) for found in (image, member))
                raise RequestError(f"{path}: {one} and {other} are images of one key; make the shard with one of them")
            image = member
        else:
            notes.pass_over(inventory.NO_IMAGES, f"{path.name}: {member.name}")
    yield from finished()


def _image(member: TarInfo, path: Path, label: Label | None) -> SourceImage:
    name, wnid = name_and_wnid(PurePosixPath(member.name).name)
    kind = ArrayImage if name.endswith(".npy") else SourceImage
    return kind(name, provisional(label, wnid), str(path), member.offset_data, member.size)


def _class_names(src: Path, shards: dict[str, list[Path]]) -> tuple[list[str], dict[str, str] | None]:
    """What the labels 0, 1, ... are called, to be sorted by; and what people call those, where a manifest says it.

    RequestError if the shards are not those of the manifest.
    """
    if (src / MANIFEST).is_file():
        try:
            manifest = json.loads((src / MANIFEST).read_text("utf-8"))
            classes = [(str(known["wnid"]), str(known["words"])) for known in manifest["classes"]]
            listed = {
                split: {str(shard["file"]) for shard in info["shards"]} for split, info in manifest["splits"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"{src / MANIFEST}: no manifest of a data set ({error}); take it away") from None
        for split, files in listed.items():
            paths = shards.get(split, [])
            found = {path.name for path in paths}
            if odd := min(found ^ files, default=None):
                folder = paths[0].parent if paths else src / split
                how = "is there, but not" if odd in found else "is missing, but"
                raise RequestError(f"{folder / odd}: {how} listed in {MANIFEST}; copy the data set anew")
        return [wnid for wnid, _ in classes], dict(classes)
    path = next((src / name for name in NAMES if (src / name).is_file()), None)
    lines = [] if path is None else path.read_text("utf-8-sig", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()], None
