"""python -m data_prep.verify DIR: re-reads every shard against the manifest; says OK, or what is wrong and where.

Exit code 0: OK. 1: something is wrong, one line each. 2: there is no data set to look at.
"""

import hashlib
import re
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.common.endings import run_and_exit
from data_prep.common.errors import DONE, FAILED, WRONG_REQUEST, RequestError
from data_prep.common.files import sha256_of
from data_prep.common.progress import progress_bar
from data_prep.common.text import one_line
from data_prep.format import INDEX, MEAN, Manifest, decode, encoding_suffix
from data_prep.pool import cores
from data_prep.reader import SplitReader

_MOST_OF_A_SHARD = 20  # problems named one by one; more are counted
_CHANGED = "its bytes are not those that were written (sha256 differs)"


@dataclass
class Findings:
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the source had, and is worth knowing


def check(folder: Path) -> Findings:
    """Everything found in the data set in `folder`, one line each; RequestError if there is no data set."""
    manifest = Manifest.load(folder)
    found = Findings(_mean_problems(folder, manifest))
    first_seen: dict[bytes, str] = {}  # by digest, where the first such image of train lies
    for split in sorted(manifest.splits, key=lambda split: split != "train"):  # train first
        try:
            reader = SplitReader(folder, manifest, split)
        except RequestError as error:
            found.problems.append(str(error))
            continue
        found.problems += _index_problems(reader, manifest)
        shards, repeated = reader.info.shards, []
        # Checksums and decoding leave Python's lock, so threads are enough.
        with ThreadPoolExecutor(cores()) as pool, progress_bar(len(reader), f"verify {split}") as bar:
            look = pool.map(partial(_check_shard, reader, manifest), range(len(shards)))
            for shard, (problems, digests) in zip(shards, look, strict=True):
                bar.update(shard.images)
                found.problems += problems
                for name, digest in digests.items():
                    where = f"{split}/{shard.file}, {name}"
                    if split == "train":
                        first_seen.setdefault(digest, where)
                    elif digest in first_seen:
                        repeated.append(f"{where} is {first_seen[digest]}")
        if repeated:
            found.notes.append(f"{len(repeated)} {split} images are in train too, byte for byte; first {repeated[0]}")
    return found


def _mean_problems(folder: Path, manifest: Manifest) -> list[str]:
    path, expected = folder / MEAN, (manifest.image_size, manifest.image_size, manifest.channels)
    try:
        mean = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        return [f"{path}: cannot be read ({one_line(error)})"]
    if mean.shape != expected or mean.dtype != np.float32:
        return [f"{path}: {mean.dtype} {mean.shape}, expected float32 {expected}"]
    return [f"{path}: {_CHANGED}"] * _has_changed(folder, MEAN, manifest)


def _has_changed(folder: Path, name: str, manifest: Manifest) -> bool:
    return name in manifest.files and sha256_of(folder / name) != manifest.files[name]


def _index_problems(reader: SplitReader, manifest: Manifest) -> list[str]:
    """What is wrong with the index of a split, or with the split's folder."""
    problems, classes, info = [], len(manifest.classes), reader.info
    if _has_changed(reader.folder.parent, f"{reader.folder.name}/{INDEX}", manifest):
        problems.append(f"{reader.folder / INDEX}: {_CHANGED}")
    if len(reader) and not 0 <= reader.labels.min() <= reader.labels.max() < classes:
        problems.append(f"{reader.folder / INDEX}: has labels outside 0 to {classes - 1}")
    elif np.bincount(reader.labels, minlength=classes).tolist() != info.per_class:
        problems.append(f"{reader.folder}: images per class differ between index and manifest")
    if len(reader) != sum(shard.images for shard in info.shards):
        problems.append(f"{reader.folder}: the manifest's shards have not as many images as the split")
    strangers = {path.name for path in reader.folder.glob("*.tar")} - {shard.file for shard in info.shards}
    return problems + [f"{reader.folder / name}: no part of the data set" for name in sorted(strangers)]


def _check_shard(reader: SplitReader, manifest: Manifest, number: int) -> tuple[list[str], dict[str, bytes]]:
    """Problems, and the digest of each image by the name of its member."""
    info = reader.info.shards[number]
    path = reader.folder / info.file
    try:
        if not path.is_file():
            return [f"{path}: missing"], {}
        if sha256_of(path) != info.sha256:
            return [f"{path}: {_CHANGED}"], {}
        rows = reader.index[reader.index["shard"] == number]
        problems, digests = _check_members(path, rows, info.images, manifest)
    except (OSError, ValueError, tarfile.TarError) as error:
        return [f"{path}: cannot be read ({one_line(error)})"], {}
    if (more := len(problems) - _MOST_OF_A_SHARD) > 0:
        problems[_MOST_OF_A_SHARD:] = [f"{path}: and {more} more"]
    return problems, digests


def _check_members(path: Path, rows: np.ndarray, count: int, manifest: Manifest) -> tuple[list[str], dict[str, bytes]]:
    """As `_check_shard`: read as any tar tool would read it, member by member, against its index rows."""
    suffix, shape = encoding_suffix(manifest.encoding), (manifest.image_size, manifest.image_size, manifest.channels)
    problems: list[str] = []
    digests: dict[str, bytes] = {}
    with tarfile.open(path, "r:") as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        stems = [name.removesuffix(f".{suffix}") for name in names[::2]]
        if names != [f"{stem}.{ending}" for stem in stems for ending in (suffix, "cls")]:
            return [f"{path}: its members are not pairs of a .{suffix} and its .cls"], {}
        if not len(stems) == len(rows) == count:
            return [f"{path}: {len(stems)} images, {len(rows)} in the index, {count} in the manifest"], {}
        for image, label, row in zip(members[::2], members[1::2], rows, strict=True):
            where = f"{path}, {image.name}"
            if (image.offset_data, image.size) != (row["offset"], row["length"]):
                problems.append(f"{where}: the index points elsewhere")
                continue
            file, label_file = tar.extractfile(image), tar.extractfile(label)
            if file is None or label_file is None:
                problems.append(f"{where}: is no plain file")
                continue
            if label_file.read(16).decode("ascii", "replace") != str(row["label"]):
                problems.append(f"{where}: label differs from the index")
            data = file.read()
            digests[image.name] = hashlib.blake2b(data, digest_size=16).digest()
            try:
                decode(data, manifest.encoding, shape)
            except ValueError as error:
                problems.append(f"{where}: cannot be decoded ({error})")
    return problems, digests


def main(arguments: list[str]) -> int:
    """Prints what `check` found; an exit code."""
    asked = arguments in (["-h"], ["--help"])
    if asked or len(arguments) != 1 or arguments[0].startswith("-"):
        usage = "usage: python -m data_prep.verify DIR    exit code 0: the prepared data set DIR is OK, 1: it is not"
        print(usage, file=sys.stdout if asked else sys.stderr)
        return DONE if asked else WRONG_REQUEST
    folder = arguments[0]
    if not Path(folder).exists():
        folder = re.sub(r"^(out|src|data\.path)=", "", folder)  # as other commands take it
    found = check(Path(folder))
    for note in found.notes:
        print(f"note: {note}")
    print("\n".join(found.problems) or f"{folder}: OK")
    return FAILED if found.problems else DONE


if __name__ == "__main__":
    run_and_exit(lambda: main(sys.argv[1:]))
