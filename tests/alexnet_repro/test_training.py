"""Runs on the embedded sample in small: what they keep, refuse, and end with."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL

from alexnet_repro.config import TrainConfig
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.train import train
from data_prep.command import RequestError, RunError, load


def config_for(prepared: Path, runs: Path, *overrides: str) -> TrainConfig:
    fixed = [f"data.path={prepared}", f"runs_dir={runs}", "run=r", "schedule=constant", "schedule.epochs=2"]
    return load("train", TrainConfig, [*SMALL, *fixed, *overrides])


def test_a_run_that_pauses_ends_to_the_bit_where_an_undisturbed_one_does(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    division = "schedule.changes=[{after: 1, weights: 0.1, biases: 0.1}]"
    train(config_for(prepared, tmp_path / "whole", division))
    validate = "alexnet_repro.training.loop.Trainer._validate"
    real = __import__("alexnet_repro.training.loop", fromlist=["Trainer"]).Trainer._validate

    def dies_in_the_second_epoch(trainer):  # type: ignore[no-untyped-def]
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(validate, dies_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(config_for(prepared, tmp_path / "paused", division))
    train(config_for(prepared, tmp_path / "paused", division))
    whole, paused = (RunFolder(tmp_path / name / "r").checkpoint("last") for name in ("whole", "paused"))
    assert whole.epoch == paused.epoch == 2
    for name, weight in whole.weights.items():
        assert torch.equal(weight, paused.weights[name]), name
        assert torch.equal(whole.momentum[name], paused.momentum[name]), name
    assert (tmp_path / "paused" / "r" / "metrics.jsonl").read_text().count("\n") == 2
    assert [row["val_loss"] for row in whole.history] == [row["val_loss"] for row in paused.history]


def test_a_finished_run_is_left_as_it_is(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_for(prepared, tmp_path, "schedule.epochs=1")
    train(config)
    before = (tmp_path / "r" / "checkpoints" / "last.pt").read_bytes()
    train(config)
    assert (tmp_path / "r" / "checkpoints" / "last.pt").read_bytes() == before
    assert "done: 1 epochs" in capsys.readouterr().out


def test_loss_of_an_untrained_network_is_that_of_guessing(prepared: Path, tmp_path: Path) -> None:
    config = config_for(prepared, tmp_path, "schedule.epochs=1", "optim.learning_rate=0")
    train(config)
    row = RunFolder(tmp_path / "r").checkpoint("last").history[0]
    assert abs(row["val_loss"] - math.log(10)) < 0.1


def test_non_finite_loss_stops_before_the_update(prepared: Path, tmp_path: Path) -> None:
    for batch in (16, 60):  # the loss breaks within an epoch, and with the epoch's last update
        runs = tmp_path / str(batch)
        settings = ["optim.learning_rate=1e30", "schedule.epochs=3", f"optim.batch_size={batch}"]
        with pytest.raises(RunError, match=r"step \d+: the (validation )?loss is (nan|inf)"):
            train(config_for(prepared, runs, *settings))
        assert not list((runs / "r" / "checkpoints").iterdir())


def test_a_run_is_trained_by_one_process_at_a_time(prepared: Path, tmp_path: Path) -> None:
    config = config_for(prepared, tmp_path, "schedule.epochs=1")
    folder = RunFolder(config.folder)
    folder.open_for_training(config)
    with folder.locked(), pytest.raises(RequestError, match="another process is at work on it"):
        train(config)


def test_a_damaged_shard_is_named_whoever_reads_it(prepared: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(prepared, bad)
    shard = bad / "train" / "shard-00002.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    for workers in (0, 1):
        with pytest.raises(RunError, match=r"^\S*bad/train/shard-00002\.tar: \d+ bytes, but the manifest says \d+"):
            train(config_for(bad, tmp_path / f"runs{workers}", f"runtime.workers={workers}"))


def test_changed_settings_are_refused_by_name(prepared: Path, tmp_path: Path) -> None:
    train(config_for(prepared, tmp_path, "schedule.epochs=1"))
    with pytest.raises(RequestError, match=r"optim\.momentum was 0\.9, now 0\.5"):
        train(config_for(prepared, tmp_path, "schedule.epochs=1", "optim.momentum=0.5"))
    with pytest.raises(RequestError, match=r"model\.input_size=227: larger than the 75 pixels"):
        train(config_for(prepared, tmp_path / "new", "model.input_size=227"))
    assert not (tmp_path / "new").exists()
