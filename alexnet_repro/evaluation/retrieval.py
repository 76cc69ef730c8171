"""Figure 4, right: the training images whose last hidden layer is nearest in Euclidean distance (section 6.1)."""

import numpy as np


class Nearest:
    """The `count` vectors nearest to each query among all that are added. Memory does not grow with their number.

    Of equal distances the vector that was added first is nearer.
    """

    def __init__(self, queries: np.ndarray, count: int) -> None:
        """`queries`: float [Q, D]."""
        self._queries = queries.astype(np.float64)
        self._count, self._seen = count, 0
        self.numbers = np.empty((len(queries), 0), np.int64)  # [Q, up to count], nearest first
        self.distances = np.empty((len(queries), 0))  # of these: float64 [Q, up to count]

    def add(self, vectors: np.ndarray) -> None:
        """float [n, D]: numbered on from those added before."""
        from scipy.spatial.distance import cdist  # takes 0.15 s, and training does not use it

        distances = cdist(self._queries, vectors.astype(np.float64))
        numbers = np.broadcast_to(self._seen + np.arange(len(vectors)), distances.shape)
        self._seen += len(vectors)
        distances = np.concatenate([self.distances, distances], axis=1)
        numbers = np.concatenate([self.numbers, numbers], axis=1)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, : self._count]
        self.distances = np.take_along_axis(distances, nearest, axis=1)
        self.numbers = np.take_along_axis(numbers, nearest, axis=1)
