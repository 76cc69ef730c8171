"""The mean training image (section 2) and the covariance of the RGB values (section 4.1), exactly.

All sums are integers, so that the result does not depend on the order of the images or the number of processes.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class ImageSums:
    """Integer sums over images of uint8 [S, S, C]."""

    images: int
    pixels: np.ndarray  # int64 or int32 [S, S, C], the sum of the images
    products: np.ndarray  # int64 [C, C], the sum over all pixels of x x^T
    _planes: np.ndarray | None = field(default=None, repr=False, compare=False)  # room for one image, used again

    @classmethod
    def empty(cls, size: int, channels: int) -> "ImageSums":
        return cls(0, np.zeros((size, size, channels), np.int64), np.zeros((channels, channels), np.int64))

    @classmethod
    def of_few(cls, size: int, channels: int) -> "ImageSums":
        """For up to 2^23 images, whose sums fit into int32: half the memory to go through with each."""
        return cls(0, np.zeros((size, size, channels), np.int32), np.zeros((channels, channels), np.int64))

    def add(self, image: np.ndarray) -> None:
        """`image`: uint8 [S, S, C]."""
        self.images += 1
        self.pixels += image
        # One channel after the other: a matrix product of so few columns takes twice as long. Sums of squares stay far
        # below 2^53, so float64 is exact.
        channels = image.shape[-1]
        if self._planes is None:
            self._planes = np.empty((channels, image.size // channels))
        planes = self._planes
        np.copyto(planes.reshape(channels, *image.shape[:2]), image.transpose(2, 0, 1))
        for a in range(channels):
            for b in range(a + 1):
                product = int(planes[a] @ planes[b])
                self.products[a, b] += product
                if a != b:
                    self.products[b, a] += product

    def merge(self, other: "ImageSums") -> None:
        self.images += other.images
        self.pixels += other.pixels
        self.products += other.products

    def mean_image(self) -> np.ndarray:
        """float64 [S, S, C], 0..255."""
        return self.pixels / self.images

    def colour(self) -> dict[str, Any]:
        """Mean and covariance (population, over every pixel of every image) of the RGB values on the 0..255 scale.

        `rgb_mean` [C] and `rgb_covariance` [C, C]; C is 1 where the pictures are grey.
        """
        size = self.images * self.pixels.shape[0] * self.pixels.shape[1]
        mean = self.pixels.sum(axis=(0, 1)) / size
        covariance = self.products / size - np.outer(mean, mean)
        return {"images": self.images, "rgb_mean": mean.tolist(), "rgb_covariance": covariance.tolist()}


def principal_components(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(eigenvalues, eigenvectors in columns), largest first, of the [C, C] covariance, in the units given.

    Each vector's largest component is positive: its sign is arbitrary, and a data set must always have the same.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(len(largest))])
    return values, vectors * signs
