"""Archives and images made to do harm: refused or listed, in bounded memory, nothing written outside OUT."""

import gzip
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import layouts
import numpy as np
import pytest
from conftest import prepare_config
from layouts import Images, encoded

from data_prep.common.errors import RequestError
from data_prep.format import Manifest
from data_prep.prepare import prepare
from data_prep.verify import check


def png_header(width: int, height: int) -> bytes:
    """An image that claims to be so large, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


HOSTILE = {
    "huge_claim.JPEG": png_header(60_000, 60_000),
    "narrow.JPEG": encoded(np.zeros((1, 100_000), np.uint8)),
    "bomb.JPEG": gzip.compress(bytes(400 << 20)),
    "empty.JPEG": b"",
    "text.JPEG": b"<svg/>",
    "cut.JPEG": encoded(np.zeros((50, 50, 3), np.uint8), "JPEG")[:-400],
    b"not-utf8-\xff\xfe.JPEG".decode("utf-8", "surrogateescape"): b"no image",
}
WIDE = encoded(np.tile(np.arange(256, dtype=np.uint8), (500, 391))[:, :100_000])  # 100,000 x 500: wide, yet an image


def test_hostile_images_are_listed_with_their_reasons(images: tuple[Images, Images], tmp_path: Path) -> None:
    """In a process of its own, which may not take more than 2 GiB of memory."""
    train, val = images
    wnid = next(iter(train.values()))[0]
    odd = {name: (wnid, data) for name, data in {**HOSTILE, "wide.JPEG": WIDE}.items()}
    layouts.ilsvrc2012_archives(tmp_path, {**train, **odd}, val)
    settings = ["image_size=75", "max_rejected=0.2", "workers=1"]
    command = [sys.executable, "-m", "data_prep.prepare", f"src={tmp_path}", f"out={tmp_path / 'out'}", *settings]
    limit = 2 << 30
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    manifest = Manifest.load(tmp_path / "out")
    reasons = {rejected.name: rejected.reason for rejected in manifest.rejected}
    assert set(reasons) == {
        name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in HOSTILE
    }
    assert "not-utf8-\\xff\\xfe.JPEG" in reasons
    assert "too large to be a photograph" in reasons["huge_claim.JPEG"]
    assert "too narrow to be a photograph" in reasons["narrow.JPEG"]
    assert "more than 64 MB" in reasons["bomb.JPEG"]
    assert manifest.splits["train"].images == 61  # the wide one is an image
    assert check(tmp_path / "out").problems == []
    json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))


def test_names_and_links_that_point_elsewhere(images: tuple[Images, Images], tmp_path: Path) -> None:
    train, val = images
    layouts.ilsvrc2012_archives(tmp_path / "src", train, val)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, (name, (_, data)) in enumerate(train.items()):
            info = tarfile.TarInfo(["../../evil/", "/etc/", "a/b/../", ""][number % 4] + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo("link.JPEG")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    layouts.write(tmp_path / "src/ILSVRC2012_img_train.tar", layouts.tar_of({"../../n01440764.tar": buffer.getvalue()}))
    with pytest.raises(RequestError, match="n01440764 in train, not among the 10 classes of a complete copy"):
        prepare(prepare_config(tmp_path / "src", tmp_path / "out"))
    layouts.write(tmp_path / "src/ILSVRC2012_img_train.tar", layouts.tar_of({"x/n03530642.tar": buffer.getvalue()}))
    larger = {**train, **{f"{i}.JPEG": ("n03530642", b"") for i in range(60)}}
    kit = layouts.tar_of(layouts.devkit(larger, val, 2012, "ILSVRC2012_devkit_t12"))
    layouts.write(tmp_path / "src/ILSVRC2012_devkit_t12.tar.gz", gzip.compress(kit))
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    prepare(prepare_config(tmp_path / "src", tmp_path / "out"))
    assert Manifest.load(tmp_path / "out").splits["train"].images == 60
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before


def test_sizes_that_no_file_has(images: tuple[Images, Images], tmp_path: Path) -> None:
    layouts.ilsvrc2012_archives(tmp_path, *images)
    info = tarfile.TarInfo("n03530642.tar")
    info.size = 8 << 40
    layouts.write(tmp_path / "ILSVRC2012_img_train.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(5120))
    with pytest.raises(RequestError, match=r"img_train\.tar: ends in the middle of n03530642\.tar; download"):
        prepare(prepare_config(tmp_path, tmp_path / "out"))
