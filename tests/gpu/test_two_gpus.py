"""The columns on two GPUs, of one kind, against both on one. Nobody has run this file yet (docs/two-gpus.md)."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from forms import CASES, conv_steps, error, run_steps
from networks import small
from test_prefetch import batches
from test_steps import (
    assert_nccl_serves,
    assert_steps_agree,
    assert_the_host_never_waits,
    batch,
    given_at_once,
    stepper,
)

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import Batch, on_devices, views_of
from alexnet_repro.evaluation.inference import forward_for
from alexnet_repro.model import choose_devices, exchange, place
from data_prep.common.cli import load

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.fixture(autouse=True)
def _plain_float32() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def test_nccl_serves_both_gpus_of_a_process(tmp_path: Path) -> None:
    assert_nccl_serves([FIRST, SECOND], tmp_path)


def test_copies_arrive() -> None:
    assert choose_devices(2) == ([FIRST, SECOND], None)


def test_both_get_the_same_batches() -> None:
    for number, copies in enumerate(on_devices(batches(20, pin=True), [FIRST, SECOND])):
        assert [copies[device].images.double().mean().item() for device in (FIRST, SECOND)] == [number, number]


def test_a_peer_copy_waits_for_what_it_copies_and_its_reader_for_the_copy() -> None:
    """Long queues before and after, and memory that is given away at once, would show a race."""
    streams = {device: torch.cuda.current_stream(device) for device in (FIRST, SECOND)}
    for _ in range(20):
        x = torch.ones(2048, 2048, device=FIRST)
        for _ in range(10):
            x = x @ x / 2048
        (copy,) = exchange.peer_copies([x], [SECOND], streams)
        del x  # others may have its memory once it is copied, and the copy's once it is read
        torch.full((2048, 2048), -1.0, device=FIRST)
        result = copy * 2
        del copy
        exchange.peer_copies([torch.full((2048, 2048), -1.0, device=FIRST)], [SECOND], streams)
        assert result.min().item() == result.max().item() == 2.0


@pytest.mark.parametrize("own_streams", [False, True])
def test_gradients_cross_in_order_whatever_the_streams(own_streams: bool) -> None:
    """Autograd sets, on one of the two GPUs only, the stream on which forward ran. Tolerance: float64, sums in another
    order.
    """
    images = torch.randn(4, 3, 67, 67, dtype=torch.float64) * 50
    found = []
    for devices in ([FIRST, FIRST], [FIRST, SECOND]):
        model = place(small().eval(), devices)
        for device in (FIRST, SECOND):
            torch.cuda.synchronize(device)
        with ExitStack() as stack:
            if own_streams:
                for device in (SECOND, FIRST):
                    stack.enter_context(torch.cuda.stream(torch.cuda.Stream(device)))
            for _ in range(10):
                model.zero_grad()
                model([images.to(device) for device in devices]).square().sum().backward()
            found.append([parameter.grad.cpu() for parameter in model.parameters()])  # type: ignore[union-attr]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12 * theirs.abs().max().item())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_run_on_the_second_gpu_while_the_first_is_current(case: dict) -> None:
    assert torch.cuda.current_device() == FIRST.index
    for pieces in {1, case["groups"]}:
        ours, theirs = run_steps(conv_steps, case, pieces, torch.float32, SECOND)
        assert error(ours["maps"], theirs["maps"]) < 1e-6
        for name in ("gradient", "of the bias"):
            assert error(ours[name], theirs[name]) < 5e-3, name


@pytest.mark.parametrize("profile", ["paper", "code2012"])
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("devices", [[FIRST, SECOND], [SECOND, SECOND]], ids=str)
def test_steps_are_those_of_one_gpu(profile: str, fast: bool, devices: list[torch.device]) -> None:
    """Also both columns on the second GPU, where the fast step is a graph of that one."""
    assert_steps_agree(stepper(fast, profile, devices=devices), stepper(False, profile))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("column", ["a", "b"])
def test_a_loss_that_is_no_number_changes_nothing_on_either(fast: bool, column: str) -> None:
    """Nor the steps given after it, before the host knows."""
    made = stepper(fast, devices=[FIRST, SECOND])
    given_at_once(made, 0)
    with torch.no_grad():
        made.model.fc7.get_submodule(column).weight[0, 0] = float("nan")  # type: ignore[index]
    before = [parameter.clone() for parameter in made.model.parameters()]
    assert not np.isfinite(given_at_once(made, 20)).any()
    for parameter, old in zip(made.model.parameters(), before, strict=True):
        assert torch.equal(parameter.nan_to_num(7), old.nan_to_num(7))


@pytest.mark.parametrize("fast", [False, True])
def test_nothing_makes_the_host_wait(fast: bool) -> None:
    ready = {device: batch(0).to(device) for device in (FIRST, SECOND)}
    assert_the_host_never_waits(stepper(fast, devices=[FIRST, SECOND]), ready)


@pytest.mark.parametrize("views", [1, 10])
def test_views_are_those_of_one_gpu(views: int) -> None:
    """Plain on one, fast on two: probabilities, within float32 rounding."""
    images = torch.randint(0, 256, (8, 75, 75, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = Batch(images, torch.zeros(8, dtype=torch.int64))
    found = []
    for fast, devices in (("false", [FIRST, FIRST]), ("true", [FIRST, SECOND])):
        made = stepper(False, devices=devices)
        config = load("train", TrainConfig, ["data.path=none", f"runtime.fast={fast}"]).runtime
        forward = forward_for(made.model.eval(), made.inputs, config)
        found.append([probabilities.cpu() for probabilities in forward(whole, views_of(views, 8), None)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert (found[0][0] - found[0][0].flip(0)).abs().max() > 1e-2  # it tells pictures apart
