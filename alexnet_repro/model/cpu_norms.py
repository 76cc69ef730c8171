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

# forward(x, y, alpha, k) fills y, backward(x, grad, result, alpha, k) fills result; all [images, rows, columns, maps]
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
    """The forward pass of [x], or the backward pass of [x, gradient of y]: float32 or float64, [N, C, H, W] -> [N, C,
    H, W] in the memory layout of x; on as many threads as PyTorch has.
    """
    global _called
    dense = [tensor.detach().contiguous(memory_format=torch.channels_last) for tensor in inputs]
    result = torch.empty_like(dense[0])
    arrays = [tensor.permute(0, 2, 3, 1).numpy() for tensor in (*dense, result)]
    number: Any = arrays[0].dtype.type
    forward, backward = (_over_places if over_places else _across_maps)(c.size, c.beta, number)
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
    return result if inputs[0].is_contiguous(memory_format=torch.channels_last) else result.contiguous()


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


# The values that the loops below close over are part of the key under which Numba keeps them, and must pickle alike in
# every process. Numbers do, compiled functions do not; so the functions above are globals.


@cache
def _across_maps(size: int, beta: float, number: Any) -> tuple[Pass, Pass]:
    """Over windows of `size` neighbouring maps."""
    half, three_quarters = size // 2, beta == 0.75
    minus_beta, twice_beta, one = number(-beta), number(2 * beta), number(1)

    def forward(x, y, alpha, k):  # type: ignore[no-untyped-def]
        places, maps = x.size // x.shape[3], x.shape[3]
        x, y = x.reshape(places, maps), y.reshape(places, maps)
        for block in prange((places + _PLACES - 1) // _PLACES):
            squares = np.zeros(maps + 2 * half, x.dtype)  # zeros before the first map and after the last
            for place in range(block * _PLACES, min(places, (block + 1) * _PLACES)):
                for i in range(maps):
                    squares[half + i] = x[place, i] * x[place, i]
                for i in range(maps):
                    power, _ = _powers(k + alpha * _sum_from(squares, i, size), three_quarters, minus_beta, one)
                    y[place, i] = x[place, i] * power

    def backward(x, grad, result, alpha, k):  # type: ignore[no-untyped-def]
        places, maps = x.size // x.shape[3], x.shape[3]
        x, grad, result = x.reshape(places, maps), grad.reshape(places, maps), result.reshape(places, maps)
        for block in prange((places + _PLACES - 1) // _PLACES):
            squares, products = np.zeros(maps + 2 * half, x.dtype), np.zeros(maps + 2 * half, x.dtype)
            direct = np.empty(maps, x.dtype)
            for place in range(block * _PLACES, min(places, (block + 1) * _PLACES)):
                for i in range(maps):
                    squares[half + i] = x[place, i] * x[place, i]
                for i in range(maps):
                    power, inverse = _powers(k + alpha * _sum_from(squares, i, size), three_quarters, minus_beta, one)
                    direct[i] = grad[place, i] * power
                    products[half + i] = direct[i] * x[place, i] * inverse
                for i in range(maps):
                    total = _sum_from(products, i, size)
                    result[place, i] = direct[i] - twice_beta * alpha * x[place, i] * total

    key = size, beta, number.__name__
    return _compiled(forward, key), _compiled(backward, key)


@cache
def _over_places(size: int, beta: float, number: Any) -> tuple[Pass, Pass]:
    """Over windows of size x size places of the same map."""
    half, three_quarters = size // 2, beta == 0.75
    minus_beta, twice_beta, one = number(-beta), number(2 * beta), number(1)

    def forward(x, y, alpha, k):  # type: ignore[no-untyped-def]
        images, rows, columns, maps = x.shape
        row_size, edge = columns * maps, half * maps
        for image in prange(images):
            x_rows, y_rows = x[image].reshape(rows, row_size), y[image].reshape(rows, row_size)
            padded, total = np.zeros(row_size + 2 * edge, x.dtype), np.empty(row_size, x.dtype)
            for row in range(rows):
                _sum_rows(padded[edge : edge + row_size], x_rows, x_rows, row, half)
                _sum_columns(total, padded, size, maps)
                x_row, y_row = x_rows[row], y_rows[row]
                for i in range(row_size):
                    power, _ = _powers(k + alpha * total[i], three_quarters, minus_beta, one)
                    y_row[i] = x_row[i] * power

    def backward(x, grad, result, alpha, k):  # type: ignore[no-untyped-def]
        images, rows, columns, maps = x.shape
        row_size, edge = columns * maps, half * maps
        for image in prange(images):
            x_rows, g_rows = x[image].reshape(rows, row_size), grad[image].reshape(rows, row_size)
            result_rows = result[image].reshape(rows, row_size)
            padded, total = np.zeros(row_size + 2 * edge, x.dtype), np.empty(row_size, x.dtype)
            factors = np.empty((rows, row_size), x.dtype)  # of x in the second sum
            for row in range(rows):
                _sum_rows(padded[edge : edge + row_size], x_rows, x_rows, row, half)
                _sum_columns(total, padded, size, maps)
                g_row, result_row, factor_row = g_rows[row], result_rows[row], factors[row]
                for i in range(row_size):
                    power, inverse = _powers(k + alpha * total[i], three_quarters, minus_beta, one)
                    result_row[i] = g_row[i] * power
                    factor_row[i] = result_row[i] * inverse
            for row in range(rows):
                _sum_rows(padded[edge : edge + row_size], factors, x_rows, row, half)
                _sum_columns(total, padded, size, maps)
                x_row, result_row = x_rows[row], result_rows[row]
                for i in range(row_size):
                    result_row[i] -= twice_beta * alpha * x_row[i] * total[i]

    key = size, beta, number.__name__
    return _compiled(forward, key), _compiled(backward, key)
