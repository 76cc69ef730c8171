"""The whole way against a reference written step by step with Pillow and numpy, without a line of this project's.

On the embedded sample; or on real photographs, if the environment variable ALEXNET_PHOTOS names a folder of them.
"""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import independent_reading, prepare_config
from PIL import Image

from data_prep.format import Manifest
from data_prep.prepare import prepare
from data_prep.reader import SplitReader
from data_prep.verify import check


def reference(data: bytes, size: int) -> np.ndarray:
    """uint8 [size, size, 3]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = size / min(image.size)
    filter_ = Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.BICUBIC
    if scale != 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), filter_)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.fixture
def images(request: pytest.FixtureRequest) -> dict[str, bytes]:
    if folder := os.environ.get("ALEXNET_PHOTOS"):
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    train, _ = independent_reading(request.getfixturevalue("archives"))
    return {name: data for name, (_, data) in train.items()}


def test_pixels_mean_and_covariance(images: dict[str, bytes], tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "src" / split / "all").mkdir(parents=True)
        for name, data in images.items():
            (tmp_path / "src" / split / "all" / name).write_bytes(data)
    prepare(prepare_config(tmp_path / "src", tmp_path / "out", image_size=256, encoding="raw", images_per_shard=100))
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.rejected == []
    reader = SplitReader(tmp_path / "out", manifest, "val")  # in the order of the names
    got = np.stack([reader[i][0] for i in range(len(reader))])
    assert got.shape == (len(images), 256, 256, 3)
    modes = [Image.open(io.BytesIO(data)).mode for data in images.values()]
    expected = np.stack([reference(data, 256) for data in images.values()])
    assert sorted(image.tobytes() for image in got) == sorted(image.tobytes() for image in expected)

    as_float = expected.astype(np.float64)
    mean = as_float.mean(axis=0)
    flat = as_float.reshape(-1, 3)
    covariance = np.cov(flat.T, bias=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "mean.npy"), mean.astype(np.float32))
    # 1e-9: float64 sums of a few million values, in another order than numpy's; a float32 sum would be off by 1e-5.
    np.testing.assert_allclose(manifest.statistics["rgb_mean"], flat.mean(0), rtol=1e-9)
    np.testing.assert_allclose(manifest.statistics["rgb_covariance"], covariance, rtol=1e-9)
    deviation = np.abs(np.array(manifest.statistics["rgb_covariance"]) / covariance - 1).max()
    print(f"{len(modes)} images, {modes.count('L')} grey; pixels equal; covariance within {deviation:.1e}")
    assert check(tmp_path / "out").problems == []
