"""python -m data_prep.verify DIR: re-reads every shard against the manifest; says OK, or what is wrong and where."""

import hashlib
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep.command import DONE, FAILED, WRONG_REQUEST, RequestError, plain_main
from data_prep.format import MEAN, Manifest, decode, sha256_of
from data_prep.reader import SplitReader


@dataclass
class Findings:
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the source had, and is worth knowing


def check(folder: Path) -> Findings:
    """Everything found in the data set in `folder`, one line each; RequestError if there is no data set."""
    manifest = Manifest.load(folder)
    found = Findings()
    try:
        mean = np.load(folder / MEAN, allow_pickle=False)
        expected = (manifest.image_size, manifest.image_size, manifest.channels)
        if mean.shape != expected or mean.dtype != np.float32:
            found.problems.append(f"{folder / MEAN}: {mean.dtype} {mean.shape}, expected float32 {expected}")
    except (OSError, ValueError) as error:
        found.problems.append(f"{folder / MEAN}: {error}")
    digests: dict[str, dict[bytes, str]] = {}  # of the pictures of each split: where each was seen
    for split in manifest.splits:
        digests[split] = {}
        found.problems += _split_problems(folder, manifest, split, digests[split])
    train = digests.pop("train", {})
    for split, pictures in digests.items():
        if shared := [where for digest, where in pictures.items() if digest in train]:
            found.notes.append(f"{len(shared)} {split} pictures are in train too, byte for byte; first {shared[0]}")
    return found


def _split_problems(folder: Path, manifest: Manifest, split: str, digests: dict[bytes, str]) -> list[str]:
    try:
        reader = SplitReader(folder, manifest, split)
    except RequestError as error:
        return [str(error)]
    found = []
    counts = np.bincount(reader.labels, minlength=len(manifest.classes)).tolist()
    if counts != reader.info.per_class:
        found.append(f"{reader.folder}: images per class differ between index and manifest")
    for number, shard in enumerate(tqdm(reader.info.shards, desc=f"verify {split}", unit=" shards")):
        path = reader.folder / shard.file
        if not path.is_file():
            found.append(f"{path}: missing")
        elif sha256_of(path) != shard.sha256:
            found.append(f"{path}: its bytes are not those that were written (sha256 differs)")
        else:
            rows = reader.index[reader.index["shard"] == number]
            found += _shard_problems(path, rows, manifest, digests)
    return found


def _shard_problems(path: Path, rows: np.ndarray, manifest: Manifest, digests: dict[bytes, str]) -> list[str]:
    """A shard read as any tar tool would read it, member by member, against its index rows."""
    found = []
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        pairs = list(zip(members[::2], members[1::2], strict=True))
        if len(pairs) != len(rows):
            return [f"{path}: {len(pairs)} pictures, {len(rows)} in the index"]
        for (picture, label), row in zip(pairs, rows, strict=True):
            where = f"{path}, {picture.name}"
            if (picture.offset_data, picture.size) != (row["offset"], row["length"]):
                found.append(f"{where}: the index points elsewhere")
                continue
            file, label_file = tar.extractfile(picture), tar.extractfile(label)
            assert file and label_file
            if int(label_file.read()) != row["label"]:
                found.append(f"{where}: label differs from the index")
            data = file.read()
            digests.setdefault(hashlib.blake2b(data, digest_size=16).digest(), where)
            shape = decode(data, manifest.encoding).shape
            if shape != (manifest.image_size, manifest.image_size, manifest.channels):
                found.append(f"{where}: is {shape}")
    return found


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m data_prep.verify DIR", file=sys.stderr)
        return WRONG_REQUEST
    found = check(Path(arguments[0]))
    for note in found.notes:
        print(f"note: {note}")
    print("\n".join(found.problems) or f"{arguments[0]}: OK")
    return FAILED if found.problems else DONE


if __name__ == "__main__":
    plain_main(lambda: main(sys.argv[1:]))
