"""The mean training image (section 2) and the covariance of the RGB values (section 4.1), exactly.

All sums are integers, so that the result does not depend on the order of the images or the number of processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_MIDDLE = 128  # taken off the values: products are a quarter as large, and four times as many fit into a sum
_BLOCK = 2**24 // _MIDDLE**2  # pixels: the sum of so many products stays within 2^24
_MOST_IMAGES = 2**24 // _MIDDLE  # images: the sum of so many values of one pixel stays within 2^24
_TOGETHER = 32  # images, of whose pixels a block is 32 * 3 * 1024 * 4 bytes = 384 KiB, which an L2 cache holds


class RunningSums:
    """Sums over up to 131,072 images, one after the other; at most 8192 are in a shard.

    In float32, which processors are fastest with, and yet exact: it holds every integer up to 2^24, and no sum goes
    beyond, in whatever order it is added up. Images wait as bytes until there are 32, and are then summed together,
    block by block of pixels, so that the sums pass through the processor's caches once for all of them.
    """

    def __init__(self, size: int, channels: int) -> None:
        self._size, self._images, self._waiting = size, 0, 0
        blocks = -(-(size**2) // _BLOCK)
        self._signed = np.zeros((_TOGETHER, channels, blocks * _BLOCK), np.int8)  # the zeros at the end add nothing
        self._bytes = self._signed.view(np.uint8)[:, :, : size**2]
        self._block = np.empty((_TOGETHER, channels, _BLOCK), np.float32)
        self._pixels = np.zeros((blocks, channels, _BLOCK), np.float32)
        # For each channel the products with it and those before; float64 holds integers up to 2^53.
        self._products = [np.zeros((_TOGETHER, a + 1, 1, 1)) for a in range(channels)]

    def add(self, planes: Sequence[np.ndarray]) -> None:
        """`planes`: of each channel uint8 [S * S]."""
        assert self._images < _MOST_IMAGES
        self._images += 1
        for values, plane in zip(self._bytes[self._waiting], planes, strict=True):
            np.bitwise_xor(plane, _MIDDLE, out=values)  # which, signed, is plane - 128
        self._waiting += 1
        if self._waiting == _TOGETHER:
            self._sum_up()

    def _sum_up(self) -> None:
        """Adds the images that wait to the sums."""
        count, self._waiting = self._waiting, 0
        waiting = self._signed.reshape(*self._signed.shape[:2], -1, _BLOCK)  # [images, C, blocks, 1024]
        block = self._block[:count]  # [images, C, 1024]
        for number, pixels in enumerate(self._pixels):
            block[...] = waiting[:count, :, number]
            pixels += block.sum(axis=0)
            for a, products in enumerate(self._products):
                # One product of two vectors for each image, which numpy hands to BLAS; einsum takes half as long again.
                products[:count] += block[:, : a + 1, None, :] @ block[:, None, a, :, None]

    def total(self) -> "ImageSums":
        self._sum_up()
        planes = self._pixels.transpose(1, 0, 2).reshape(len(self._products), -1)[:, : self._size**2]
        pixels = planes.T.reshape(self._size, self._size, -1).astype(np.int64, order="C")
        products = np.zeros((len(self._products),) * 2, np.int64)
        for a, of_images in enumerate(self._products):
            products[a, : a + 1] = products[: a + 1, a] = of_images.astype(np.int64).sum(axis=(0, 2, 3))
        # x y = (x - 128) (y - 128) + 128 ((x - 128) + (y - 128)) + 128^2
        sums = pixels.sum(axis=(0, 1))
        products += _MIDDLE * (sums[:, None] + sums) + _MIDDLE**2 * self._images * self._size**2
        return ImageSums(self._images, pixels + _MIDDLE * self._images, products)


@dataclass
class ImageSums:
    """Integer sums over images of uint8 [S, S, C]."""

    images: int
    pixels: np.ndarray  # int64 [S, S, C], the sum of the images
    products: np.ndarray  # int64 [C, C], the sum over all pixels of x x^T

    @classmethod
    def empty(cls, size: int, channels: int) -> "ImageSums":
        return cls(0, np.zeros((size, size, channels), np.int64), np.zeros((channels, channels), np.int64))

    def merge(self, other: "ImageSums") -> None:
        self.images += other.images
        self.pixels += other.pixels
        self.products += other.products

    def mean_image(self) -> np.ndarray:
        """float64 [S, S, C], 0..255."""
        return self.pixels / self.images

    def colour(self) -> dict[str, Any]:
        """Mean and covariance (population, over every pixel of every image) of the RGB values on the 0..255 scale.

        `rgb_mean` [C] and `rgb_covariance` [C, C]; C is 1 where the images are grey.
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
