"""`runtime` changes speed and rounding only."""

from pathlib import Path

import pytest
import torch
from conftest import SMALL

from alexnet_repro.config import TrainConfig
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runtime import fast_form
from alexnet_repro.train import train
from data_prep.common.cli import load
from data_prep.common.errors import RequestError


def config_for(prepared: Path, runs: Path, *overrides: str) -> TrainConfig:
    fixed = [f"data.path={prepared}", f"runs_dir={runs}", "run=r", "schedule=constant", "schedule.epochs=4"]
    layers = ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    # So narrow a network learns nothing in a few steps from the paper's N(0, 0.01) and biases of 1.
    learns = [f"model.{layer}.{key}" for layer in layers for key in ("weight_std=0.15", "bias=0")]
    learns += ["model.dropout=0", "optim.learning_rate=0.002"]
    return load("train", TrainConfig, [*SMALL, *fixed, *learns, *overrides])


def losses(run: Path) -> list[float]:
    history = RunFolder(run).checkpoint("last").history
    return [row[key] for row in history for key in ("train_loss", "val_loss")]


@pytest.fixture(scope="module")
def plain(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    runs = tmp_path_factory.mktemp("plain")
    train(config_for(prepared, runs))
    found = losses(runs / "r")
    assert found[0] - found[-2] > 0.03  # it learns something, or nothing here would tell
    return found


@pytest.mark.parametrize(
    ("setting", "band"),
    [
        ("runtime.channels_last=false", 1e-4),  # float32 in another order
        ("runtime.keep_freed_memory=false", 0.0),
        ("runtime.precision=bf16", 2e-2),  # 8 bits of mantissa in the maps; the weights stay float32
    ],
)
def test_the_loss_stays_within_the_band(
    setting: str, band: float, plain: list[float], prepared: Path, tmp_path: Path
) -> None:
    train(config_for(prepared, tmp_path, setting))
    for ours, theirs in zip(losses(tmp_path / "r"), plain, strict=True):
        assert abs(ours - theirs) <= band


def test_precision_is_really_lowered(plain: list[float], prepared: Path, tmp_path: Path) -> None:
    train(config_for(prepared, tmp_path, "runtime.precision=bf16", "schedule.epochs=1"))
    assert abs(losses(tmp_path / "r")[0] - plain[0]) > 1e-6


def test_the_fast_form_is_refused_where_it_does_not_apply(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="fast=true: needs every column on a GPU, and one is on cpu"):
        train(config_for(prepared, tmp_path, "runtime.fast=true"))
    assert not (tmp_path / "r").exists()


def test_a_run_from_before_the_fast_form_goes_on(prepared: Path, tmp_path: Path) -> None:
    """Its config.yaml has settings that are gone."""
    train(config_for(prepared, tmp_path, "schedule.epochs=1"))
    path = tmp_path / "r" / "config.yaml"
    path.write_text(path.read_text().replace("  fast: null\n", "  compile: false\n  cuda_graphs: false\n"))
    assert RunFolder(tmp_path / "r").config().runtime.fast is None
    train(config_for(prepared, tmp_path, "schedule.epochs=2", "allow_changes=[schedule.epochs]"))
    assert len(RunFolder(tmp_path / "r").checkpoint("last").history) == 2


def test_where_the_fast_form_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", "3.3")
    monkeypatch.setenv("CC", "cc")  # a compiler is looked for, and not called
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if device.index < 2 else (7, 5))
    gpus = [torch.device("cuda", index) for index in range(3)]
    config = load("train", TrainConfig, ["data.path=none"])

    def applies(columns: list[torch.device], *overrides: str, processes: int = 1) -> bool:
        changed = load("train", TrainConfig, ["data.path=none", *overrides])
        return fast_form(changed.runtime, changed.model, columns, processes)

    assert applies([gpus[0], gpus[0]])
    assert applies([gpus[0], gpus[1]], "runtime.fast=true")
    assert not applies([gpus[0], gpus[1]])  # nobody has run it on two yet
    assert fast_form(config.runtime, config.model, [gpus[1]])
    assert not applies([gpus[0], gpus[0]], "runtime.fast=false")
    assert not applies([gpus[0], torch.device("cpu")])
    assert not applies([gpus[0], gpus[2]])  # too old
    assert not applies([gpus[0], gpus[0], gpus[1], gpus[1]])
    assert not applies([gpus[0], gpus[0]], processes=2)
    assert not applies([gpus[0], gpus[0]], "model.conv4.then=[activation,dropout]")
    assert not applies([gpus[0], gpus[0]], "model.norm.across=layer")
    assert applies([gpus[0], gpus[0]], "model.norm.across=layer", "model=no_lrn")
    with pytest.raises(RequestError, match="normalises within each column, and model"):
        applies([gpus[0], gpus[0]], "model.norm.across=layer", "runtime.fast=true")
