"""Figure 4, right: nearest neighbours against brute force, and the memory they take."""

import tracemalloc

import numpy as np

from alexnet_repro.evaluation.retrieval import Nearest


def _in_batches(nearest: Nearest, vectors: np.ndarray, size: int) -> Nearest:
    for start in range(0, len(vectors), size):
        nearest.add(vectors[start : start + size])
    return nearest


def test_nearest_against_brute_force_on_1000_vectors() -> None:
    rng = np.random.default_rng(0)
    vectors = np.maximum(rng.standard_normal((1000, 4096), dtype=np.float32), 0)
    queries = np.maximum(rng.standard_normal((5, 4096), dtype=np.float32), 0)
    vectors[700] = vectors[20]  # twins: the one that came first is nearer
    queries[0] = vectors[20]
    queries[1] += vectors[20]  # near the twins, at a distance that has to be rounded
    distances = np.linalg.norm(vectors[None].astype(np.float64) - queries[:, None], axis=2)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :6]
    assert list(expected[0, :2]) == list(expected[1, :2]) == [20, 700]
    for size in (1, 128, 1000):  # smaller than the answer, the usual, all at once
        found = _in_batches(Nearest(queries, 6), vectors, size)
        np.testing.assert_array_equal(found.numbers, expected)
        np.testing.assert_allclose(found.distances, np.take_along_axis(distances, expected, 1), rtol=1e-12)


def test_fewer_vectors_than_asked_for() -> None:
    found = _in_batches(Nearest(np.zeros((2, 3)), 6), np.arange(12.0).reshape(4, 3), 3)
    assert found.numbers.tolist() == [[0, 1, 2, 3]] * 2


def test_memory_does_not_grow_with_the_vectors_that_pass() -> None:
    batch = np.random.default_rng(0).standard_normal((128, 4096), dtype=np.float32)
    queries = batch[:5]

    def peak(batches: int) -> int:
        tracemalloc.start()
        nearest = Nearest(queries, 6)
        for _ in range(batches):
            nearest.add(batch)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = peak(4), peak(40)
    assert many < 1.1 * few < 40 << 20  # two float64 blocks of 128 x 4096 and the queries are 9 MB
