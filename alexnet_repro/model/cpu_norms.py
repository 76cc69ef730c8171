"""The normalisations of response_norm.py on a CPU: one pass over the maps forward and one backward, compiled by Numba
when first used and kept in __pycache__.

They compute the same function as the plain form, the one to read; maps lie channels-last, so that loops over the maps
of a place, or of a row of places, run through memory without gaps. No pass writes more than its result and a few rows.
"""

import math
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import cast

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from alexnet_repro.config import NormConfig

_PLACES = 512  # that a thread takes at a time
_one_caller = threading.Lock()  # at a time; Numba's own threads, where there is no OpenMP, take no more
# forward(x, y, alpha, k) fills y, backward(x, grad, result, alpha, k) fills result; all [images, rows, columns, maps]
Pass = Callable[..., None]
Kernels = tuple[Pass, Pass]


def _compiled(kernel: Pass) -> Pass:
    # fastmath: products and sums may be rounded as one. error_model: dividing by zero gives infinity, as in numpy; a
    # check for it would keep the loops from being vectorised.
    compile_with = partial(numba.njit, parallel=True, fastmath={"contract"}, error_model="numpy")
    try:
        return cast(Pass, compile_with(cache=True)(kernel))
    except RuntimeError:  # neither __pycache__ nor the user's cache folder can be written
        return cast(Pass, compile_with()(kernel))


@numba.njit(inline="always")
def _powers(d, beta, one):  # type: ignore[no-untyped-def]
    """d^-beta and 1 / d, in the type of `one`."""
    if beta == 0.75:  # the paper's, by two roots
        root = one / math.sqrt(d)
        return root * math.sqrt(root), root * root
    return d**-beta, one / d


@cache
def _across_maps(size: int, beta: float) -> Kernels:
    """Over windows of `size` neighbouring maps."""
    half = size // 2

    @_compiled
    def forward(x, y, alpha, k):  # type: ignore[no-untyped-def]
        places, maps = x.size // x.shape[3], x.shape[3]
        x, y = x.reshape(places, maps), y.reshape(places, maps)
        one = x.dtype.type(1)
        for block in prange((places + _PLACES - 1) // _PLACES):
            squares = np.zeros(maps + 2 * half, x.dtype)  # zeros before the first map and after the last
            for place in range(block * _PLACES, min(places, (block + 1) * _PLACES)):
                for i in range(maps):
                    squares[half + i] = x[place, i] * x[place, i]
                for i in range(maps):
                    total = squares[i]
                    for j in range(1, size):
                        total += squares[i + j]
                    power, _ = _powers(k + alpha * total, beta, one)
                    y[place, i] = x[place, i] * power

    @_compiled
    def backward(x, grad, result, alpha, k):  # type: ignore[no-untyped-def]
        places, maps = x.size // x.shape[3], x.shape[3]
        x, grad, result = x.reshape(places, maps), grad.reshape(places, maps), result.reshape(places, maps)
        one, factor = x.dtype.type(1), x.dtype.type(2 * beta) * alpha
        for block in prange((places + _PLACES - 1) // _PLACES):
            squares, products = np.zeros(maps + 2 * half, x.dtype), np.zeros(maps + 2 * half, x.dtype)
            direct = np.empty(maps, x.dtype)
            for place in range(block * _PLACES, min(places, (block + 1) * _PLACES)):
                for i in range(maps):
                    squares[half + i] = x[place, i] * x[place, i]
                for i in range(maps):
                    total = squares[i]
                    for j in range(1, size):
                        total += squares[i + j]
                    power, inverse = _powers(k + alpha * total, beta, one)
                    direct[i] = grad[place, i] * power
                    products[half + i] = direct[i] * x[place, i] * inverse
                for i in range(maps):
                    total = products[i]
                    for j in range(1, size):
                        total += products[i + j]
                    result[place, i] = direct[i] - factor * x[place, i] * total

    return forward, backward


@cache
def _over_places(size: int, beta: float) -> Kernels:
    """Over windows of size x size places of the same map."""
    half = size // 2

    @_compiled
    def forward(x, y, alpha, k):  # type: ignore[no-untyped-def]
        images, rows, columns, maps = x.shape
        one, row_size, edge = x.dtype.type(1), columns * maps, half * maps
        for image in prange(images):
            sums = np.zeros(row_size + 2 * edge, x.dtype)  # over the rows of a window; zeros left and right
            x_rows, y_rows = x[image].reshape(rows, row_size), y[image].reshape(rows, row_size)
            for row in range(rows):
                sums[edge : edge + row_size] = 0
                for other in range(max(0, row - half), min(rows, row + half + 1)):
                    for i in range(row_size):
                        sums[edge + i] += x_rows[other, i] * x_rows[other, i]
                for i in range(row_size):
                    total = sums[i]
                    for j in range(1, size):
                        total += sums[i + j * maps]
                    power, _ = _powers(k + alpha * total, beta, one)
                    y_rows[row, i] = x_rows[row, i] * power

    @_compiled
    def backward(x, grad, result, alpha, k):  # type: ignore[no-untyped-def]
        images, rows, columns, maps = x.shape
        one, factor = x.dtype.type(1), x.dtype.type(2 * beta) * alpha
        row_size, edge = columns * maps, half * maps
        for image in prange(images):
            sums = np.zeros(row_size + 2 * edge, x.dtype)
            products = np.empty((rows, row_size), x.dtype)
            x_rows, g_rows = x[image].reshape(rows, row_size), grad[image].reshape(rows, row_size)
            result_rows = result[image].reshape(rows, row_size)
            for row in range(rows):
                sums[edge : edge + row_size] = 0
                for other in range(max(0, row - half), min(rows, row + half + 1)):
                    for i in range(row_size):
                        sums[edge + i] += x_rows[other, i] * x_rows[other, i]
                for i in range(row_size):
                    total = sums[i]
                    for j in range(1, size):
                        total += sums[i + j * maps]
                    power, inverse = _powers(k + alpha * total, beta, one)
                    result_rows[row, i] = g_rows[row, i] * power
                    products[row, i] = result_rows[row, i] * x_rows[row, i] * inverse
            for row in range(rows):
                sums[edge : edge + row_size] = 0
                for other in range(max(0, row - half), min(rows, row + half + 1)):
                    for i in range(row_size):
                        sums[edge + i] += products[other, i]
                for i in range(row_size):
                    total = sums[i]
                    for j in range(1, size):
                        total += sums[i + j * maps]
                    result_rows[row, i] -= factor * x_rows[row, i] * total

    return forward, backward


def run(inputs: Sequence[Tensor], c: NormConfig, over_places: bool) -> Tensor:
    """The forward pass of [x], or the backward pass of [x, gradient of y]: float32 or float64 [N, C, H, W] -> the same,
    in the memory layout of x; on as many threads as PyTorch has.
    """
    forward, backward = (_over_places if over_places else _across_maps)(c.size, c.beta)
    kernel = forward if len(inputs) == 1 else backward
    dense = [tensor.detach().contiguous(memory_format=torch.channels_last) for tensor in inputs]
    result = torch.empty_like(dense[0])
    arrays = [tensor.permute(0, 2, 3, 1).numpy() for tensor in (*dense, result)]
    number = arrays[0].dtype.type
    threads = torch.get_num_threads()
    with _one_caller:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        if torch.get_num_threads() != threads:  # Numba's first launch sets OpenMP's number, which is PyTorch's as well
            torch.set_num_threads(threads)
        kernel(*arrays, number(c.alpha), number(c.k))
    return result if inputs[0].is_contiguous(memory_format=torch.channels_last) else result.contiguous()
