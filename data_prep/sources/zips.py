"""Zip archives read in place: where each member begins. Its bytes are unpacked only as they are read."""

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.common.text import encodable
from data_prep.sources.base import SourceImage

_HEADER, _SIGNATURE = 30, b"PK\3\4"  # before each member: 30 bytes, its name, and what is called the extra field


def data_offset(header: bytes) -> int:
    """From where a member's header begins to its bytes; `header`: its first 30."""
    return _HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


@dataclass(frozen=True, slots=True)
class ZippedImage(SourceImage):
    """A member whose header begins at `offset` and that takes `packed` bytes after it; `size` once unpacked."""

    packed: int
    deflated: bool
    crc: int  # of all its bytes, unpacked

    def read(self, most: int) -> bytes:
        length = min(self.size, most)
        with Path(self.path).open("rb") as file:
            file.seek(self.offset)
            header = file.read(_HEADER)
            if len(header) != _HEADER or not header.startswith(_SIGNATURE):
                raise OSError(f"no member begins where {self.name} should")
            file.seek(self.offset + data_offset(header))
            data = file.read(min(self.packed, 2 * most + 4096) if self.deflated else length)
        if self.deflated:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, length or 1)  # 0: no bound
            except zlib.error as error:
                raise OSError(f"{self.name} cannot be unpacked ({error})") from None
        if len(data) != length:
            raise OSError(f"it ends after {len(data)} of the {self.size} bytes of {self.name}")
        if length == self.size and zlib.crc32(data) != self.crc:
            raise OSError(f"{self.name} is not as it was packed: its checksum is another")
        return data


def members(path: Path) -> Iterator[SourceImage]:
    """Every file in the archive, by its whole name there. RequestError if it is no zip, or damaged, or locked."""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read as a zip ({error}); download it again") from None
    for info in listed:
        if info.is_dir():
            continue
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = "encrypted" if info.flag_bits & 1 else f"packed by method {info.compress_type}"
            raise RequestError(f"{path}: {encodable(info.filename)} is {how}, which is not read here; unpack the zip")
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        name, size = encodable(info.filename), info.file_size
        yield ZippedImage(name, "", str(path), info.header_offset, size, info.compress_size, deflated, info.CRC)
