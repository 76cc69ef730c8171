"""Section 5: the update rule and the schedule against transcriptions, and runs that stop and go on."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL

from alexnet_repro.config import ScheduleConfig, TrainConfig
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.train import train
from alexnet_repro.training.schedule import next_phase
from alexnet_repro.training.sgd import PaperSGD
from data_prep.command import RequestError, RunError, load


def test_update_rule_is_that_of_section_5() -> None:
    """100 steps with two divisions and a pause at 0, in float64. torch.optim.SGD differs at the divisions by 1e-2."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 5))
    v = np.zeros_like(w)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimiser = PaperSGD([parameter], learning_rate=0.01, momentum=0.9, weight_decay=0.0005)
    for step in range(100):
        eps = 0.0 if 60 <= step < 65 else 0.01 / 10 ** (step // 40)
        gradient = rng.normal(size=w.shape)
        if eps:
            v = 0.9 * v - 0.0005 * eps * w - eps * gradient
            w = w + v
        optimiser.param_groups[0]["lr"] = eps
        parameter.grad = torch.from_numpy(gradient)
        optimiser.step()
        np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-12)
        velocity = optimiser.velocity(parameter)
        assert velocity is not None
        np.testing.assert_allclose(velocity.numpy(), v, rtol=1e-9, atol=1e-15)


def plateau(**changes: object) -> ScheduleConfig:
    settings = {
        "epochs": 90,
        "divisions": 3,
        "divide_by": 10.0,
        "patience": 2,
        "min_improvement": 0.01,
        "divide_after": [],
    }
    return ScheduleConfig(name="test", **{**settings, **changes})  # type: ignore[arg-type]


def rates(config: ScheduleConfig, errors: list[float]) -> list[float]:
    """The rate of each epoch, until the schedule ends the run."""
    result = []
    for epoch in range(len(errors) + 1):
        phase = next_phase(config, 0.01, errors[:epoch])
        if phase.finished:
            break
        result.append(phase.learning_rate)
    return result


def test_plateau_divides_three_times_and_ends() -> None:
    errors = [0.9, 0.8, 0.795, 0.793, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
    # 0.795 and 0.793 do not improve by 0.01, so it divides; 0.7 does; then two epochs to each further division
    expected = [0.01] * 4 + [0.001] * 3 + [0.0001] * 2 + [0.00001] * 2
    np.testing.assert_allclose(rates(plateau(), errors), expected)


def test_at_most_so_many_epochs() -> None:
    assert len(rates(plateau(epochs=5), [0.9 - i / 50 for i in range(20)])) == 5


def test_fixed_divisions() -> None:
    config = plateau(patience=None, divide_after=[2, 3], epochs=4)
    np.testing.assert_allclose(rates(config, [0.5] * 9), [0.01, 0.01, 0.001, 0.0001])
    with pytest.raises(RequestError, match="divide_after"):
        plateau(divide_after=[3])


def config_for(prepared: Path, runs: Path, *overrides: str) -> TrainConfig:
    fixed = [f"data.path={prepared}", f"runs_dir={runs}", "run=r", "schedule=constant", "schedule.epochs=2"]
    return load("train", TrainConfig, [*SMALL, *fixed, *overrides])


def test_a_run_that_pauses_ends_to_the_bit_where_an_undisturbed_one_does(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    division = "schedule.divide_after=[1]"
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
