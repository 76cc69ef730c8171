"""What the loop makes of the rules: one run, stopped twice, whose every row, rate, noise, checkpoint and error is
computed again from the files it leaves.

The rules themselves (schedule, update, draws, errors) have tests of their own. Here their numbers are written out, and
the run is replayed by a loop of a few lines on the network of grouped.py.
"""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from conftest import SMALL
from grouped import Grouped
from networks import SENSITIVE_START
from sklearn.metrics import log_loss, top_k_accuracy_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_repro.config import TrainConfig
from alexnet_repro.model import AlexNet, initialise
from alexnet_repro.model.layers import Dropout
from alexnet_repro.train import train
from alexnet_repro.training.watch import Watch
from data_prep.common.cli import load
from data_prep.common.errors import STOPPED

SEED, RATE, BIAS_TIMES, NOISE, BATCH = 4, 0.0005, 2.0, 1.0, 16
CHANGES = (
    "{after: 1, weights: 0.1, biases: 0.5}, {after: 2, layers: {conv2: 0.3}},"
    "{after: 3, layers: {conv1: 0, conv2: null}, colour_noise: false}, {after: 4, weights: 10}"
)


@dataclass(frozen=True)
class Epoch:
    """What must hold in an epoch."""

    weights: float
    biases: float
    layers: dict[str, float] = field(default_factory=dict)
    noise: bool = True


PLAN = [
    Epoch(0.0005, 0.001),
    Epoch(0.00005, 0.0005),  # divided
    Epoch(0.00005, 0.0005, {"conv2": 0.00015}),  # a layer with its own rate
    Epoch(0.00005, 0.0005, {"conv1": 0.0}, noise=False),  # a frozen layer; conv2 goes with the others again
    Epoch(0.005, 0.0005, {"conv1": 0.0}, noise=False),  # so fast that the error rises, while the loss falls
]
STOPS = (6, 12)  # in the midst of the divided epoch; after the last batch of the next, before its validation
KEEP_EVERY = 2
TOLERANCE = 1e-4  # of losses and weights: float32, sums in another order, over 20 steps


@dataclass
class Replayed:
    rows: list[dict[str, float]]  # as in the history
    losses: list[float]  # step by step
    weights: list[dict[str, torch.Tensor]]  # after each epoch
    velocities: dict[str, torch.Tensor]  # after the last


@dataclass
class Run:
    folder: Path
    data: Path
    replayed: Replayed

    def checkpoint(self, name: str) -> dict[str, Any]:
        return reference.read_checkpoint(self.folder / "checkpoints" / f"{name}.pt")

    def rows(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["kind"] == kind]


def config_for(prepared: Path, runs: Path) -> TrainConfig:
    settings = [
        f"data.path={prepared}", f"runs_dir={runs}", "run=r", f"seed={SEED}", f"optim.learning_rate={RATE}",
        f"optim.bias_rate_times={BIAS_TIMES}", f"augment.colour_noise={NOISE}", f"keep_every={KEEP_EVERY}",
        "log_every=1", "schedule=constant", f"schedule.epochs={len(PLAN)}", f"schedule.changes=[{CHANGES}]",
    ]  # fmt: skip
    return load("train", TrainConfig, [*SMALL, *SENSITIVE_START, *settings])


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("wiring")
    config = config_for(prepared, runs)
    after_step = Watch.step

    def step(watch: Watch, loss: float) -> None:
        after_step(watch, loss)
        if watch.state.step in STOPS:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "step", step)
        assert [train(config) for _ in range(3)] == [STOPPED, STOPPED, None]
    return Run(runs / "r", prepared, replay(config, prepared, PLAN))


def replay(config: TrainConfig, data: Path, plan: list[Epoch]) -> Replayed:
    """Section 5 once more, on one device and with nothing but the images, the plan and the seed."""
    pictures, shown = reference.read_split(data, "train"), reference.read_split(data, "val")
    mean = np.load(data / "mean.npy")
    covariance = json.loads((data / "manifest.json").read_text())["statistics"]["rgb_covariance"]
    model = initialise(AlexNet(config.model, classes=10), SEED).train()  # for its first weights, and its dropout masks
    network = Grouped({"conv1": 8, **{f"conv{i}": 16 for i in (2, 3, 4, 5)}, "fc6": 32, "fc7": 32}, 10, map_side=1)
    network.load_columns(model.state_dict())
    velocities = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    result = Replayed([], [], [], velocities)
    for number, epoch in enumerate(plan):
        order = np.random.default_rng([SEED, number, 0]).permutation(60)
        rng = np.random.default_rng([SEED, number, 1])
        tops, lefts = rng.integers(0, 75 - 67 + 1, (2, 60))
        mirrored = rng.random(60) < 0.5
        amounts = rng.standard_normal((60, 3), dtype=np.float32) * NOISE
        shifts = amounts @ components(covariance).T if epoch.noise else np.zeros((60, 3))
        losses, guesses = [], []
        for start in range(0, 60, BATCH):
            patches = []
            for place in range(start, min(start + BATCH, 60)):
                patch = (pictures.images[order[place]] - mean)[tops[place] :, lefts[place] :][:67, :67]
                patches.append((patch[:, ::-1] if mirrored[place] else patch) + shifts[place])
            x = torch.from_numpy(np.stack(patches).transpose(0, 3, 1, 2).astype(np.float32))
            labels = torch.from_numpy(pictures.labels[order[start : start + BATCH]])
            model.seed_dropout(SEED, len(result.losses))
            logits = network(x, dropout_masks(model, len(x)))
            network.zero_grad()
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            with torch.no_grad():
                for name, w in network.named_parameters():
                    layer, kind = name.split(".")
                    rate = epoch.biases if kind == "bias" else epoch.layers.get(layer, epoch.weights)
                    if epoch.layers.get(layer) == 0:
                        continue
                    v = velocities[name]
                    v.copy_(0.9 * v - 0.0005 * rate * w - rate * w.grad)
                    w += v
            result.losses.append(loss.item())
            losses += [loss.item()] * len(x)
            guesses.append((logits.detach(), labels))
        row = {"epoch": number + 1, "step": len(result.losses), "train_loss": float(np.mean(losses))}
        row |= {"learning_rate": epoch.weights, "bias_learning_rate": epoch.biases}
        row |= errors("train", *(torch.cat(parts).numpy() for parts in zip(*guesses, strict=True)))
        centre = torch.from_numpy((shown.images - mean)[:, 4:71, 4:71].transpose(0, 3, 1, 2).astype(np.float32))
        with torch.no_grad():
            p = network(centre).softmax(1).numpy()
        row |= {"val_loss": log_loss(shown.labels, p, labels=range(10))} | errors("val", p, shown.labels)
        result.rows.append(row)
        result.weights.append({name: parameter.detach().clone() for name, parameter in network.named_parameters()})
    return result


def components(covariance: list[list[float]]) -> np.ndarray:
    """Section 4.1: p_k times l_k, on the [0, 1] scale, in grey levels."""
    values, vectors = np.linalg.eigh(np.array(covariance) / 255**2)
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(3)])
    return vectors * values * 255


def dropout_masks(model: AlexNet, images: int) -> list[torch.Tensor]:
    """Of fc6 and fc7, columns side by side, as the step draws them."""
    drops = [[m for m in layer.then.modules() if isinstance(m, Dropout)] for layer in (model.fc6, model.fc7)]
    return [torch.cat([drop(torch.ones(images, 16)) for drop in columns], dim=1) for columns in drops]


def errors(split: str, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """By scikit-learn."""
    return {f"{split}_top{k}_error": 1 - top_k_accuracy_score(labels, scores, k=k, labels=range(10)) for k in (1, 5)}


def test_the_run_is_sensitive_to_its_images_and_to_each_part_of_its_plan(run: Run) -> None:
    """Or none of the tests below would tell anything."""
    last, images = run.checkpoint("last"), reference.read_split(run.data, "val").images
    reference.assert_sensitive_to_views(last, images, 1e-5)
    first, second, third, fourth, fifth = PLAN
    faults: dict[str, list[Epoch]] = {
        "a rate that is never divided": [first, first, third, fourth, fifth],
        "a layer that has no rate of its own": [first, second, second, fourth, fifth],
        "a layer that is never frozen": [first, second, third, replace(fourth, layers={}), replace(fifth, layers={})],
        "a noise that is never switched off": [first, second, third, *(replace(e, noise=True) for e in PLAN[3:])],
    }
    config, usual = config_for(run.data, run.folder.parent), run.replayed
    for what, plan in faults.items():
        other = replay(config, run.data, plan)
        moved = max(abs(a - b) for a, b in zip(other.losses, usual.losses, strict=True))
        assert moved >= 100 * TOLERANCE, f"{what} moves the loss by {moved:.1e} only"


def test_every_row_of_the_history_has_the_rates_of_its_epoch(run: Run) -> None:
    """Catches a history that goes on with the first rate, or with that of the weights for the biases."""
    for row, epoch in zip(run.checkpoint("last")["history"], PLAN, strict=True):
        assert row["learning_rate"] == pytest.approx(epoch.weights, rel=1e-12)
        assert row["bias_learning_rate"] == pytest.approx(epoch.biases, rel=1e-12)


def test_every_step_follows_the_schedules_rates_and_colour_noise(run: Run) -> None:
    """Loss by loss, over two stops. Catches a noise that stays on or off, a frozen layer that moves, a batch twice or
    never, draws or dropout masks of another step, a velocity that is lost or rescaled when the rate changes.
    """
    rows = run.rows("steps")
    assert [row["step"] for row in rows] == list(range(1, 21))
    np.testing.assert_allclose([row["loss"] for row in rows], run.replayed.losses, rtol=0, atol=TOLERANCE)
    for row in rows:
        epoch = PLAN[(row["step"] - 1) // 4]
        assert row["learning_rate/weights"] == pytest.approx(epoch.weights)
        assert row["learning_rate/biases"] == pytest.approx(epoch.biases)
        for layer in ("conv1", "conv2"):
            own = epoch.layers.get(layer, epoch.weights)
            assert row[f"learning_rate/{layer}_weights"] == pytest.approx(own)
            of_biases = row.get(f"learning_rate/{layer}_biases", own)  # left out where it is that of the weights
            assert of_biases == pytest.approx(epoch.biases if own else 0.0)


def test_training_errors_and_losses_are_those_of_the_replay(run: Run) -> None:
    for row, own in zip(run.checkpoint("last")["history"], run.replayed.rows, strict=True):
        assert (row["epoch"], row["step"]) == (own["epoch"], own["step"])
        for key in ("train_loss", "train_top1_error", "train_top5_error"):
            assert row[key] == pytest.approx(own[key], abs=TOLERANCE), (row["epoch"], key)


def test_validation_errors_count_one_and_five_guesses(run: Run) -> None:
    """Catches errors counted from the fourth or sixth guess on, an image left out, training mode, another patch."""
    own = [(row["val_top1_error"], row["val_top5_error"]) for row in run.replayed.rows]
    assert len({second for _, second in own}) > 1 and all(0 < second < first for first, second in own)
    for row, wanted in zip(run.checkpoint("last")["history"], run.replayed.rows, strict=True):
        for key in ("val_loss", "val_top1_error", "val_top5_error"):
            assert row[key] == pytest.approx(wanted[key], abs=TOLERANCE), (row["epoch"], key)


def test_best_is_the_epoch_with_the_lowest_top1_error(run: Run) -> None:
    """Not that with the lowest loss or top-5 error, and not the first or the last."""
    rows = run.replayed.rows
    best = {key: int(np.argmin([row[key] for row in rows])) for key in ("val_top1_error", "val_loss", "val_top5_error")}
    chosen = best["val_top1_error"]
    assert chosen not in (best["val_loss"], best["val_top5_error"], 0, len(rows) - 1), "this run tells nothing"
    checkpoint = run.checkpoint("best")
    assert checkpoint["epoch"] == chosen + 1
    assert_weights(checkpoint, run.replayed.weights[chosen])


def test_checkpoints_are_kept_under_the_names_of_their_epochs(run: Run) -> None:
    names = {path.stem for path in (run.folder / "checkpoints").glob("*.pt")}
    assert names == {"last", "previous", "best", "epoch-0002", "epoch-0004"}
    for name, epoch in (("epoch-0002", 2), ("epoch-0004", 4), ("previous", 4), ("last", 5)):
        checkpoint = run.checkpoint(name)
        assert (checkpoint["epoch"], checkpoint["step"], checkpoint["within"]) == (epoch, 4 * epoch, {})
        assert_weights(checkpoint, run.replayed.weights[epoch - 1])
        assert checkpoint["history"] == run.checkpoint("last")["history"][:epoch]


def test_the_checkpoint_has_the_velocities_and_what_the_network_needs(run: Run) -> None:
    last, manifest = run.checkpoint("last"), json.loads((run.data / "manifest.json").read_text())
    for name, velocity in run.replayed.velocities.items():
        layer, kind = name.split(".")
        parts = [f"{layer}.{column}.{kind}" for column in ("a" if layer == "fc8" else "ab")]
        found = torch.cat([last["buffers"]["momentum_buffer"][part] * -last["buffer_rates"][part] for part in parts])
        torch.testing.assert_close(found, velocity, rtol=0, atol=1e-3 * float(velocity.abs().max()), msg=name)
    assert last["classes"] == [info["wnid"] for info in manifest["classes"]]
    assert last["words"] == [info["words"] for info in manifest["classes"]]
    assert np.array_equal(last["mean_image"].numpy(), np.load(run.data / "mean.npy"))
    assert last["inputs"] == {"mean": "at_patch", "scale": 1.0}
    assert last["data"]["plan"] == manifest["preparation"]["plan"]


def assert_weights(checkpoint: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in reference.network_of(checkpoint).state_dict().items():
        torch.testing.assert_close(tensor, weights[name].double(), rtol=0, atol=TOLERANCE, msg=name)


def test_metrics_and_event_files_say_what_the_history_says(run: Run) -> None:
    """Read with json, and as TensorBoard reads them; float32 there. Over three sessions, each step and epoch once."""
    history = run.checkpoint("last")["history"]
    epochs = run.rows("epoch")
    assert [{key: row[key] for key in history[0]} for row in epochs] == history
    for row, own in zip(epochs, run.replayed.weights, strict=True):
        for layer, side, half in (("conv3", "a", slice(0, 8)), ("conv3", "b", slice(8, 16)), ("fc8", "a", slice(None))):
            norm = float(own[f"{layer}.weight"][half].norm())
            assert row[f"weight_norm/{layer}.{side}"] == pytest.approx(norm, rel=1e-4)
    events = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()

    def assert_curve(tag: str, kind: str, value: Callable[[dict[str, Any]], float]) -> None:
        expected = {row["step"]: value(row) for row in run.rows(kind)}
        assert {point.step for point in events.Scalars(tag)} == set(expected), tag
        for point in events.Scalars(tag):  # rates twice where a session ended with an epoch's last step
            assert point.value == pytest.approx(expected[point.step], rel=1e-6), (tag, point.step)

    assert_curve("loss/train_step", "steps", lambda row: row["loss"])
    for tag in ("learning_rate/weights", "learning_rate/biases", "learning_rate/conv1_weights"):
        assert_curve(tag, "steps", lambda row, tag=tag: row[tag])
    for k in (1, 5):
        assert_curve(f"error_percent/val_top{k}", "epoch", lambda row, k=k: 100 * row[f"val_top{k}_error"])
        assert_curve(f"error_percent/train_top{k}", "epoch", lambda row, k=k: 100 * row[f"train_top{k}_error"])
    assert_curve("loss/val", "epoch", lambda row: row["val_loss"])
    assert_curve("loss/train_epoch", "epoch", lambda row: row["train_loss"])
