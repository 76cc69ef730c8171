"""Response normalisation against the printed formula as a plain loop, and its gradient against PyTorch's in float64."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_repro.config import NormConfig
from alexnet_repro.model import cpu_norms, response_norm
from alexnet_repro.model.response_norm import ResponseNorm

PAPER = NormConfig(size=5, alpha=1e-4, beta=0.75, k=2.0)

# Largest relative error of one result: a few roundings, or, for bfloat16, the last rounding alone (8 bits).
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


def by_loops(a: np.ndarray, c: NormConfig) -> np.ndarray:
    """b^i = a^i / (k + alpha sum_{j=max(0,i-n/2)}^{min(N-1,i+n/2)} (a^j)^2)^beta, section 3.3."""
    b = np.empty_like(a)
    maps = a.shape[1]
    for i in range(maps):
        low, high = max(0, i - c.size // 2), min(maps - 1, i + c.size // 2)
        b[:, i] = a[:, i] / (c.k + c.alpha * (a[:, low : high + 1] ** 2).sum(1)) ** c.beta
    return b


def torch_gradient(a: torch.Tensor, grad: torch.Tensor, c: NormConfig) -> torch.Tensor:
    wide = a.detach().double().requires_grad_()
    theirs = torch.nn.LocalResponseNorm(c.size, c.alpha * c.size, c.beta, c.k)
    theirs(wide).backward(grad.double())
    assert wide.grad is not None
    return wide.grad


def laid_out(values: np.ndarray, layout: str, dtype: torch.dtype) -> torch.Tensor:
    x = torch.from_numpy(values).to(dtype)
    if layout == "channels-last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "every other column":
        return x.repeat_interleave(2, dim=3)[..., ::2]
    return x


shapes = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 6), st.integers(1, 6))


@settings(deadline=None, max_examples=150)
@given(
    shape=shapes,
    window=st.sampled_from([(1, 0.5), (5, 0.75), (9, 0.75)]),  # size and beta; a CPU compiles each anew
    alpha=st.sampled_from([0.0, 2e-5, 1e-4, 0.3]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 100.0]),
    layout=st.sampled_from(["contiguous", "channels-last", "every other column"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    plain=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_formula_and_its_gradient(
    shape: tuple[int, ...], window: tuple[int, float], alpha: float, scale: float, layout: str, dtype: torch.dtype,
    plain: bool, seed: int,
) -> None:  # fmt: skip
    """Windows wider than the layer, batches of one: catches slips at the ends of maps. `plain`: as on other devices."""
    c = NormConfig(window[0], alpha, window[1], 2.0)
    rng = np.random.default_rng(seed)
    a = laid_out(rng.normal(size=shape) * scale, layout, dtype).detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(response_norm, "_cpu_norms", lambda x: None)
        b = ResponseNorm(c)(a)
        grad = torch.from_numpy(rng.normal(size=shape)).to(dtype)
        b.backward(grad)
    expected = by_loops(a.detach().double().numpy(), c)
    np.testing.assert_allclose(b.detach().double().numpy(), expected, rtol=TOLERANCE[dtype], atol=0)
    theirs = torch_gradient(a, grad, c)
    assert a.grad is not None and a.grad.dtype == b.dtype == dtype
    # The gradient is a difference of two terms, so its error is relative to the larger: grad / k^beta at most.
    torch.testing.assert_close(a.grad.double(), theirs, rtol=TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * (torch.cuda.device_count() > 0)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_at_full_size(
    device: str, dtype: torch.dtype, channels_last: bool, threads: int, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(threads)
    a = (torch.randn(7, 48, 55, 55) * 50).to(device, dtype)
    a = (a.contiguous(memory_format=torch.channels_last) if channels_last else a).requires_grad_()
    b = ResponseNorm(PAPER)(a)
    assert b.stride() == a.stride()
    grad = torch.randn_like(b)
    b.backward(grad)
    spacing_at_zero = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    expected = by_loops(a.detach().cpu().double().numpy(), PAPER)
    got = b.detach().cpu().double().numpy()
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE[dtype], atol=spacing_at_zero)
    assert a.grad is not None
    wanted = torch_gradient(a, grad, PAPER)
    torch.testing.assert_close(a.grad.double(), wanted, rtol=TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])


def test_one_image_gone_wrong_leaves_the_others_alone() -> None:
    a = torch.randn(6, 7, 3, 3)
    a[0, 3] = torch.nan
    a.requires_grad_()
    ResponseNorm(PAPER)(a).sum().backward()
    assert a.grad is not None and torch.isfinite(a.grad[1:]).all()


def test_huge_values_end_at_zero_and_never_at_nan() -> None:
    """Squares of more than 1.8e19 are infinite in float32: the formula's limit is 0, for the gradient as well."""
    a = torch.tensor([1e10, 1e18, 3e20, 1e38, 0.0, 1.0, -1e25]).view(1, 7, 1, 1).requires_grad_()
    b = ResponseNorm(PAPER)(a)
    b.sum().backward()
    exact = by_loops(a.detach().double().numpy(), PAPER)
    np.testing.assert_allclose(b.detach().numpy(), exact, rtol=1e-5, atol=1e-3)
    assert torch.isfinite(b).all() and torch.isfinite(a.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("beta", [0.75, 0.5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradcheck(beta: float, channels_last: bool) -> None:
    a = torch.randn(2, 7, 3, 4, dtype=torch.float64) * 3
    a = a.contiguous(memory_format=torch.channels_last) if channels_last else a
    assert torch.autograd.gradcheck(ResponseNorm(NormConfig(5, 0.1, beta, 2.0)), (a.requires_grad_(),))


def test_it_keeps_its_input_and_nothing_else() -> None:
    """For the backward pass; and the input is what ReLU keeps anyway."""
    kept: list[torch.Tensor] = []
    a = torch.randn(2, 48, 9, 9, requires_grad=True).relu()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        ResponseNorm(PAPER)(a)
    assert [t.data_ptr() for t in kept] == [a.data_ptr()]


def test_under_autocast_and_without_a_batch() -> None:
    a = (torch.randn(2, 20, 4, 4) * 50).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        b = ResponseNorm(PAPER)(a)
    b.sum().backward()
    assert b.dtype == a.grad.dtype == torch.bfloat16  # type: ignore[union-attr]
    np.testing.assert_allclose(b.detach().double(), by_loops(a.detach().double().numpy(), PAPER), rtol=2**-8)
    assert ResponseNorm(PAPER)(torch.zeros(0, 5, 3, 3)).shape == (0, 5, 3, 3)


IN_A_NEW_PROCESS = """
import os, torch
from concurrent.futures import ThreadPoolExecutor
from alexnet_repro.config import NormConfig
from alexnet_repro.model.response_norm import ResponseNorm, SameMapNorm
torch.set_num_threads({threads})
a, norms = torch.randn(3, 7, 5, 4), [kind(NormConfig(5, 0.1, 0.75, 2.0)) for kind in (ResponseNorm, SameMapNorm)]
results = [norm(a) for norm in norms]
assert torch.get_num_threads() == {threads}  # which Numba changes when it starts its own
many = torch.randn(8, 48, 55, 55)
with ThreadPoolExecutor(2) as pool:  # at once
    first, second = pool.map(norms[0], [many, many])
assert torch.equal(first, second)
child = os.fork()
if not child:
    torch.set_num_threads(1)
    same = all(torch.allclose(norm(a), result, rtol=1e-5) for norm, result in zip(norms, results))
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize(("layer", "threads"), [("default", 1), ("default", 2), ("workqueue", 2)])
def test_threads_and_forks(layer: str, threads: int) -> None:
    """PyTorch keeps its number of threads; two of Python's may call at once; and a process forked later, such as a
    DataLoader's, computes as well. workqueue: Numba's threads where there is no OpenMP.
    """
    code = IN_A_NEW_PROCESS.format(threads=threads)
    quiet = ["-W", "ignore:This process:DeprecationWarning"]  # Python 3.12 warns of forks beside threads
    run = subprocess.run(
        [sys.executable, *quiet, "-c", code], capture_output=True, text=True,
        env={**os.environ, "NUMBA_THREADING_LAYER": layer},
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")


USED_AGAIN = """
import numpy as np, torch
from alexnet_repro.config import NormConfig
from alexnet_repro.model import cpu_norms
from alexnet_repro.model.response_norm import ResponseNorm, SameMapNorm
c, a = NormConfig(5, 0.1, 0.75, 2.0), torch.randn(3, 7, 5, 4, requires_grad=True)
ResponseNorm(c)(a).sum().backward()
SameMapNorm(c)(a).sum().backward()
loops = *cpu_norms._across_maps(5, 0.75, np.float32), *cpu_norms._over_places(5, 0.75, np.float32)
print(*(len(loop.stats.cache_hits) for loop in loops))
"""


def test_what_was_compiled_is_used_again(tmp_path: Path) -> None:
    """In a later process; no error would tell, but a training would start some seconds later."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for hits in (0, 1):
        run = subprocess.run([sys.executable, "-c", USED_AGAIN], capture_output=True, text=True, env=environment)
        assert (run.returncode, run.stderr, run.stdout) == (0, "", f"{hits} {hits} {hits} {hits}\n")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), EOFError("Ran out of input")])
def test_what_was_compiled_cannot_be_kept(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's error, when it writes to a full disk or reads what a crash cut short, is not the user's."""

    def fail(*_: object) -> None:
        raise failure

    c = NormConfig(3, 0.1, 0.75, 2.0)
    a = torch.randn(2, 7, 3, 4)
    cpu_norms._across_maps.cache_clear()
    monkeypatch.setattr(numba.core.caching.FunctionCache, "load_overload", fail)
    np.testing.assert_allclose(ResponseNorm(c)(a), by_loops(a.double().numpy(), c), rtol=1e-5)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alexnet_repro.model.cpu_norms", None)  # importing it is an ImportError
    monkeypatch.delattr("alexnet_repro.model.cpu_norms")
    monkeypatch.setattr(response_norm, "_imported", response_norm._imported.__wrapped__)
    a = torch.randn(2, 7, 3, 4)
    assert response_norm._cpu_norms(a) is None
    np.testing.assert_allclose(ResponseNorm(PAPER)(a), by_loops(a.double().numpy(), PAPER), rtol=1e-5)


def test_maps_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"maps of shape \(3, 5\): must be \[N, C, H, W\]"):
        ResponseNorm(PAPER)(torch.zeros(3, 5))


def test_compiled_graphs_get_the_same_function() -> None:
    """torch.export and ONNX cannot hold compiled loops, and are given the plain form."""
    a = torch.randn(3, 20, 4, 5) * 50
    graph = torch.export.export(torch.nn.Sequential(ResponseNorm(PAPER)), (a,), strict=False).module()
    torch.testing.assert_close(graph(a), ResponseNorm(PAPER)(x=a), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("widths", [(6, 6), (2, 2), (5, 5, 5)], ids=str)
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_across_columns_it_is_that_of_all_maps_of_the_layer(
    widths: tuple[int, ...], size: int, channels_last: bool
) -> None:
    """Against PyTorch's over the maps joined, outputs and gradients, in float64: 1e-13, a few roundings. The gradient
    of maps at a seam comes from both sides.
    """
    rng = np.random.default_rng(sum(widths) + size)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (3, sum(widths), 4, 5)
    a, grad = (torch.from_numpy(rng.normal(size=shape) * scale) for scale in (3.0, 1.0))
    columns = [x.clone(memory_format=layout).requires_grad_() for x in a.split(widths, 1)]
    norms = [ResponseNorm(NormConfig(size, 0.1, 0.75, 2.0)) for _ in widths]
    outputs = response_norm.norm_across_columns(norms, columns)
    torch.autograd.backward(outputs, list(grad.split(widths, 1)))
    whole = a.clone().requires_grad_()
    expected = torch.nn.functional.local_response_norm(whole, size, alpha=0.1 * size, beta=0.75, k=2.0)
    expected.backward(grad)
    assert whole.grad is not None
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-13, atol=1e-13)
    theirs = torch.cat([column.grad for column in columns if column.grad is not None], 1)
    torch.testing.assert_close(theirs, whole.grad, rtol=1e-13, atol=1e-13)
    alone = torch.cat([norm(x) for norm, x in zip(norms, columns, strict=True)], 1)
    assert (alone - expected).abs().max() > 0.01  # the seams count
