"""Figure 4, right: the training images whose last hidden layer is nearest in Euclidean distance (section 6.1)."""

import numpy as np

_ROWS = 256  # vectors compared at a time, which bounds the memory of their differences in float64


class Nearest:
    """The `count` vectors nearest to each query among all that are added. Memory does not grow with their number.

    Of equal distances the vector that was added first is nearer.
    """

    def __init__(self, queries: np.ndarray, count: int) -> None:
        """`queries`: float [Q, D]."""
        self._queries = queries.astype(np.float64)
        self._count, self._seen = count, 0
        self._squared = np.empty((len(queries), 0))
        self.numbers = np.empty((len(queries), 0), np.int64)  # [Q, up to count], nearest first

    @property
    def distances(self) -> np.ndarray:
        """Of `numbers`: float64 [Q, up to count]."""
        return np.sqrt(self._squared)

    def add(self, vectors: np.ndarray) -> None:
        """float [n, D]: numbered on from those added before."""
        for start in range(0, len(vectors), _ROWS):
            self._add(vectors[start : start + _ROWS].astype(np.float64))

    def _add(self, vectors: np.ndarray) -> None:
        squared = np.empty((len(self._queries), len(vectors)))
        for row, query in zip(squared, self._queries, strict=True):
            difference = vectors - query
            np.einsum("nd,nd->n", difference, difference, out=row)
        numbers = np.broadcast_to(self._seen + np.arange(len(vectors)), squared.shape)
        self._seen += len(vectors)
        squared = np.concatenate([self._squared, squared], axis=1)
        numbers = np.concatenate([self.numbers, numbers], axis=1)
        nearest = np.argsort(squared, axis=1, kind="stable")[:, : self._count]
        self._squared = np.take_along_axis(squared, nearest, axis=1)
        self.numbers = np.take_along_axis(numbers, nearest, axis=1)
