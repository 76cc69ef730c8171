"""A file for the ILSVRC test server: for each image, in official order, the ids of its five most probable classes."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_repro.evaluation.metrics import GUESSES
from alexnet_repro.evaluation.predictions import KeptPredictions
from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically
from data_prep.sources.devkit import read_devkit


def read_ids(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """wnid -> ILSVRC id, from the devkit of 2012 or 2010, packed or not. RequestError if it is neither, or lacks one of
    `classes`.
    """
    if not path.exists():
        raise RequestError(f"devkit={path}: does not exist; give ILSVRC2012_devkit_t12.tar.gz or what it unpacks to")
    ids = {wnid: number for number, wnid in read_devkit(path, 2012, 2010).wnid_of_id.items()}
    if missing := [wnid for wnid in classes if wnid not in ids]:
        raise RequestError(f"devkit={path}: has no class {missing[0]} of this run; give the devkit of its release")
    return ids


def write_submission(path: Path, kept: KeptPredictions, ids: dict[str, int], images: int) -> int:
    """One line for each of the official split's `images`; returns how many of them had no prediction.

    The key of an image in a prepared val or test split is its place in the official order, from 0. An image that could
    not be read in preparation has no prediction, but the server counts lines: its line has the lowest ids.
    """
    blind = " ".join(str(number) for number in sorted(ids.values())[:GUESSES])
    lines = [blind] * images
    for name, top in zip(kept.names, kept.most_views.top, strict=True):
        lines[int(str(name).rsplit("/", 1)[-1])] = " ".join(str(ids[kept.classes[label]]) for label in top[:GUESSES])
    text = "".join(f"{line}\n" for line in lines)
    write_atomically(path, lambda file: file.write(text.encode()))
    return images - len(kept.names)
