"""The official archives of ILSVRC-2012: a train tar of per-class tars, a flat val tar, and the devkit with the labels.

Pictures are addressed by their offset in the outer tar, so that 138 GB never need to be unpacked.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from data_prep.command import RequestError
from data_prep.labels import read_ilsvrc2012_devkit
from data_prep.sources.base import Source, SourceImage

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
LOOKS_LIKE = f"the official archives {TRAIN}, {VAL} and {DEVKIT}"
COMPLETE = {"train": 1_281_167, "val": 50_000}


def recognises(src: Path) -> bool:
    return any((src / name).is_file() for name in (TRAIN, VAL))


def read(src: Path) -> Source:
    for name in (TRAIN, VAL, DEVKIT):
        if not (src / name).is_file():
            raise RequestError(f"src={src}: {name} is missing; the official layout needs {TRAIN}, {VAL} and {DEVKIT}")
    devkit = read_ilsvrc2012_devkit(src / DEVKIT)
    train = list(_train(src / TRAIN))
    val = list(_val(src / VAL, devkit.val_wnids))
    words = {wnid: devkit.words.get(wnid, wnid) for wnid in {image.wnid for image in train}}
    return Source("archives in the official ILSVRC-2012 layout", src, words, {"train": train, "val": val}, COMPLETE)


def _train(path: Path) -> Iterator[SourceImage]:
    size = path.stat().st_size
    with path.open("rb") as file, tqdm(total=size, desc=f"list {TRAIN}", unit="B", unit_scale=True, leave=False) as bar:
        for inner in _members(file, path):
            bar.update(inner.offset_data - bar.n)
            wnid = Path(inner.name).stem
            end = inner.offset_data + inner.size
            file.seek(inner.offset_data)
            for member in _members(file, path, inside=inner.name):
                if member.offset_data + member.size > end:
                    raise RequestError(f"{path}: {inner.name} ends in the middle of {member.name}; download it again")
                yield SourceImage(member.name, wnid, str(path), member.offset_data, member.size)


def _val(path: Path, wnids: list[str]) -> Iterator[SourceImage]:
    with path.open("rb") as file:
        members = sorted(_members(file, path), key=lambda member: member.name)
    if len(members) != len(wnids):
        raise RequestError(
            f"{path}: {len(members)} pictures, but the devkit has labels for {len(wnids)}; "
            "the two are of different releases, or the download is incomplete"
        )
    for member in members:
        number = _number(member.name)
        if not 1 <= number <= len(wnids):
            raise RequestError(f"{path}: {member.name} is not named ILSVRC2012_val_<number>.JPEG with a label for it")
        yield SourceImage(member.name, wnids[number - 1], str(path), member.offset_data, member.size)


def _members(file: BinaryIO, path: Path, inside: str = "") -> Iterator[tarfile.TarInfo]:
    """The regular files of the tar that starts at `file`'s position. Their offsets count from the start of `file`."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # a million headers need not stay in memory
                if member.isfile():
                    position = file.tell()
                    yield member
                    file.seek(position)
    except (tarfile.TarError, OSError) as error:
        where = f"{path}, {inside}" if inside else str(path)
        raise RequestError(f"{where}: cannot be read as a tar ({error}); download it again") from None


def _number(name: str) -> int:
    digits = Path(name).stem.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0
