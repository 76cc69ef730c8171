"""Tar archives read in place: where the bytes of each member lie."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data_prep.common.errors import RequestError
from data_prep.common.progress import progress_bar
from data_prep.common.text import encodable
from data_prep.sources.base import SourceImage

_AGAIN = "download it again"


def images_by_class(path: Path) -> Iterator[SourceImage]:
    """A tar of tars, one a class and named after it (the official train archives): every image, with its class."""
    bar = progress_bar(path.stat().st_size, f"list {path.name}", unit="B", scaled=True, stays=False)
    with path.open("rb") as file, bar:
        for inner in members(file, path):
            bar.update(inner.offset_data - bar.n)
            name, end = _basename(inner), inner.offset_data + inner.size
            wnid = name.removesuffix(".tar")  # one text for all of the class: ImageNet has a million images
            file.seek(inner.offset_data)
            for member in members(file, path, inside=inner.name):
                if member.offset_data + member.size > end:
                    raise RequestError(f"{path}: {name} ends in the middle of {_basename(member)}; {_AGAIN}")
                yield SourceImage(_basename(member), wnid, str(path), member.offset_data, member.size)


def images(path: Path, wnid: str = "") -> Iterator[SourceImage]:
    """A flat tar: every image, of class `wnid`."""
    with path.open("rb") as file:
        for member in members(file, path):
            yield SourceImage(_basename(member), wnid, str(path), member.offset_data, member.size)


def members(file: BinaryIO, path: Path, inside: str = "") -> Iterator[tarfile.TarInfo]:
    """The regular files of the tar that starts at `file`'s position. Their offsets count from the start of `file`.

    RequestError if it is no tar, or damaged. Links and devices are passed over.
    """
    length = path.stat().st_size
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # a million headers need not stay in memory
                if member.isfile() and member.offset_data + member.size > length:
                    raise RequestError(f"{path}: ends in the middle of {_basename(member)}; {_AGAIN}")
                if member.isfile():
                    position = file.tell()
                    yield member
                    file.seek(position)
    except (tarfile.TarError, OSError) as error:
        where = f"{path}, {inside}" if inside else str(path)
        raise RequestError(f"{where}: cannot be read as a tar ({error}); {_AGAIN}") from None


def _basename(member: tarfile.TarInfo) -> str:
    """The last part of the name, as UTF-8: nothing is ever written under a name from an archive."""
    return encodable(PurePosixPath(member.name).name)
