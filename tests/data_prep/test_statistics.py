"""Mean image, covariance and principal components against numpy in float64."""

import numpy as np
import pytest

from data_prep.statistics import ImageSums, RunningSums, principal_components


def images(count: int = 23) -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(count, 40, 40, 3)) @ np.array([[50, 40, 40], [5, 0, -9], [2, -4, 2]]) + 120
    return mixed.clip(0, 255).astype(np.uint8)


def sums_of(images: np.ndarray) -> ImageSums:
    """`images`: uint8 [N, S, S, C]."""
    running = RunningSums(images.shape[1], images.shape[3])
    for image in images:
        running.add(image.reshape(-1, image.shape[-1]).T)
    return running.total()


def test_against_numpy_whatever_the_grouping() -> None:
    data = images()
    total = ImageSums.empty(40, 3)
    for part in (data[15:], data[:4], data[4:15]):
        total.merge(sums_of(part))
    np.testing.assert_array_equal(total.mean_image(), data.astype(np.float64).sum(0) / len(data))
    colour = total.colour()
    flat = data.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(colour["rgb_mean"], flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(colour["rgb_covariance"], np.cov(flat.T, bias=True), rtol=1e-9)


@pytest.mark.parametrize("count", [6, 32, 75])  # 32 are summed together
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 40, 64])  # 784 and 1600 pixels, no multiples of a block; 4096
def test_exact_to_the_integer(size: int, channels: int, count: int) -> None:
    """Without tolerance, at the extremes too: a block of black pixels is the largest sum that float32 must hold."""
    images = np.random.default_rng(1).integers(0, 256, (count, size, size, channels)).astype(np.uint8)
    images[0], images[1], images[2, ..., 0] = 0, 255, 0
    sums, flat = sums_of(images), images.reshape(-1, channels).astype(np.int64)
    np.testing.assert_array_equal(sums.pixels, images.sum(axis=0, dtype=np.int64))
    np.testing.assert_array_equal(sums.products, flat.T @ flat)


def test_exact_over_the_images_of_the_largest_shard() -> None:
    black = np.zeros((8192, 4, 4, 1), np.uint8)
    assert not sums_of(black).pixels.any()
    assert not sums_of(black).products.any()
    assert (sums_of(black + np.uint8(255)).pixels == 255 * 8192).all()


def test_principal_components_diagonalise() -> None:
    covariance = np.cov(images().reshape(-1, 3).T, bias=True)
    values, vectors = principal_components(covariance)
    assert values[0] > values[1] > values[2] >= 0
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, covariance, atol=1e-9 * values[0])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    assert (vectors[np.abs(vectors).argmax(0), range(3)] > 0).all()
