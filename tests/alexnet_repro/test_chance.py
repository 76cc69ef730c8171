"""The start of a run, while its loss is that of guessing: what the schedule, the live line and a warning make of it."""

import math
from pathlib import Path

import pytest
from conftest import SMALL
from evidence import EPOCH_ROW
from PIL import Image

from alexnet_repro.config import ScheduleConfig, TrainConfig
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.train import train
from alexnet_repro.training.chance import MEASURED, ChanceNotice, epochs_at_chance, steps_expected
from alexnet_repro.training.schedule import phase_after
from data_prep.common.cli import load
from data_prep.common.errors import RequestError
from tests.benchmarks import start_of_training

CHANCE = math.log(200)


def history(losses: list[float], noted: bool = True) -> list[dict[str, float]]:
    """Epochs with a validation error that never improves."""
    row = {**EPOCH_ROW, "val_top1_error": 0.995, **({"chance_loss": CHANCE} if noted else {})}
    return [{**row, "epoch": i, "train_loss": loss} for i, loss in enumerate(losses, 1)]


def rates(losses: list[float], *overrides: str, noted: bool = True) -> list[float]:
    """Of the epoch after each of these, with three epochs to a plateau; 0: the run has ended."""
    config = load("train", TrainConfig, ["schedule.patience=3", *overrides]).schedule
    phases = [phase_after(config, history(losses[: n + 1], noted)) for n in range(len(losses))]
    return [0.0 if phase.finished else round(phase.weights, 4) for phase in phases]


def test_no_plateau_is_counted_while_the_network_guesses() -> None:
    """The first epoch that counts improves on nothing, and three more make a plateau."""
    guesses = [5.4, 5.299, 5.298, 5.298, 5.297, 5.297]
    assert rates([*guesses, 5.2, 5.1, 5.0, 4.9, 4.8]) == [1.0] * 9 + [0.1] * 2
    assert rates([*guesses, 5.2, 5.3, 5.3, 5.3, 5.3]) == [1.0] * 9 + [0.1] * 2  # once it has left, all count
    off = "schedule.counts_once_loss_below=null"
    assert rates(guesses, off) == [1, 1, 1, 0.1, 0.1, 0.1]
    assert rates([5.298] * 90) == [1.0] * 89 + [0.0]  # the longest run is as long as ever
    for wrong in ("0", "1.5", "-1"):
        with pytest.raises(RequestError, match=r"counts_once_loss_below=.*: must be a fraction"):
            load("train", TrainConfig, [f"schedule.counts_once_loss_below={wrong}"])


def test_epochs_from_before_there_was_the_rule_all_count() -> None:
    assert rates([5.298] * 6, noted=False) == [1, 1, 1, 0.1, 0.1, 0.1]
    older, newer = history([5.298] * 2, noted=False), history([5.298] * 2)
    assert epochs_at_chance(0.99, [*older, *newer]) == 0
    assert epochs_at_chance(0.99, [*newer, *older]) == 2
    assert epochs_at_chance(0.99, [{"train_loss": 0.0, "chance_loss": 0.0}]) == 0  # a single class
    in_conf = load("train", TrainConfig).schedule.counts_once_loss_below
    assert in_conf == ScheduleConfig.counts_once_loss_below  # what older configurations are read with


def test_a_run_from_before_there_was_the_rule_goes_on(prepared: Path, tmp_path: Path) -> None:
    """Its config.yaml lacks the keys and its epochs the loss of guessing. Another value is refused from then on."""
    where = [f"data.path={prepared}", f"runs_dir={tmp_path}", "run=r", "optim.learning_rate=0", "schedule.patience=1"]
    settings = [*SMALL, *where, "schedule.divisions=1"]
    config = load("train", TrainConfig, settings)
    longer = load("train", TrainConfig, [*settings, "schedule.epochs=3", "allow_changes=[schedule.epochs]"])
    first = load("train", TrainConfig, [*settings, "schedule.epochs=1", "allow_changes=[schedule.epochs]"])
    train(first)
    folder = RunFolder(tmp_path / "r")
    checkpoint = folder.checkpoint("last")
    (row,) = checkpoint.history
    assert row.pop("chance_loss") == pytest.approx(math.log(10))
    checkpoint.save(folder.checkpoint_path("last"))
    text = folder.configuration_text().splitlines(keepends=True)
    # Settings that older configurations lack.
    later = ("counts_once", "recorded_epochs", "across", "split", "bottleneck", "init_layers")
    without = [line for line in text if not line.strip().startswith(later)]
    assert len(without) == len(text) - len(later)
    (folder.path / "config.yaml").write_text("".join(without))
    assert folder.config().schedule.counts_once_loss_below == config.schedule.counts_once_loss_below
    with pytest.raises(RequestError, match=r"model\.norm\.across was column, now layer"):
        train(load("train", TrainConfig, [*settings, "schedule.epochs=1", "model.norm.across=layer"]))
    train(longer)
    rows = folder.checkpoint("last").history
    # At rate 0 nothing improves on the first epoch, which counts: a plateau after the second; the third is the last.
    assert [row["learning_rate"] for row in rows] == [0.0] * 3
    assert ["chance_loss" in row for row in rows] == [False, True, True]
    assert phase_after(longer.schedule, rows[:2]).weights == pytest.approx(0.1)
    assert "counts_once_loss_below: 0.99" in folder.configuration_text()
    other = load("train", TrainConfig, [*settings, "schedule.epochs=3", "schedule.counts_once_loss_below=null"])
    with pytest.raises(RequestError, match=r"counts_once_loss_below was 0\.99, now None"):
        train(other)


def test_what_the_live_line_says_until_the_loss_has_left() -> None:
    text, narrow = (load("train", TrainConfig, ["experiment=tiny_imagenet", *o]) for o in ([], ["model.width=0.25"]))
    start = ChanceNotice(text, 200)
    assert start.after(20, 6.0) == "" and start.note.startswith("above ln(200) = 5.30")
    start.after(400, 5.299)
    assert start.note == "still at ln(200) = 5.30, which the text's recipe leaves after about step 1030"
    start.after(1050, 5.1)
    assert start.note == ""
    start.after(1070, 5.3)
    assert start.note == ""  # for good
    assert start.after(100_000, 5.3) == ""
    other = ChanceNotice(narrow, 200)
    other.after(400, 5.299)
    assert other.note == "still at ln(200) = 5.30"  # nothing was measured of it that could be told
    for config in (load("train", TrainConfig, [f"experiment={name}"]) for name in ("code2012", "no_lrn", "one_column")):
        other = ChanceNotice(config, 200)
        other.after(400, 5.299)
        assert other.note == "still at ln(200) = 5.30"
    for config, classes, epochs in ((text, 200, history([5.0])), (text, 1, [])):
        other = ChanceNotice(config, classes, epochs)
        assert other.after(400, CHANCE if classes == 200 else 0.0) == "" and other.note == ""


def test_one_warning_if_it_lasts_much_longer() -> None:
    text = load("train", TrainConfig)
    scaled = load("train", TrainConfig, ["augment.input_scale=0.004"])
    for config, late in ((text, 3090), (scaled, 4000)):
        start = ChanceNotice(config, 200)
        warnings = [start.after(step, 5.3) for step in range(20, 9000, 10)]
        assert [20 + 10 * i for i, warning in enumerate(warnings) if warning] == [late]
    (said,) = filter(None, warnings)
    assert said.startswith("step 4000: the loss is still at ln(200) = 5.30. Likeliest causes: the rate")
    assert "augment.input_scale=0.004, the paper: 1" in said and "\n" not in said


def test_the_law_is_told_only_between_what_was_measured() -> None:
    few, many = min(MEASURED), max(MEASURED)
    assert steps_expected(few) == pytest.approx(MEASURED[few])
    assert steps_expected(many) == pytest.approx(MEASURED[many])
    assert steps_expected(few - 1) is None and steps_expected(many + 1) is None
    for below, above in ((few, few + 1), (many - 1, many)):
        assert (steps_expected(below) or 0) < (steps_expected(above) or 0)


def test_the_step_that_left() -> None:
    losses = [5.9, 5.3, 5.3, 5.0, 5.3, 5.3, 5.2, 5.1, 5.0, 4.9]  # one entry below is chance; 5.2, 5.1, 5.0 are not
    entries = [{"step": 10.0 * i, "loss": loss} for i, loss in enumerate(losses, 1)]
    left = start_of_training.step_that_left
    assert left(entries, 200) == 90
    assert left(entries[:8], 200) is None and left([], 200) is None


def test_a_run_says_and_logs_it(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At rate 0, and with every unit of fc7 dead, it guesses for ever; and the script that measures starts."""
    where = [f"data.path={prepared}", f"runs_dir={tmp_path}", "run=r", "optim.learning_rate=0", "log_every=1"]
    train(load("train", TrainConfig, [*SMALL, *where, "schedule.epochs=1", "model.fc7.bias=-1000"]))
    said = capsys.readouterr()
    assert "counts for no plateau yet\n" in said.out
    assert "warning: after epoch 1 hardly a unit of fc7 is alive: 99.9 % or more give 0" in said.err
    (row,) = read_metrics(tmp_path / "r" / "metrics.jsonl", "epoch")
    assert row["chance_loss"] == pytest.approx(math.log(10))
    start_of_training.main([str(tmp_path / "r")], tmp_path / "law.png")
    assert Image.open(tmp_path / "law.png").size == (720, 480)
    told = capsys.readouterr().out
    assert told.startswith(f"{tmp_path / 'r'}: still at ln(10) at step 4; paper, width 1, input 67, batch 16, rate 0, ")
