"""Tar archives read in place: where the bytes of each member lie."""

import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data_prep.common.errors import RequestError
from data_prep.common.progress import progress_bar
from data_prep.common.text import encodable
from data_prep.sources import inventory
from data_prep.sources.base import SourceImage
from data_prep.sources.inventory import Notes
from data_prep.sources.labels import SPLIT_OF, WNID

_AGAIN = "download it again"
_NO_CLASSES = {"", "/", "..", *SPLIT_OF, "images"}
_END = 2 * tarfile.BLOCKSIZE  # of zeros, which end a tar
_RECORDS = [tarfile.BLOCKSIZE << i for i in range(12)]  # up to 1 MiB: what a record may be, besides tar's 10 KiB


def images_by_class(path: Path, notes: Notes) -> Iterator[SourceImage]:
    """An archive of all classes: a tar of tars, one a class and named after it (the official train archives); or of
    folders, <class>/<image>; or (those of val) of images without a class.
    """
    bar = progress_bar(path.stat().st_size, f"list {path.name}", unit="B", stays=False)
    with path.open("rb") as file, bar:
        for inner in members(file, path):
            bar.update(inner.offset_data - bar.n)
            name, end = _basename(inner), inner.offset_data + inner.size
            if not inventory.is_archive(name):
                yield from _images([inner], file, path, _class_folder(inner), notes)
            elif inventory.is_system_path(inner.name):
                notes.pass_over(inventory.HIDDEN, f"{path.name}: {inner.name}")
            else:
                wnid = name[: -len(".tar")]  # one text for all of the class: ImageNet has a million images
                file.seek(inner.offset_data)
                yield from _images(members(file, path, inner.name, end), file, path, wnid, notes)


def _class_folder(member: tarfile.TarInfo) -> str:
    """The folder of a wnid, however deep the image lies in it, else the innermost; "" where that is the split's."""
    parents = PurePosixPath(member.name).parts[:-1]
    innermost = parents[-1] if parents else ""
    folder = encodable(next(filter(WNID.fullmatch, parents), innermost))
    return "" if folder.lower() in _NO_CLASSES or folder.startswith("ILSVRC20") else folder


def images(path: Path, wnid: str, notes: Notes) -> Iterator[SourceImage]:
    """A flat tar: every image, of class `wnid`."""
    with path.open("rb") as file:
        yield from _images(members(file, path), file, path, wnid, notes)


def _images(
    listed: Iterator[tarfile.TarInfo] | list[tarfile.TarInfo], file: BinaryIO, path: Path, wnid: str, notes: Notes
) -> Iterator[SourceImage]:
    where = str(path)
    for member in listed:
        if inventory.is_system_path(member.name):
            notes.pass_over(inventory.HIDDEN, f"{path.name}: {member.name}")
        elif is_image(file, member):
            yield SourceImage(_basename(member), wnid, where, member.offset_data, member.size)
        else:
            notes.pass_over(inventory.NO_IMAGES, f"{path.name}: {member.name}")


def is_image(file: BinaryIO, member: tarfile.TarInfo) -> bool:
    """Whether a member is an image, by its name or else by its first bytes."""
    if inventory.is_named_as_image(member.name):
        return True
    file.seek(member.offset_data)
    return inventory.begins_as_image(file.read(min(16, member.size)))


def is_of_all(path: Path) -> bool:
    """Whether it is an archive of a whole split, by its official name, or as it begins with tars or folders."""
    if path.name.startswith("ILSVRC20"):
        return True
    with path.open("rb") as file:
        first = list(islice(members(file, path), 2))
    parents = {PurePosixPath(member.name).parent.name for member in first} - {"", ".", path.stem}
    return any(inventory.is_archive(member.name) for member in first) or bool(parents)


def members(file: BinaryIO, path: Path, inside: str = "", end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """The regular files of the tar that starts at `file`'s position. Their offsets count from the start of `file`.

    `end`: of the tar, where it is a member, `inside`, of another. RequestError if it is no tar, if it is damaged or
    has no end, or if more comes behind that. Links and devices are passed over.
    """
    start = file.tell()
    length = path.stat().st_size if end is None else end
    where = f"{path}, {inside}" if inside else str(path)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # a million headers need not stay in memory
                if not member.isfile():
                    continue
                if member.offset_data + member.size > length:
                    it = f"{PurePosixPath(inside).name} ends" if inside else "ends"
                    raise RequestError(f"{path}: {it} in the middle of {_basename(member)}; {_AGAIN}")
                yield member
            _check_end(file, start, tar.offset, length, where)
    except (tarfile.TarError, OSError) as error:
        raise RequestError(f"{where}: cannot be read as a tar ({error}); {_AGAIN}") from None


def _check_end(file: BinaryIO, start: int, last: int, length: int, where: str) -> None:
    """RequestError unless the end and padding follow the last member: an unfinished copy has holes of zeros, or no end.

    The tar lies in `file` from `start` to `length`, and its last member ends at `last`. It is padded to a whole record,
    so its length says how large its records may be, and these how long the padding.
    """
    behind = length - last
    record = max([tarfile.RECORDSIZE, *(size for size in _RECORDS if (length - start) % size == 0)])
    file.seek(last)
    if behind >= _END + record or file.read(max(0, behind)).strip(b"\0"):
        raise RequestError(
            f"{where}: its list of members ends {behind:,} bytes before it does: a hole in it, from a copy or "
            f"download that was not finished; {_AGAIN}"
        )
    if behind < tarfile.BLOCKSIZE:  # tar itself is content with one of the two blocks
        raise RequestError(
            f"{where}: lacks the zeros that end a tar: it was cut off between two members, or never finished; compare "
            f"its size with the original's, and {_AGAIN} or make it again"
        )


def _basename(member: tarfile.TarInfo) -> str:
    """The last part of the name, as UTF-8: nothing is ever written under a name from an archive."""
    return encodable(member.name.rstrip("/").rpartition("/")[2])
