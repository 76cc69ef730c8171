"""`runtime` changes speed and rounding only."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import SMALL

from alexnet_repro.config import TrainConfig
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.train import train
from data_prep.command import RequestError, load


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


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_like_a_plain_one(prepared: Path, tmp_path: Path) -> None:
    """In batches of one size, for each size takes a compilation. Its ReLUs are still watched."""
    even = ["optim.batch_size=30", "schedule.epochs=2"]
    train(config_for(prepared, tmp_path / "plain", *even))
    train(config_for(prepared, tmp_path / "compiled", *even, "runtime.compile=true"))
    plain, compiled = (losses(tmp_path / name / "r") for name in ("plain", "compiled"))
    assert max(abs(ours - theirs) for ours, theirs in zip(compiled, plain, strict=True)) < 1e-4
    rows = [json.loads(line) for line in (tmp_path / "compiled" / "r" / "metrics.jsonl").read_text().splitlines()]
    assert all("dead_relu/fc7.b" in row for row in rows if row["kind"] == "epoch")


def test_precision_is_really_lowered(plain: list[float], prepared: Path, tmp_path: Path) -> None:
    train(config_for(prepared, tmp_path, "runtime.precision=bf16", "schedule.epochs=1"))
    assert abs(losses(tmp_path / "r")[0] - plain[0]) > 1e-6


def test_cuda_graphs_are_refused_where_they_do_not_apply(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="needs all columns on one GPU, and they are on cpu, cpu"):
        train(config_for(prepared, tmp_path, "runtime.cuda_graphs=true"))
    assert not (tmp_path / "r").exists()
