"""Runs on the embedded sample in small: what they keep, refuse, and end with."""

import shutil
from pathlib import Path
from signal import SIGINT

import pytest
import torch
from conftest import SMALL
from trainings import small_config, start

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.model import AlexNet, initialise
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.train import train
from alexnet_repro.training.batches import note_on_patches
from data_prep.common.cli import load
from data_prep.common.errors import RequestError, RunError


def config_for(prepared: Path, runs: Path, *overrides: str) -> TrainConfig:
    fixed = [f"data.path={prepared}", f"runs_dir={runs}", "run=r", "schedule=constant", "schedule.epochs=2"]
    return load("train", TrainConfig, [*SMALL, *fixed, *overrides])


def test_a_finished_run_is_left_as_it_is(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_for(prepared, tmp_path, "schedule.epochs=1")
    train(config)
    before = (tmp_path / "r" / "checkpoints" / "last.pt").read_bytes()
    train(config)
    assert (tmp_path / "r" / "checkpoints" / "last.pt").read_bytes() == before
    out = capsys.readouterr().out
    assert "done: 1 epochs" in out and "finished before: 1 epochs" in out and "note:" not in out


def test_a_plateau_schedule_cut_short_says_so(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config_for(prepared, tmp_path, "schedule=plateau", "schedule.epochs=1"))
    out = capsys.readouterr().out
    assert "schedule: plateau, at most 1 epochs" in out
    assert "schedule.epochs=1 ended it after 0 of 3 divisions of the rate" in out


def test_a_run_is_trained_by_one_process_at_a_time(prepared: Path, tmp_path: Path) -> None:
    """Also before the run has a configuration."""
    config = config_for(prepared, tmp_path, "schedule.epochs=1")
    folder = RunFolder(config.folder)
    with folder.locked(), pytest.raises(RequestError, match="another process is at work on it"):
        train(config)


def test_a_change_within_an_epoch_comes_after_its_batches_also_in_a_run_that_continues(
    prepared: Path, tmp_path: Path
) -> None:
    """Frozen in the first two of four batches. Catches a rate that changes a batch early or late, and a run stopped
    after the change that continues with the rates of the epoch's beginning.
    """
    held = ["schedule.epochs=1", "schedule.changes=[{after: 0, weights: 0, biases: 0},"
            "{after: {epoch: 0, batches: 2}, weights: 1, biases: 1}]"]  # fmt: skip
    whole = small_config(prepared, tmp_path / "whole", *held)
    train(whole)
    rates = [row["learning_rate/weights"] for row in read_metrics(RunFolder(whole.folder).metrics, "steps")]
    first = whole.optim.learning_rate
    assert rates == [0.0, 0.0, first, first]
    stopped = small_config(prepared, tmp_path / "stopped", *held)
    process = start(stopped, tmp_path / "log", "alexnet_repro.training.step:Stepper.learn", call=3, number=SIGINT)
    process.join()
    second, third = (RunFolder(stopped.folder).checkpoint(name) for name in ("previous", "last"))
    assert (second.step, third.step) == (2, 3)
    fresh = initialise(AlexNet(stopped.model, len(third.classes)), stopped.seed).state_dict()
    assert all(torch.equal(second.weights[name], weight) for name, weight in fresh.items())
    assert not any(torch.equal(third.weights[name], weight) for name, weight in fresh.items() if "weight" in name)
    train(stopped)
    a, b = (RunFolder(config.folder).checkpoint("last").weights for config in (whole, stopped))
    assert all(torch.equal(a[name], b[name]) for name in a)
    rows = [[(row["learning_rate"], row["val_loss"]) for row in RunFolder(config.folder).checkpoint("last").history]
            for config in (whole, stopped)]  # fmt: skip
    assert rows[0] == rows[1] and rows[0][0][0] == first


@pytest.mark.parametrize(("size", "steps"), [(8, 3 + 2), (32, 3 + 0), (24, 3 + 1)])
def test_batches_of_another_size_go_on_where_the_images_end(
    size: int, steps: int, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after three of four batches of 16: 48 of 60 images. Catches a position that still counts the old batches.
    A batch of 32 that is done by half counts as done.
    """
    stopped = small_config(prepared, tmp_path, "schedule.epochs=1")
    start(stopped, tmp_path / "log", "alexnet_repro.training.step:Stepper.learn", call=3, number=SIGINT).join()
    assert RunFolder(stopped.folder).checkpoint("last").within["images"] == 48
    other = ["schedule.epochs=1", f"optim.batch_size={size}", "allow_changes=[optim.batch_size]"]
    train(small_config(prepared, tmp_path, *other))
    assert RunFolder(stopped.folder).checkpoint("last").step == steps


def test_a_damaged_shard_is_named_whoever_reads_it(prepared: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(prepared, bad)
    shard = bad / "train" / "shard-00002.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    for number, setting in enumerate(("runtime.workers=0", "runtime.workers=1", "runtime.data_on_gpu=true")):
        with pytest.raises(RunError, match=r"^\S*bad/train/shard-00002\.tar: \d+ bytes, but the manifest says \d+"):
            train(config_for(bad, tmp_path / f"runs{number}", setting))


def test_a_network_larger_than_the_images_is_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"model\.input_size=227: larger than the 75 pixels"):
        train(config_for(prepared, tmp_path / "new", "model.input_size=227"))
    assert not (tmp_path / "new").exists()


def test_patches_of_less_than_half_an_image_are_noted(prepared: Path, tmp_path: Path) -> None:
    """An image prepared as the note says has the paper's 256 : 224."""
    data = PreparedData(prepared)
    assert note_on_patches(config_for(prepared, tmp_path, "model.input_size=38"), data) is None
    note = note_on_patches(config_for(prepared, tmp_path, "model.input_size=35"), data)
    assert note and "patches of 35 pixels have less than half the side of the 75-pixel" in note and "=40" in note
