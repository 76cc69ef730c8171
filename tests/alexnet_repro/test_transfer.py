"""Runs that begin with the weights of another, on tiny networks: a release without val and with other classes first."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, prepare_config, run_here
from PIL import Image

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.model import AlexNet, initialise
from alexnet_repro.paper.comparable import differences_from_paper
from alexnet_repro.report.results import comparison_with_paper
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.train import train
from data_prep.common.cli import load
from data_prep.common.errors import RequestError
from data_prep.prepare import prepare

TRAIN = "alexnet_repro.train"
SIX = [*SMALL, "model=six_conv", "model.conv6.kernels=16", "schedule=constant", "schedule.epochs=1"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of noise, as the Fall-2011 release lies there unpacked; train only."""
    folder, rng = tmp_path_factory.mktemp("fall2011"), np.random.default_rng(0)
    for label in range(4):
        (folder / f"n0000000{label}").mkdir()
        for i in range(8):
            pixels = rng.integers(60 * label, 60 * label + 70, (80, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"n0000000{label}" / f"n0000000{label}_{i}.png")
    return folder


@pytest.fixture(scope="module")
def pretrained(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/ with the run `before`: two columns, six convolutional layers, one epoch."""
    folder = tmp_path_factory.mktemp("pretrained")
    prepare(prepare_config(release, folder / "data", val_from_train=0.25))
    before = [f"data.path={folder / 'data'}", f"runs_dir={folder / 'runs'}", "run=before", "seed=7"]
    train(load("train", TrainConfig, [*SIX, *before, "optim.batch_size=8"]))
    return folder / "runs"


@pytest.fixture
def runs(pretrained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pretrained, tmp_path / "runs")


def config_for(prepared: Path, runs: Path, *overrides: str) -> TrainConfig:
    return load("train", TrainConfig, [*SIX, f"data.path={prepared}", f"runs_dir={runs}", "run=after", *overrides])


def test_all_but_fc8_is_taken_to_the_bit_and_the_source_may_go(
    prepared: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a rate of 0 nothing moves, so the run's checkpoint has what it began with."""
    arguments = [*SIX, f"data.path={prepared}", "run=after", "init_from=before", "seed=3"]
    done = run_here(TRAIN, *arguments, "optim.learning_rate=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    source, ours = (RunFolder(runs / name).checkpoint("last") for name in ("before", "after"))
    assert source.buffers["momentum_buffer"] and ours.buffers == {"momentum_buffer": {}}
    drawn = initialise(AlexNet(config_for(prepared, runs).model, classes=10), seed=3).state_dict()
    assert ours.weights.keys() == source.weights.keys()
    for name, tensor in ours.weights.items():
        assert torch.equal(tensor, (drawn if name.startswith("fc8") else source.weights)[name]), name
    assert len(ours.classes) == 10 and len(source.classes) == 4
    np.testing.assert_array_equal(ours.mean_image.numpy(), PreparedData(prepared).mean_image)

    lines = done.stdout.splitlines()
    said = "weights of run before, checkpoint last, after 1 epochs on data (4 classes; 24 train, 8 val images; "
    first = next(number for number, line in enumerate(lines) if line.startswith(said))
    table = [line.split(maxsplit=4) for line in lines[first + 1 : first + 10]]
    assert [row[0] for row in table] == ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7", "fc8"]
    assert {row[4] for row in table[:-1]} == {"from before"} and table[-1][4] == "new, drawn by seed 3"
    assert table[2][1] == "16x16x3x3" and table[5][1] == "16x16x3x3" and table[8][1] == "10x32"
    conv2 = torch.cat([source.weights[f"conv2.{column}.weight"] for column in "ab"])
    assert table[1][2:4] == ["std", f"{conv2.std():.5f}"]
    assert len({line.index("std") for line in lines[first + 1 : first + 10]}) == 1
    assert not any(line.startswith("warning") for line in lines[first:])

    assert ours.init_from is not None
    assert (ours.init_from["run"], ours.init_from["epoch"], ours.init_from["data"]) == ("before", 1, source.data)
    data, config = PreparedData(prepared), RunFolder(runs / "after").config()
    assert config.init_from == "before"
    assert (
        f"weights taken from: run before, six_conv trained on {source.data['description']} for 1 epochs "
        "(paper, CNN*: a run on the whole Fall-2011 release)" in differences_from_paper(config, ours, data, None)
    )

    monkeypatch.setattr(PreparedData, "whole_release", lambda _: "ILSVRC-2012")
    assert comparison_with_paper([config], [ours], data, "val")[0]["comparable"]  # with CNN* of Table 2
    assert not comparison_with_paper([config], [replace(ours, init_from=None)], data, "val")[0]["comparable"]

    shutil.rmtree(runs / "before")
    more = ["schedule.epochs=2", "optim.learning_rate=0.001", "allow_changes=[schedule.epochs,optim.learning_rate]"]
    again = run_here(TRAIN, *arguments, *more, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "continuing after 1 epochs" in again.stdout and "weights of run" not in again.stdout
    continued = RunFolder(runs / "after").checkpoint("last")
    assert continued.init_from == ours.init_from and continued.buffers["momentum_buffer"]
    for allowed in ("[]", "[init_from]"):
        with pytest.raises(RequestError, match=r"began with other weights \(init_from was before, now None\), which"):
            train(config_for(prepared, runs, "seed=3", *more[:2], f"allow_changes={allowed}"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["init_from=none"], r"init_from=none: \S*runs/none: no such run"),
        (["init_checkpoint=epoch-0009"], r"init_from=before: \S*epoch-0009\.pt: no such checkpoint"),
        (["init_from=after"], "init_from=after: must be another run than the one that begins"),
        (["init_from=null", "init_checkpoint=best"], r"init_checkpoint=best: must be given with init_from=RUN"),
        (
            ["model.conv1.kernels=16", "model.conv4.kernels=32"],
            r"before: has layers of another shape \(conv1 is 8x3x11x11, not 16x3x11x11, conv2 is 16x4x5x5, not "
            r"16x8x5x5, 2 more\); give the same model\.\* settings",
        ),
        (["model.conv6=null", "model.name=mine"], "before: has conv6, which this network lacks; give model=six_conv"),
        (
            ["init_layers=[conv1,fc8]"],
            r"init_layers=\['conv1', 'fc8'\]: must be one or more of conv1, .*, bottleneck, each",
        ),
        (["init_layers=[]"], r"init_layers=\[\]: must be one or more of"),
        (["init_from=null", "init_layers=[conv1]"], r"init_layers=\['conv1'\]: must be given with init_from=RUN"),
        (
            ["init_layers=[conv1,bottleneck]"],
            "init_layers: init_from=before lacks bottleneck; leave it out of init_layers",
        ),
        (["init_layers=[conv6]", "model.conv6=null"], "init_layers: this network lacks conv6; leave it out"),
        (
            ["init_layers=[conv1,conv2]", "model.conv1.kernels=16"],
            r"another shape \(conv1 is 8x3x11x11, not 16x3x11x11, conv2 is 16x4x5x5, not 16x8x5x5\)",
        ),
        (["model.columns=1"], r"before: has model\.columns=2, not 1; give the same model\.\* settings"),
        (["augment.mean=centre"], "inputs with augment.mean=at_patch, not centre; give augment.mean=at_patch"),
        (["augment.input_scale=0.5"], "inputs with augment.input_scale=1.0, not 0.5; give augment.input_scale=1.0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    settings: list[str], said: str, prepared: Path, runs: Path
) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        train(config_for(prepared, runs, "init_from=before", *settings))
    assert "\n" not in str(refused.value)
    assert [path.name for path in runs.iterdir()] == ["before"]


def test_the_layers_that_are_named_are_taken_and_no_others(
    prepared: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from stage to stage of CNN*: into a network with other layers behind them."""
    head = ["model.bottleneck={units:6,reads:both,then:[],weight_std:0.1,bias:0.5}", "model.fc8.split=true"]
    chosen = ["init_from=before", "init_layers=[conv1,conv2,conv6]", "model.fc6.units=16"]
    config = config_for(prepared, runs, *head, *chosen, "seed=3", "optim.learning_rate=0")
    train(config)
    source, ours = (RunFolder(runs / name).checkpoint("last") for name in ("before", "after"))
    drawn = initialise(AlexNet(config.model, classes=10), seed=3).state_dict()
    assert ours.weights.keys() == drawn.keys() and {"bottleneck.b.bias", "fc8.b.weight"} <= drawn.keys()
    for name, tensor in ours.weights.items():
        from_run = name.split(".")[0] in ("conv1", "conv2", "conv6")
        assert torch.equal(tensor, (source.weights if from_run else drawn)[name]), name
    said = capsys.readouterr().out
    lines = {
        line.split()[0]: line.rpartition("  ")[2]
        for line in said.splitlines()
        if line.startswith("  ") and "std" in line
    }
    new = dict.fromkeys(["conv3", "conv4", "conv5", "fc6", "fc7", "bottleneck", "fc8"], "new, drawn by seed 3")
    assert lines == new | dict.fromkeys(["conv1", "conv2", "conv6"], "from before")
    assert ours.init_from and ours.init_from["layers"] == ["conv1", "conv2", "conv6"]
    differ = differences_from_paper(config, ours, PreparedData(prepared), None)
    assert any("for 1 epochs, conv1, conv2, conv6 alone (paper, CNN*" in line for line in differ)


def edited(runs: Path, **changes: Any) -> None:
    folder = RunFolder(runs / "before")
    checkpoint: Checkpoint = replace(folder.checkpoint("last"), **changes)
    checkpoint.save(folder.checkpoint_path("last"))


def test_sources_that_lack_a_layer_or_have_other_channels(prepared: Path, runs: Path) -> None:
    source = RunFolder(runs / "before").checkpoint("last")
    config = config_for(prepared, runs, "init_from=before")
    edited(runs, mean_image=source.mean_image[..., :1])
    with pytest.raises(RequestError, match=r"was trained on images of 1 channels, and those of \S*small have 3"):
        train(config)
    without = {name: tensor for name, tensor in source.weights.items() if not name.startswith("conv6")}
    edited(runs, mean_image=source.mean_image, weights=without)
    with pytest.raises(RequestError, match="init_from=before: lacks conv6, which this network has"):
        train(config)
    assert [path.name for path in runs.iterdir()] == ["before"]


def test_the_same_shapes_in_another_network_are_pointed_out(
    prepared: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a path, and with settings that leave the shapes as they are."""
    other = ["model.activation=tanh", "model.conv3.weight_std=0.5", f"init_from={runs / 'before'}"]
    train(config_for(prepared, runs, *other, "init_checkpoint=best"))
    said = capsys.readouterr().out
    assert f"warning: model.activation=tanh, and {runs / 'before'} had relu\n" in said
    assert said.count("warning: model.") == 1


def test_a_wrong_source_gets_one_line_and_exit_code_2(prepared: Path, runs: Path, tmp_path: Path) -> None:
    arguments = [*SIX, f"data.path={prepared}", "init_from=before", "run=after", "model.columns=1"]
    result = run_here(TRAIN, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"python -m {TRAIN}: error: init_from=before: has model.columns=2, not 1; give")
    assert result.stderr.count("\n") == 1
    assert [path.name for path in runs.iterdir()] == ["before"]


def test_data_without_val_are_refused(release: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"Fall-2011 release, which has no val; val_from_train=0\.1 would take"):
        prepare(prepare_config(release, tmp_path / "data"))
    prepare(prepare_config(release, tmp_path / "data", val_from_train=0.25))
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    del manifest["splits"]["val"]  # as before preparation refused it
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RequestError, match=r"data: has no split 'val'; it has train; prepare .* val_from_train=0\.01"):
        train(config_for(tmp_path / "data", tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_run_from_before_there_were_these_settings_goes_on(pretrained: Path, runs: Path) -> None:
    folder = RunFolder(runs / "before")
    older = {key: value for key, value in vars(folder.checkpoint("last")).items() if key != "init_from"}
    torch.save(older, folder.checkpoint_path("last"))
    lines = folder.configuration_text().splitlines(keepends=True)
    added = ("init_from:", "init_checkpoint:", "init_layers:", "  dropout_rescaled:", "  bottleneck:", "    across:",
             "    split:")  # fmt: skip
    assert all(any(line.startswith(key) for line in lines) for key in added)
    (folder.path / "config.yaml").write_text("".join(line for line in lines if not line.startswith(added)))
    before = [f"data.path={pretrained.parent / 'data'}", f"runs_dir={runs}", "run=before", "seed=7"]
    train(load("train", TrainConfig, [*SIX, *before, "optim.batch_size=8"]))
    assert folder.config().init_from is None
