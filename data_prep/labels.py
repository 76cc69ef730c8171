"""What the devkits say: synsets and the validation ground truth."""

import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import scipy.io

from data_prep.command import RequestError


@dataclass(frozen=True)
class Devkit:
    wnid_of_id: dict[int, str]  # leaves only; ids are 1-based and not in the order of the wnids
    words: dict[str, str]
    val_wnids: list[str]  # of validation image 1, 2, ...


def read_ilsvrc2012_devkit(path: Path) -> Devkit:
    """From ILSVRC2012_devkit_t12.tar.gz, read in place."""
    try:
        with tarfile.open(path) as tar:
            members = {member.name: member for member in tar.getmembers()}
            meta = _read(tar, members, path, "data/meta.mat")
            truth = _read(tar, members, path, "data/ILSVRC2012_validation_ground_truth.txt")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise RequestError(f"{path}: cannot be read as a tar.gz ({error}); download it again") from None
    wnid_of_id, words = _synsets(meta, path)
    try:
        val_wnids = [wnid_of_id[int(line)] for line in truth.decode("ascii").split()]
    except (KeyError, ValueError) as error:
        raise RequestError(f"{path}: the ground truth names {error}, which is no class of meta.mat") from None
    return Devkit(wnid_of_id, words, val_wnids)


def _read(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], path: Path, ending: str) -> bytes:
    for name, member in members.items():
        if name.endswith(ending) and (file := tar.extractfile(member)):
            return file.read()
    raise RequestError(f"{path}: has no {ending}; is it ILSVRC2012_devkit_t12.tar.gz?")


def _synsets(meta: bytes, path: Path) -> tuple[dict[int, str], dict[str, str]]:
    try:
        synsets = scipy.io.loadmat(BytesIO(meta), squeeze_me=True)["synsets"]
        leaves = [s for s in synsets if int(s["num_children"]) == 0]
        wnid_of_id = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in leaves}
        words = {str(s["WNID"]): str(s["words"]) for s in leaves}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RequestError(f"{path}: meta.mat cannot be read ({error}); download the devkit again") from None
    return wnid_of_id, words
