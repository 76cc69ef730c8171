"""The normalisations of response_norm.py on a CPU: one loop over the maps forward and one backward, compiled by Numba
when first used and kept in __pycache__.

They compute the same function as the plain form, the one to read. Maps are channels-last, so that the inner loops read
memory in order.
"""

import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from alexnet_repro.config import NormConfig

_PLACES = 512  # in a block of work

# forward(x, y, alpha, k) fills y, backward(x, grad, result, alpha, k) fills result; all [images, rows, columns, maps],
# of float32, float64, or the bits of bfloat16 as uint16, which are computed in float32
Pass = Callable[..., None]

# Where there is no OpenMP, Numba has threads of its own, and ends the process if two Python threads call it at once.
_one_caller = threading.Lock()
_called = forked = False  # forked: from a process that had called; there OpenMP lets Numba start no threads


def _after_fork() -> None:
    global _one_caller, forked
    _one_caller, forked = threading.Lock(), _called


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(inputs: Sequence[Tensor], c: NormConfig, over_places: bool) -> Tensor:
    """The forward pass of [x], or the backward pass of [x, gradient of y]: [N, C, H, W] -> [N, C, H, W] in the dtype
    and memory layout of x; on as many threads as PyTorch has.
    """
    global _called
    x = inputs[0]
    number, narrow = np.float64 if x.dtype == torch.float64 else np.float32, x.dtype == torch.bfloat16
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    dense = [tensor.detach().to(dtype).contiguous(memory_format=torch.channels_last) for tensor in inputs]
    result = torch.empty_like(dense[0])
    arrays = [_array(tensor.permute(0, 2, 3, 1)) for tensor in (*dense, result)]
    forward, backward = (_over_places if over_places else _across_maps)(c.size, c.beta, number, narrow)
    kernel = forward if len(inputs) == 1 else backward
    threads = torch.get_num_threads()
    with _one_caller:
        _called = True
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        if torch.get_num_threads() != threads:  # Numba's first launch sets OpenMP's number, which is PyTorch's as well
            torch.set_num_threads(threads)
        try:
            kernel(*arrays, number(c.alpha), number(c.k))
        except (OSError, EOFError):  # what was compiled cannot be kept (a full disk), or was cut short
            _not_kept(kernel)(*arrays, number(c.alpha), number(c.k))
    result = result.to(x.dtype)
    return result if x.is_contiguous(memory_format=torch.channels_last) else result.contiguous()


def _array(tensor: Tensor) -> np.ndarray:
    """The same memory; bfloat16, which numpy lacks, as uint16."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _compiled(kernel: Pass, key: tuple[Any, ...], keep: bool = True) -> Pass:
    # Each key has a file of its own: processes that compile kernels of two at once would mix them up in one.
    kernel.__qualname__ = "_".join([kernel.__qualname__, *map(str, key)])
    # fastmath: products and sums may be rounded as one. error_model: dividing by zero gives infinity, as in numpy; a
    # check for it would keep the loops from being vectorised.
    try:
        return cast(Pass, numba.njit(parallel=True, cache=keep, fastmath={"contract"}, error_model="numpy")(kernel))
    except RuntimeError:  # neither __pycache__ nor the user's cache folder can be written
        return _compiled(kernel, (), keep=False)


@cache
def _not_kept(kernel: Any) -> Pass:
    return _compiled(kernel.py_func, (), keep=False)


@numba.njit(inline="always")
def _powers(d, three_quarters, minus_beta, one):  # type: ignore[no-untyped-def]
    """d^-beta and 1 / d, in the type of d, as `minus_beta` and `one` are."""
    if three_quarters:  # the paper's beta, by two roots
        root = one / math.sqrt(d)
        return root * math.sqrt(root), root * root
    return d**minus_beta, one / d


@numba.njit(inline="always")
def _sum_from(terms, i, size):  # type: ignore[no-untyped-def]
    """terms[i] + terms[i + 1] + ..., `size` of them."""
    total = terms[i]
    for j in range(1, size):
        total += terms[i + j]
    return total


@numba.njit(inline="always")
def _sum_rows(sums, left, right, row, half):  # type: ignore[no-untyped-def]
    """Fills sums with those of left * right [rows, columns * maps] over the rows from row - half to row + half."""
    sums[:] = 0
    for other in range(max(0, row - half), min(len(left), row + half + 1)):
        a, b = left[other], right[other]
        for i in range(len(sums)):
            sums[i] += a[i] * b[i]


@numba.njit(inline="always")
def _sum_columns(total, padded, size, maps):  # type: ignore[no-untyped-def]
    """Fills total [columns * maps] with the sums of `size` neighbouring columns of `padded`."""
    # In slices, since Numba allows for negative indices where an offset is not known, and does not vectorise then.
    total[:] = padded[: len(total)]
    for j in range(1, size):
        shifted = padded[j * maps : j * maps + len(total)]
        for i in range(len(total)):
            total[i] += shifted[i]


@numba.njit
def _widened(bits):  # type: ignore[no-untyped-def]
    """bfloat16 -> float32 [rows, numbers]."""
    wide = np.empty(bits.shape, np.uint32)
    for row in range(len(bits)):
        for i in range(bits.shape[1]):
            wide[row, i] = np.uint32(bits[row, i]) << np.uint32(16)
    return wide.view(np.float32)


@numba.njit
def _rounded(wide, bits):  # type: ignore[no-untyped-def]
    """Fills `bits` with bfloat16, the nearest, of two as near the even one, as PyTorch does."""
    exact = wide.view(np.uint32)
    for row in range(len(bits)):
        for i in range(bits.shape[1]):
            odd = (exact[row, i] >> np.uint32(16)) & np.uint32(1)
            bits[row, i] = np.uint16((exact[row, i] + np.uint32(0x7FFF) + odd) >> np.uint32(16))


# What the loops below close over is part of the name under which Numba keeps them: numbers only, since a function would
# have another name in each process. A branch on `narrow` is decided when they are compiled.


@cache
def _across_maps(size: int, beta: float, number: Any, narrow: bool) -> tuple[Pass, Pass]:
    """Over windows of `size` neighbouring maps; computed as `number`. narrow: maps are bfloat16."""
    half, three_quarters = size // 2, beta == 0.75
    minus_beta, twice_beta, one = number(-beta), number(2 * beta), number(1)

    def forward(x, y, alpha, k):  # type: ignore[no-untyped-def]
        places, maps = x.size // x.shape[3], x.shape[3]
        x, y = x.reshape(places, maps), y.reshape(places, maps)
        for block in prange((places + _PLACES - 1) // _PLACES):
            begin, end = block * _PLACES, min(places, (block + 1) * _PLACES)
            a = _widened(x[begin:end]) if narrow else x[begin:end]
            b = np.empty((end - begin, maps), number) if narrow else y[begin:end]
            squares = np.zeros(maps + 2 * half, number)  # zeros before the first map and after the last
            for place in range(end - begin):
                for i in range(maps):
                    squares[half + i] = a[place, i] * a[place, i]
                for i in range(maps):
                    power, _ = _powers(k + alpha * _sum_from(squares, i, size), three_quarters, minus_beta, one)
                    b[place, i] = a[place, i] * power
            if narrow:
                _rounded(b, y[begin:end])

    def backward(x, grad, result, alpha, k):  # type: ignore[no-untyped-def]
        places, maps = x.size // x.shape[3], x.shape[3]
        x, grad, result = x.reshape(places, maps), grad.reshape(places, maps), result.reshape(places, maps)
        for block in prange((places + _PLACES - 1) // _PLACES):
            begin, end = block * _PLACES, min(places, (block + 1) * _PLACES)
            a = _widened(x[begin:end]) if narrow else x[begin:end]
            g = _widened(grad[begin:end]) if narrow else grad[begin:end]
            r = np.empty((end - begin, maps), number) if narrow else result[begin:end]
            squares, products = np.zeros(maps + 2 * half, number), np.zeros(maps + 2 * half, number)
            direct = np.empty(maps, number)
            for place in range(end - begin):
                for i in range(maps):
                    squares[half + i] = a[place, i] * a[place, i]
                for i in range(maps):
                    power, inverse = _powers(k + alpha * _sum_from(squares, i, size), three_quarters, minus_beta, one)
                    direct[i] = g[place, i] * power
                    products[half + i] = direct[i] * a[place, i] * inverse
                for i in range(maps):
                    r[place, i] = direct[i] - twice_beta * alpha * a[place, i] * _sum_from(products, i, size)
            if narrow:
                _rounded(r, result[begin:end])

    key = size, beta, "bfloat16" if narrow else number.__name__
    return _compiled(forward, key), _compiled(backward, key)


@cache
def _over_places(size: int, beta: float, number: Any, narrow: bool) -> tuple[Pass, Pass]:
    """Over windows of size x size places of the same map; number, narrow: as above."""
    half, three_quarters = size // 2, beta == 0.75
    minus_beta, twice_beta, one = number(-beta), number(2 * beta), number(1)

    def forward(x, y, alpha, k):  # type: ignore[no-untyped-def]
        images, rows, columns, maps = x.shape
        row_size, edge = columns * maps, half * maps
        x, y = x.reshape(images, rows, row_size), y.reshape(images, rows, row_size)
        for image in prange(images):
            a = _widened(x[image]) if narrow else x[image]
            b = np.empty((rows, row_size), number) if narrow else y[image]
            padded, total = np.zeros(row_size + 2 * edge, number), np.empty(row_size, number)
            for row in range(rows):
                _sum_rows(padded[edge : edge + row_size], a, a, row, half)
                _sum_columns(total, padded, size, maps)
                a_row, b_row = a[row], b[row]
                for i in range(row_size):
                    power, _ = _powers(k + alpha * total[i], three_quarters, minus_beta, one)
                    b_row[i] = a_row[i] * power
            if narrow:
                _rounded(b, y[image])

    def backward(x, grad, result, alpha, k):  # type: ignore[no-untyped-def]
        images, rows, columns, maps = x.shape
        row_size, edge = columns * maps, half * maps
        x, grad = x.reshape(images, rows, row_size), grad.reshape(images, rows, row_size)
        result = result.reshape(images, rows, row_size)
        for image in prange(images):
            a = _widened(x[image]) if narrow else x[image]
            g = _widened(grad[image]) if narrow else grad[image]
            r = np.empty((rows, row_size), number) if narrow else result[image]
            padded, total = np.zeros(row_size + 2 * edge, number), np.empty(row_size, number)
            factors = np.empty((rows, row_size), number)  # of x in the second sum
            for row in range(rows):
                _sum_rows(padded[edge : edge + row_size], a, a, row, half)
                _sum_columns(total, padded, size, maps)
                g_row, r_row, factor_row = g[row], r[row], factors[row]
                for i in range(row_size):
                    power, inverse = _powers(k + alpha * total[i], three_quarters, minus_beta, one)
                    r_row[i] = g_row[i] * power
                    factor_row[i] = r_row[i] * inverse
            for row in range(rows):
                _sum_rows(padded[edge : edge + row_size], factors, a, row, half)
                _sum_columns(total, padded, size, maps)
                a_row, r_row = a[row], r[row]
                for i in range(row_size):
                    r_row[i] -= twice_beta * alpha * a_row[i] * total[i]
            if narrow:
                _rounded(r, result[image])

    key = size, beta, "bfloat16" if narrow else number.__name__
    return _compiled(forward, key), _compiled(backward, key)
