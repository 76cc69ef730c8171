"""What is written beside the training: that training goes on meanwhile, and that what is written is what was saved."""

import threading
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import small
from torch import Tensor
from trainings import small_config

from alexnet_repro.monitor.tensorboard import Dashboard
from alexnet_repro.runs.checkpoint import Checkpoint, load_checkpoint
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.train import train
from alexnet_repro.training.background import Background
from alexnet_repro.training.optimisers import buffers_of
from alexnet_repro.training.step import Stepper

ENOUGH = 120  # seconds
STEPS = 12  # of three epochs


def test_training_goes_on_while_images_and_checkpoints_are_written(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of step N is written before step N + 1 has changed the weights: a write in the main thread would wait for
    ever, and a checkpoint that shares memory with the network would hold the later step.
    """
    computed = [threading.Event() for _ in range(STEPS + 1)]
    states: dict[int, dict[str, Tensor]] = {}
    written = []
    real_learn, real_save = Stepper.learn, Checkpoint.save

    def learn(stepper: Stepper, *arguments: Any) -> Tensor:
        outcome = real_learn(stepper, *arguments)
        number = len(states) + 1
        velocities = buffers_of(stepper.model, stepper.optimiser)["buffers"]["momentum_buffer"]
        tensors = dict(stepper.model.state_dict()) | {f"velocity {name}": b for name, b in velocities.items()}
        states[number] = {name: tensor.clone() for name, tensor in tensors.items()}
        computed[number].set()
        return outcome

    def wait_for_the_step_after(number: int) -> None:
        assert number == STEPS or computed[number + 1].wait(ENOUGH), "the main thread does not go on"

    def save(checkpoint: Checkpoint, path: Path) -> None:
        wait_for_the_step_after(checkpoint.step)
        assert read_metrics(tmp_path / "r" / "metrics.jsonl", "epoch")[-1]["step"] == checkpoint.step
        real_save(checkpoint, path)
        kept = load_checkpoint(path)
        velocities = {f"velocity {name}": tensor for name, tensor in kept.buffers["momentum_buffer"].items()}
        assert len(kept.history) == kept.epoch
        for name, tensor in (kept.weights | velocities).items():
            assert torch.equal(tensor, states[checkpoint.step][name]), name
        written.append(checkpoint.step)

    def late(real: Callable[..., None]) -> Callable[..., None]:
        def method(dashboard: Dashboard, number: int, *arguments: Any) -> None:
            wait_for_the_step_after(number)
            real(dashboard, number, *arguments)

        return method

    monkeypatch.setattr(Stepper, "learn", learn)
    monkeypatch.setattr(Checkpoint, "save", save)
    for name in ("batch", "epoch"):
        monkeypatch.setattr(Dashboard, name, late(getattr(Dashboard, name)))
    train(small_config(prepared, tmp_path, "schedule.epochs=3", "save_minutes=1000"))
    assert written == [4, 8, 12]
    last, previous = (load_checkpoint(tmp_path / "r" / "checkpoints" / f"{n}.pt") for n in ("last", "previous"))
    assert (last.step, previous.step) == (12, 8)


def test_the_next_checkpoint_waits_for_the_memory_of_the_one_before(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved after every step: none is left out, and none is copied over one that is being written."""
    real, steps, writing = Checkpoint.save, [], threading.Lock()

    def save(checkpoint: Checkpoint, path: Path) -> None:
        with writing:
            before = {name: weight.clone() for name, weight in checkpoint.weights.items()}
            real(checkpoint, path)
            assert all(torch.equal(weight, before[name]) for name, weight in checkpoint.weights.items())
            steps.append(checkpoint.step)

    copied = Checkpoint.copied

    def copy(checkpoint: Checkpoint, memory: dict[str, Tensor] | None = None) -> Checkpoint:
        assert not writing.locked()
        return copied(checkpoint, memory)

    monkeypatch.setattr(Checkpoint, "save", save)
    monkeypatch.setattr(Checkpoint, "copied", copy)
    train(small_config(prepared, tmp_path))
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_an_error_in_the_thread_ends_the_run(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(checkpoint: Checkpoint, path: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Checkpoint, "save", save)
    with pytest.raises(ZeroDivisionError):
        train(small_config(prepared, tmp_path))


def test_tasks_run_in_order_and_an_error_is_raised_once() -> None:
    done: list[int] = []
    with Background() as background:
        for number in range(500):  # more than may wait
            background.submit(done.append, number)
        failed = background.submit(lambda: 1 // 0)
        wait([failed])
        assert done == list(range(500))
        with pytest.raises(ZeroDivisionError):
            background.submit(done.append, 500)
        background.submit(done.append, 501)  # behind what failed: dropped
    assert len(done) == 500


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_a_copied_checkpoint_has_its_own_tensors(device: str) -> None:
    name = "conv1.a.weight"
    weights = dict(small().to(device).state_dict())
    checkpoint = Checkpoint(
        epoch=0, step=0, within={}, weights=weights, buffers={"b": dict(weights)}, buffer_rates={}, history=[],
        classes=[], words=[], data={}, mean_image=torch.zeros(1), inputs={}, model={},
    )  # fmt: skip
    memory: dict[str, Tensor] = {}
    first = checkpoint.copied(memory)
    kept = first.copied()
    before = weights[name].clone().cpu()
    weights[name].add_(1)
    for copy in (first, kept):
        assert torch.equal(copy.weights[name], before) and torch.equal(copy.buffers["b"][name], before)
    assert first.weights[name].is_pinned() == (device == "cuda")
    second = checkpoint.copied(memory)
    assert second.weights[name] is first.weights[name]
    assert torch.equal(second.weights[name], before + 1) and torch.equal(kept.weights[name], before)
    assert checkpoint.finite()
    weights["fc8.a.bias"][-1] = float("nan")
    assert not checkpoint.finite() and second.finite()
