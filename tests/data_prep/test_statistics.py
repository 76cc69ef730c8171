"""Mean image, covariance and principal components against numpy in float64."""

import numpy as np

from data_prep.statistics import ImageSums, principal_components


def images(count: int = 23) -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(count, 8, 8, 3)) @ np.array([[50, 40, 40], [5, 0, -9], [2, -4, 2]]) + 120
    return mixed.clip(0, 255).astype(np.uint8)


def test_against_numpy_whatever_the_grouping() -> None:
    data = images()
    total = ImageSums.empty(8, 3)
    for part in (data[15:], data[:4], data[4:15]):
        sums = ImageSums.empty(8, 3)
        for image in part:
            sums.add(image)
        total.merge(sums)
    np.testing.assert_array_equal(total.mean_image(), data.astype(np.float64).sum(0) / len(data))
    colour = total.colour()
    flat = data.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(colour["rgb_mean"], flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(colour["rgb_covariance"], np.cov(flat.T, bias=True), rtol=1e-9)


def test_principal_components_diagonalise() -> None:
    covariance = np.cov(images().reshape(-1, 3).T, bias=True)
    values, vectors = principal_components(covariance)
    assert values[0] > values[1] > values[2] >= 0
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, covariance, atol=1e-9 * values[0])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    assert (vectors[np.abs(vectors).argmax(0), range(3)] > 0).all()
