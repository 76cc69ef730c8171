"""python -m data_prep.verify DIR: re-reads every shard against the manifest; says OK, or what is wrong and where.

Exit code 0: OK. 1: something is wrong, one line each. 2: there is no data set to look at.
"""

import hashlib
import os
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.common.endings import run_and_exit
from data_prep.common.errors import DONE, FAILED, WRONG_REQUEST, RequestError
from data_prep.common.files import sha256_of
from data_prep.common.progress import progress_bar
from data_prep.format import INDEX, MEAN, Manifest, ShardInfo, decode, encoding_suffix
from data_prep.reader import SplitReader

_MOST_OF_A_SHARD = 20  # problems named one by one; more are counted


@dataclass
class Findings:
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the source had, and is worth knowing


@dataclass
class _Shard:
    """What was seen in one shard: `digests` has a picture's and the name of its member."""

    problems: list[str]
    digests: list[tuple[bytes, str]]


def check(folder: Path) -> Findings:
    """Everything found in the data set in `folder`, one line each; RequestError if there is no data set."""
    manifest = Manifest.load(folder)
    found = Findings()
    found.problems += _mean_problems(folder, manifest)
    places: dict[bytes, str] = {}  # pictures of train: where the first of each was seen
    for split in ["train", *(split for split in manifest.splits if split != "train")]:
        shards = list(_split(folder, manifest, split, found.problems))
        shared = []
        for file, shard in shards:
            found.problems += shard.problems
            for digest, name in shard.digests:
                if split == "train":
                    places.setdefault(digest, f"{split}/{file}, {name}")
                elif digest in places:
                    shared.append(f"{split}/{file}, {name} is {places[digest]}")
        if shared:
            found.notes.append(f"{len(shared)} {split} pictures are in train too, byte for byte; first {shared[0]}")
    return found


def _mean_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    path = folder / MEAN
    try:
        mean = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        yield f"{path}: cannot be read ({' '.join(str(error).split())})"
        return
    expected = (manifest.image_size, manifest.image_size, manifest.channels)
    if mean.shape != expected or mean.dtype != np.float32:
        yield f"{path}: {mean.dtype} {mean.shape}, expected float32 {expected}"
    else:
        yield from _changed(folder, MEAN, manifest)


def _changed(folder: Path, name: str, manifest: Manifest) -> Iterator[str]:
    if name in manifest.files and sha256_of(folder / name) != manifest.files[name]:
        yield f"{folder / name}: its bytes are not those that were written (sha256 differs)"


def _split(folder: Path, manifest: Manifest, split: str, problems: list[str]) -> Iterator[tuple[str, _Shard]]:
    try:
        reader = SplitReader(folder, manifest, split)
    except RequestError as error:
        problems.append(str(error))
        return
    changed = list(_changed(folder, f"{split}/{INDEX}", manifest))
    problems += changed
    classes = len(manifest.classes)
    if len(reader) and not 0 <= reader.labels.min() <= reader.labels.max() < classes:
        problems.append(f"{reader.folder / INDEX}: has labels outside 0 to {classes - 1}")
    elif np.bincount(reader.labels, minlength=classes).tolist() != reader.info.per_class:
        problems.append(f"{reader.folder}: images per class differ between index and manifest")
    if len(reader) != sum(shard.images for shard in reader.info.shards):
        problems.append(f"{reader.folder}: the manifest's shards have not as many images as the split")
    strangers = {path.name for path in reader.folder.glob("*.tar")} - {shard.file for shard in reader.info.shards}
    problems += [f"{reader.folder / name}: no part of the data set" for name in sorted(strangers)]
    # Checksums and decoding leave Python's lock, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        look = partial(_checked_shard, reader, manifest)
        with progress_bar(len(reader), f"verify {split}") as bar:
            for info, shard in zip(reader.info.shards, pool.map(look, range(len(reader.info.shards))), strict=True):
                bar.update(info.images)
                yield info.file, shard


def _checked_shard(reader: SplitReader, manifest: Manifest, number: int) -> _Shard:
    info = reader.info.shards[number]
    path = reader.folder / info.file
    try:
        if not path.is_file():
            return _Shard([f"{path}: missing"], [])
        if sha256_of(path) != info.sha256:
            return _Shard([f"{path}: its bytes are not those that were written (sha256 differs)"], [])
        shard = _read_shard(path, reader.index[reader.index["shard"] == number], info, manifest)
    except (OSError, ValueError, tarfile.TarError) as error:
        return _Shard([f"{path}: cannot be read ({' '.join(str(error).split())})"], [])
    if (more := len(shard.problems) - _MOST_OF_A_SHARD) > 0:
        shard.problems[_MOST_OF_A_SHARD:] = [f"{path}: and {more} more"]
    return shard


def _read_shard(path: Path, rows: np.ndarray, info: ShardInfo, manifest: Manifest) -> _Shard:
    """A shard read as any tar tool would read it, member by member, against its index rows."""
    shard = _Shard([], [])
    suffix = encoding_suffix(manifest.encoding)
    expected = (manifest.image_size, manifest.image_size, manifest.channels)
    with tarfile.open(path, "r:") as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        stems = [name.removesuffix(f".{suffix}") for name in names[::2]]
        if names != [f"{stem}.{ending}" for stem in stems for ending in (suffix, "cls")]:
            return _Shard([f"{path}: its members are not pairs of a .{suffix} and its .cls"], [])
        if not len(stems) == len(rows) == info.images:
            counts = f"{len(stems)} pictures, {len(rows)} in the index, {info.images} in the manifest"
            return _Shard([f"{path}: {counts}"], [])
        for picture, label, row in zip(members[::2], members[1::2], rows, strict=True):
            where = f"{path}, {picture.name}"
            if (picture.offset_data, picture.size) != (row["offset"], row["length"]):
                shard.problems.append(f"{where}: the index points elsewhere")
                continue
            file, label_file = tar.extractfile(picture), tar.extractfile(label)
            if file is None or label_file is None:
                shard.problems.append(f"{where}: is no plain file")
                continue
            if label_file.read(16).decode("ascii", "replace") != str(row["label"]):
                shard.problems.append(f"{where}: label differs from the index")
            data = file.read()
            shard.digests.append((hashlib.blake2b(data, digest_size=16).digest(), picture.name))
            try:
                pixels = decode(data, manifest.encoding)
            except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
                shard.problems.append(f"{where}: cannot be decoded ({' '.join(str(error).split())})")
                continue
            if pixels.shape != expected or pixels.dtype != np.uint8:
                shard.problems.append(f"{where}: is {pixels.dtype} {pixels.shape}, expected uint8 {expected}")
    return shard


def main(arguments: list[str]) -> int:
    """Prints what `check` found; an exit code."""
    asked = arguments in (["-h"], ["--help"])
    if asked or len(arguments) != 1 or arguments[0].startswith("-"):
        usage = "usage: python -m data_prep.verify DIR    exit code 0: the prepared data set DIR is OK, 1: it is not"
        print(usage, file=sys.stdout if asked else sys.stderr)
        return DONE if asked else WRONG_REQUEST
    found = check(Path(arguments[0]))
    for note in found.notes:
        print(f"note: {note}")
    print("\n".join(found.problems) or f"{arguments[0]}: OK")
    return FAILED if found.problems else DONE


if __name__ == "__main__":
    run_and_exit(lambda: main(sys.argv[1:]))
