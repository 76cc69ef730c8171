"""What a shard is made of, byte for byte, and what its images are decoded to."""

import hashlib
import io
import re
import tarfile

import numpy as np
import pytest
from layouts import encoded
from PIL import Image

from data_prep import format
from data_prep.format import ShardInfo, ShardWriter


def test_shards_have_the_bytes_that_tarfile_writes() -> None:
    """20 members: more than one record of 10,240 bytes, and sizes around whole blocks."""
    sizes = [0, 1, 511, 512, 513, 31_000, 9_728, 200_000, 3, 70_000]
    shard, expected = io.BytesIO(), io.BytesIO()
    writer = ShardWriter(shard, 3)
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for i, size in enumerate(sizes):
            key, data = 10 ** min(i, 8) + i, bytes([i]) * size
            writer.add(key, "jpg", data, i * 111)
            for name, content in ((f"{key:09d}.jpg", data), (f"{key:09d}.cls", str(i * 111).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    info, index = writer.finish()
    written = shard.getvalue()
    assert written == expected.getvalue()
    assert info == ShardInfo("shard-00003.tar", len(sizes), len(written), hashlib.sha256(written).hexdigest())
    for i, row in enumerate(index):
        assert written[row["offset"] :][: row["length"]] == bytes([i]) * sizes[i]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 75, 256])
def test_jpegs_are_decoded_as_pillow_does(side: int, channels: int) -> None:
    """To the bit: noise and an image with edges, in every subsampling, from bad to good."""
    pytest.importorskip("simplejpeg", reason="Pillow alone decodes where simplejpeg is not installed")
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BOX)
    for image in (Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)), coarse):
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            for quality in (10, 75, 95):
                for progressive in (False, image is coarse):  # Pillow cannot write noise as a progressive one
                    data = encoded(
                        image.convert("L" if channels == 1 else "RGB"), "JPEG",
                        quality=quality, subsampling=subsampling, progressive=progressive,
                    )  # fmt: skip
                    expected = np.asarray(Image.open(io.BytesIO(data))).reshape(side, side, channels)
                    got = format.decode(data, "jpeg", (side, side, channels))
                    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("damage", ["whole", "cut", "zeros", "empty", "grey", "another size", "no JPEG"])
def test_damaged_jpegs_are_what_pillow_says_they_are(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg", reason="Pillow alone decodes where simplejpeg is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image = {"grey": image.convert("L"), "another size": image.resize((64, 60))}.get(damage, image)
    data = encoded(image, "PNG" if damage == "no JPEG" else "JPEG")
    data = {"cut": data[:-2], "zeros": data[:700] + bytes(500) + data[1200:], "empty": b""}.get(damage, data)

    def outcome() -> bytes | str:
        try:
            return format.decode(data, "jpeg", (64, 64, 3)).tobytes()
        except ValueError as error:
            return re.sub("0x[0-9a-f]+", "", str(error))

    fast = outcome()
    monkeypatch.setattr(format, "simplejpeg", None)
    assert fast == outcome()
