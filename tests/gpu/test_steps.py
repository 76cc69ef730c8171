"""Steps in the fast form on a GPU: as graphs, against plain ones."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL

from alexnet_repro import runtime
from alexnet_repro.config import TrainConfig
from alexnet_repro.data import Batch, ColourNoise, ColumnInputs, Draws, InputRule, PreparedData
from alexnet_repro.model import AlexNet, exchange, initialise, place
from alexnet_repro.model.fast import FastNetwork
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.train import run
from alexnet_repro.training.batches import Batches
from alexnet_repro.training.fast_step import FastStepper
from alexnet_repro.training.loop import Trainer
from alexnet_repro.training.optimisers import buffers_of, optimiser_for, set_rates
from alexnet_repro.training.ranks import Ranks, nccl
from alexnet_repro.training.schedule import Phase
from alexnet_repro.training.state import TrainingState
from alexnet_repro.training.step import Stepper
from alexnet_repro.training.stop import StopRequest
from data_prep.common.cli import load

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda", 0)
LEARNS = [
    f"model.{layer}.{key}"
    for layer in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    for key in ("weight_std=0.1", "bias=0.1")
]


@pytest.fixture(autouse=True)
def _plain_float32() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def batch(number: int, images: int = 16, classes: int = 10) -> Batch:
    """Pictures whose tint tells their class."""
    g = torch.Generator().manual_seed(number)
    labels = torch.randint(0, classes, (images,), generator=g)
    pictures = torch.randint(0, 256, (images, 67, 67, 3), generator=g, dtype=torch.uint8)
    pictures[..., 0] = (labels * 255 // classes).to(torch.uint8)[:, None, None]
    top, left = torch.randint(0, 9, (2, images), generator=g)
    mirror, colour = torch.rand(images, generator=g) < 0.5, torch.randn(images, 3, generator=g) * 0.1
    return Batch(pictures, labels, Draws(top, left, mirror, colour)).to(GPU)


def stepper(
    fast: bool, profile: str = "paper", precision: str = "fp32", channels_last: bool | None = None,
    devices: Sequence[torch.device] = (GPU, GPU),
) -> Stepper:  # fmt: skip
    """With weights that keep the size of what passes through them: every column, mask and colour shows in the loss from
    the first step on.
    """
    if profile == "cifar10":  # with locally connected layers, whose places are its own
        settings = ["experiment=cifar10_lrn", "model.width=0.25", "model.input_size=67"]
    else:
        settings = [*(f"{group}={profile}" for group in ("model", "augment", "optim")), *SMALL, *LEARNS]
    config = load("train", TrainConfig, ["data.path=none", *settings, "optim.learning_rate=0.0005"])
    devices = devices[: config.model.columns]
    model = initialise(AlexNet(config.model, 10), 0).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter *= 1.5 / parameter[0].numel() ** 0.5 / parameter.std() / (60 if "conv1" in name else 1)
    place(model, devices)
    mean = np.random.default_rng(0).random((75, 75, 3)).astype(np.float32) * 20 + 110
    rule = InputRule(mean, 67, config.augment.mean, 1.0)
    noise = ColourNoise(np.eye(3, dtype=np.float32) * 100, config.augment.colour_divisor)
    inputs = ColumnInputs(rule, devices, channels_last, noise)
    parts = model, optimiser_for(config.optim, model, {"conv1"}), inputs, 0, Ranks(), precision
    return FastStepper(*parts, noise, 16) if fast else Stepper(*parts)


PHASES = [
    (Phase(False), True),
    (Phase(False, weights=0.5, biases=0.5), True),  # velocities keep their scale across a change of rate
    (Phase(False, weights=0.5, biases=0.5, layers={"conv1": 0.0}), False),  # a frozen layer, no noise
]


def furthest(found: list[float], expected: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def given_at_once(made: Stepper, first: int, sizes: Sequence[int] = (16,) * 20, noise: bool = True) -> list[float]:
    """The losses of steps given back to back, with batches of these sizes; `first`: how many there were before."""
    given = []
    for step, size in enumerate(sizes, first):
        on_first = batch(step, size)
        given.append(made({device: on_first.to(device) for device in made.inputs.devices}, step, noise, False))
    return [outcome.read().loss for outcome in given]


@torch.no_grad()
def take_state(ours: Stepper, theirs: Stepper) -> None:
    """Weights and velocities, to where ours lie: a graph goes on reading them."""
    kept = [buffers_of(made.model, made.optimiser) for made in (ours, theirs)]
    assert kept[0]["buffer_rates"] == kept[1]["buffer_rates"]
    for own, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        own.copy_(other)
    for name, buffer in kept[1]["buffers"]["momentum_buffer"].items():
        kept[0]["buffers"]["momentum_buffer"][name].copy_(buffer)


def assert_steps_agree(ours: Stepper, theirs: Stepper) -> None:
    """Compares losses and the change of each tensor, through three phases with a short batch in each, which takes the
    plain step. After every two steps ours takes the state of theirs: without that, a rounding difference of 1e-6 would
    grow to 0.1 in some twenty steps, as soon as it changes which number in a pooling window is the largest.

    Measured on a CPU with noise on the output of every layer: at 1e-6 of its deviation losses are 1.4e-4 apart and
    changes 0.02, at 1e-5, more than rounding should be, 0.02 and 0.08. One stale mask, noise left on in the last phase,
    a velocity that keeps no scale: 0.2 or more in a change.
    """
    done = 0
    for phase, noise in PHASES:
        for made in (ours, theirs):
            set_rates(made.optimiser, phase)
        for sizes in ((16, 16), (16, 5), (16, 16)):
            before = [parameter.detach().clone() for parameter in theirs.model.parameters()]
            found, expected = (given_at_once(made, done, sizes, noise) for made in (ours, theirs))
            assert furthest(found, expected) < 0.05
            for (name, own), other, start in zip(
                ours.model.named_parameters(), theirs.model.parameters(), before, strict=True
            ):
                moved = other - start
                assert (own.to(start.device) - start - moved).norm() <= 0.15 * moved.norm(), name
                layer, kind = name.split(".")[0], name.split(".")[-1]
                assert moved.any() == (phase.rate(layer, kind == "bias") > 0), name
            take_state(ours, theirs)
            done += len(sizes)


@pytest.mark.parametrize("profile", ["paper", "code2012", "cifar10"])
def test_steps_as_graphs_are_the_plain_ones(profile: str) -> None:
    for other in (stepper(False, profile, channels_last=True), stepper(True, profile)):
        assert_steps_agree(other, stepper(False, profile))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precision_rounds_like_the_plain_form(precision: str) -> None:
    """Eight losses at rates of 0, for in a network this sensitive rounding grows from step to step."""

    def frozen(made: Stepper) -> list[float]:
        set_rates(made.optimiser, Phase(False, weights=0.0, biases=0.0, layers={"conv1": 0.0}))
        return [made({GPU: batch(step)}, step, True, False).read().loss for step in range(8)]

    exact = frozen(stepper(False))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    plain, fast = (furthest(frozen(stepper(form, precision=precision)), exact) for form in (False, True))
    assert 0 < fast <= 3 * plain
    assert max(exact) - min(exact) > 10 * plain


def test_a_loss_that_is_no_number_changes_nothing() -> None:
    made = stepper(True)
    for step in range(3):
        made({GPU: batch(step)}, step, True, False)
    with torch.no_grad():
        made.model.fc7.a.weight[0, 0] = float("nan")
    before = [parameter.clone() for parameter in made.model.parameters()]
    assert not np.isfinite(made({GPU: batch(3)}, 3, True, False).read().loss)
    made({GPU: batch(4)}, 4, True, False).read()  # nor does a later one
    for parameter, old in zip(made.model.parameters(), before, strict=True):
        assert torch.equal(parameter.nan_to_num(7), old.nan_to_num(7))


@pytest.mark.parametrize("rule", ["paper", "adam"])
def test_the_guard_is_there_before_a_column_on_the_cpu_is_updated(rule: str) -> None:
    """On a GPU found_inf is written 20 ms after the host has submitted the update."""
    config = load("train", TrainConfig, ["data.path=none", f"optim={rule}", *SMALL])
    model = place(AlexNet(config.model, 10), [GPU, "cpu"])
    optimiser = optimiser_for(config.optim, model)
    optimiser.found_inf = torch.zeros((), device=GPU)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    torch.cuda._sleep(40_000_000)  # cycles
    optimiser.found_inf.fill_(1)
    optimiser.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def assert_the_host_never_waits(made: Stepper, ready: dict[torch.device, Batch]) -> None:
    made(ready, 0, True, False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 4):
            made(ready, step, True, False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nothing_makes_the_host_wait() -> None:
    assert_the_host_never_waits(stepper(True), {GPU: batch(0)})


@pytest.mark.parametrize("captured", [False, True])
def test_copies_between_gpus_forced_on_one(captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each column is computed by itself, kernel by kernel or as graphs, and the exchange copies on a side stream, as
    between two GPUs. One stream: PyTorch synchronises the two streams of a copy only if they lie on different GPUs.
    """
    side = torch.cuda.Stream(GPU)
    monkeypatch.setattr(exchange, "_copy_stream", lambda device, direction: side)
    made = stepper(True)
    assert isinstance(made, FastStepper)
    monkeypatch.setattr(exchange, "_between_gpus", lambda source, target: True)
    apart = FastNetwork(made.model, "fp32", [(GPU, [0]), (GPU, [1])])
    for number in range(10):
        b = batch(number)
        image = made._transforms[GPU](b.images, b.drawn(with_noise=False))
        made.model.seed_dropout(0, number)
        for dropout, mask in zip(made.model.dropouts, chain(*made._masks.values()), strict=True):
            dropout.draw(mask)
        if captured and not number:
            apart.capture([image, image], made._masks)
        gradients = []
        for network, images in ((made.fast, [image]), (apart, [image, image])):
            made.model.zero_grad()
            out = network(images, made._masks)
            torch.full((64, 1024, 1024), float("nan"), device=GPU)  # whoever reads freed memory finds this
            (out * torch.arange(out.numel(), device=GPU).view_as(out)).sum().backward()
            gradients.append([out.detach(), *(parameter.grad for parameter in made.model.parameters())])
        for whole, own in zip(*gradients, strict=True):
            torch.testing.assert_close(own, whole, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


class Killed(BaseException):
    pass


def test_a_run_goes_on_to_the_bit(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With runtime.deterministic=true, broken off after each of 25 steps: the checkpoint alone is gone on from."""
    division = "schedule.changes=[{after: 2, weights: 0.1, biases: 0.1}]"
    fixed = [*SMALL, *LEARNS, f"devices=[{GPU}]", f"data.path={prepared}", "schedule=constant", "schedule.epochs=4"]
    fixed += [division, "optim.batch_size=8", "save_minutes=1e-9", "runtime.deterministic=true"]
    fixed += ["runtime.data_on_gpu=true"]
    plain, end = Trainer._read_results, math.inf

    def read_results(trainer: Trainer, lag: int = 0) -> None:
        if trainer.state.step >= end:
            raise Killed
        plain(trainer, lag)

    monkeypatch.setattr(Trainer, "_read_results", read_results)

    def weights_after(name: str, broken_off: Iterator[int]) -> dict[str, torch.Tensor]:
        nonlocal end
        config = load("train", TrainConfig, [*fixed, f"run={name}", f"runs_dir={tmp_path}"])
        runtime.configure(config.runtime)
        data, folder = PreparedData(config.data.path), RunFolder(config.folder)
        while True:
            model = place(initialise(AlexNet(config.model, 10), 0), [GPU, GPU])
            state, ranks, stop = TrainingState(config, data, model), Ranks(), StopRequest()
            batches = Batches(config, data, [GPU, GPU], ranks, stop)
            folder.checkpoints.mkdir(parents=True, exist_ok=True)
            checkpoint, _ = folder.last_checkpoint()
            if checkpoint:
                state.resume(checkpoint)
            folder.write_config(config)
            end = next(broken_off, math.inf)
            try:
                run(folder, state, batches, ranks, stop)
            except Killed:
                continue
            return folder.last_checkpoint()[0].weights  # type: ignore[union-attr]

    whole = weights_after("whole", iter([]))
    places = iter(range(1, 26))
    broken = weights_after("broken", places)
    assert next(places, None) is None
    for name, weight in whole.items():
        assert torch.equal(broken[name], weight), name


def assert_nccl_serves(devices: Sequence[torch.device], folder: Path) -> None:
    """One process, with its columns on these GPUs, does what each of several does: sums, and gradients of all ranks."""
    import torch.distributed as dist

    dist.init_process_group(nccl(), init_method=f"file://{folder / 'store'}", world_size=1, rank=0)
    try:
        numbers = torch.arange(4, dtype=torch.float64, device=devices[0])
        dist.all_reduce(numbers)
        wrapped = torch.nn.parallel.DistributedDataParallel(place(stepper(False).model, devices))
        wrapped(torch.randn(2, 3, 67, 67, device=devices[0])).sum().backward()
        assert numbers.tolist() == [0, 1, 2, 3]
        assert all(parameter.grad is not None for parameter in wrapped.parameters())
    finally:
        dist.destroy_process_group()


def test_nccl_with_one_process(tmp_path: Path) -> None:
    assert_nccl_serves([GPU, GPU], tmp_path)
