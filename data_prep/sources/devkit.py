"""The devkits of ILSVRC: the synsets, and the ground truth of the validation images.

ILSVRC2012_devkit_t12.tar.gz, or .tar or .tgz, as some browsers leave it, or ILSVRC2012_devkit_t12/
    data/meta.mat                                       table of synsets: id, wnid, words, children, training images
    data/ILSVRC2012_validation_ground_truth.txt         line i: the id of validation image i
"""

import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources.inventory import is_system_path

_META, _TRUTH = "data/meta.mat", "validation_ground_truth.txt"


@dataclass(frozen=True)
class Devkit:
    wnid_of_id: dict[int, str]  # leaves only; ids are 1-based and not in the order of the wnids
    class_names: dict[str, str]  # by wnid
    train_images: dict[str, int]  # of each class, as far as the devkit says
    val_wnids: list[str]  # of validation image 1, 2, ...


def read_devkit(path: Path, *years: int) -> Devkit:
    """Reads ILSVRC2012_devkit_t12.tar.gz, ILSVRC2010_devkit-1.0.tar.gz, or what they unpack to.

    `years`: the years of the releases that it may belong to. RequestError if it is damaged or another devkit.
    """
    files = _files_of_folder(path) if path.is_dir() else _files_of_archive(path)
    leaves = _leaves(_only(files, _META, path), path, [f"ILSVRC{year}_ID" for year in years])
    wnid_of_id = {number: wnid for number, wnid, _, _ in leaves}
    return Devkit(
        wnid_of_id,
        {wnid: name for _, wnid, name, _ in leaves},
        {wnid: images for _, wnid, _, images in leaves if images},
        read_ground_truth(_only(files, _TRUTH, path), path, wnid_of_id),
    )


def read_ground_truth(text: bytes, path: Path, wnid_of_id: Mapping[int, str]) -> list[str]:
    """One class id a line -> the wnids of image 1, 2, ..."""
    try:
        return [wnid_of_id[int(line)] for line in text.decode("utf-8-sig").split()]
    except (KeyError, ValueError) as error:
        raise RequestError(f"{path}: the ground truth names {error}, which is no class of meta.mat") from None


def _files_of_folder(path: Path) -> dict[str, bytes]:
    found = [file for ending in (_META, _TRUTH) for file in path.rglob("*" + Path(ending).name)]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}


def _files_of_archive(path: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as tar:
            wanted = [member for member in tar if member.name.endswith((_META, _TRUTH)) and member.isfile()]
            return {member.name: file.read() for member in wanted if (file := tar.extractfile(member))}
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise RequestError(f"{path}: cannot be read as a tar.gz ({error}); download it again") from None


def _only(files: dict[str, bytes], ending: str, path: Path) -> bytes:
    for name, content in files.items():
        if name.endswith(ending) and not is_system_path(name):
            return content
    raise RequestError(f"{path}: has no {ending}; is it the devkit of the release?")


def _leaves(meta: bytes, path: Path, id_fields: list[str]) -> list[tuple[int, str, str, int]]:
    """(id, wnid, name, training images) of each class: the synsets without children."""
    import scipy.io  # takes a third of the time in which every process starts, and only this needs it

    try:
        synsets = scipy.io.loadmat(BytesIO(meta), squeeze_me=True)["synsets"]
        names = synsets.dtype.names or ()
        id_field = next((name for name in id_fields if name in names), id_fields[0])
        counted = "num_train_images" in names
        return [
            (int(s[id_field]), str(s["WNID"]), str(s["words"]), int(s["num_train_images"]) if counted else 0)
            for s in synsets
            if int(s["num_children"]) == 0
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RequestError(f"{path}: meta.mat cannot be read ({error}); download the devkit again") from None
