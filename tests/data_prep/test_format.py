"""What a shard is made of, byte for byte."""

import hashlib
import io
import tarfile

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
