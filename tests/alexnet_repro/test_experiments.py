"""Every file of conf/experiment: what its head says, and the very command that it gives."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import prepare_config

from alexnet_repro.claims import Experiment, claims, experiments
from alexnet_repro.config import ClaimsConfig, CompareConfig, EvaluateConfig, Figure1Config, TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation.comparison import epochs_until
from alexnet_repro.figures import _interval, figure1
from alexnet_repro.model import AlexNet, choose_devices
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.train import train
from data_prep.common.cli import load
from data_prep.common.errors import RequestError
from data_prep.prepare import prepare
from data_prep.sample import write_sample

_TRAIN = "python -m alexnet_repro.train "


def overrides_of(experiment: Experiment) -> list[str]:
    """The command's own; of a sweep its first run."""
    words = [word for word in shlex.split(experiment.command.removeprefix(_TRAIN)) if word != "--multirun"]
    return [re.sub(r"=([^\[{,]+),.*", r"=\1", word) for word in words]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    """Twenty training pictures in ten classes, prepared by side and channels as the experiments want them."""
    folder = tmp_path_factory.mktemp("pictures")
    write_sample(folder / "archives", train_per_class=2, val_per_class=1)
    made = {}
    for side in (256, 32):
        made[side, 3] = folder / str(side)
        prepare(prepare_config(folder / "archives", made[side, 3], image_size=side))
    rng = np.random.default_rng(0)
    idx = folder / "fashion"
    idx.mkdir()
    for split, count in (("train", 25), ("t10k", 5)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (idx / f"{split}-{name}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())
    made[227, 1] = folder / "grey"
    prepare(prepare_config(idx, made[227, 1], image_size=227, val_from_train=0.2))
    return made


DATA = {"cifar10": (32, 3), "fashion_mnist": (227, 1)}  # by the end of data.path; else 256 in colour


@pytest.fixture(scope="module")
def trained() -> set[str]:
    """How the experiments that earlier tests of this file took for two steps are trained."""
    return set()


@pytest.mark.parametrize("experiment", experiments(), ids=lambda experiment: experiment.name)
def test_the_command_of_every_experiment_trains(
    experiment: Experiment, pictures: dict[tuple[int, int], Path], trained: set[str], tmp_path: Path
) -> None:
    """Its network is built at full size and goes forward and backward, in shapes alone. Two steps are taken at an
    eighth of the width, by the first of those that are trained alike and differ in the network or the data only.
    """
    assert experiment.command.startswith(_TRAIN)
    overrides = overrides_of(experiment)
    assert f"experiment={experiment.name}" in overrides
    config = load("train", TrainConfig, overrides)
    assert re.fullmatch(re.escape(experiment.run).replace(r"\$\{seed\}", "0"), config.run)
    side, channels = DATA.get(Path(config.data.path).name, (256, 3))
    data = PreparedData(pictures[side, channels])
    assert (data.image_size, data.channels) == (side, channels)
    choose_devices(config.model.columns, config.gpus, config.devices)
    with torch.device("meta"):
        network = AlexNet(config.model, len(data.classes), channels)
        logits = network(torch.empty(2, channels, config.model.input_size, config.model.input_size))
    assert logits.shape == (2, len(data.classes))
    logits.sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    alike = repr((config.augment, config.optim, config.schedule, config.init_from))
    if alike in trained:
        return
    trained.add(alike)
    here = [f"data.path={data.folder}", f"runs_dir={tmp_path}", "devices=[cpu]", "runtime.workers=0"]
    here += ["model.width=0.125", "optim.batch_size=10", "schedule.epochs=1"]
    sources: list[str] = []
    while config.init_from:  # the stages before, CNN*'s
        sources.insert(0, config.init_from.removesuffix("-0"))
        config = load("train", TrainConfig, [f"experiment={sources[0]}"])
    for source in sources:
        train(load("train", TrainConfig, [f"experiment={source}", *here]))
    small = load("train", TrainConfig, [*overrides, *here])
    train(small)
    checkpoint = RunFolder(small.folder).checkpoint("last")
    assert (checkpoint.step, checkpoint.epoch) == (2, 1)


def test_what_follows_an_experiment_are_commands_about_its_runs() -> None:
    schemas = {"evaluate": EvaluateConfig, "compare": CompareConfig, "figure1": Figure1Config}
    runs = [re.escape(experiment.run).replace(r"\$\{seed\}", "[0-9]+") for experiment in experiments()]
    followed = [experiment for experiment in experiments() if experiment.then]
    assert len(followed) > 20
    for experiment in followed:
        commands = re.findall(r"python -m alexnet_repro\.(\w+)((?: '[^']*'| --\w+| [^ ]*=[^ ]*)*)", experiment.then)
        assert commands, experiment.name
        for name, words in commands:
            overrides = [word for word in shlex.split(words.rstrip(",")) if word != "--multirun"]
            load(name, schemas[name], [re.sub(r"=([^\[{,]+),.*", r"=\1", word) for word in overrides])
            listed = re.findall(r"runs?=\[?([^\] ]+)", " ".join(overrides))
            for run in ",".join(listed).split(",") if listed else ():
                assert any(re.fullmatch(pattern, run) for pattern in runs), f"{experiment.name}: {run}"


def test_figure_1_counts_epochs_on_a_straight_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    errors = [0.6, 0.4, 0.3, 0.2]
    assert epochs_until(0.25, errors) == pytest.approx(3.5)
    assert epochs_until(0.3, errors) == pytest.approx(3.0)
    assert epochs_until(0.7, errors) == 1.0
    assert epochs_until(0.1, errors) is None
    assert _interval([6.0, 7.0]) == "; 95 % t interval of their mean 0.15 to 12.85"  # 6.5 -+ 12.706 * 0.5
    assert _interval([6.0, 6.0]) == "; 95 % t interval of their mean 6.00 to 6.00" and _interval([6.0]) == ""
    for kind, seed, shown in (("relu", 0, [0.5, 0.2]), ("relu", 1, [0.4, 0.1]), ("tanh", 0, [0.9, 0.5, 0.3, 0.2])):
        folder = tmp_path / f"cifar10_{kind}-{seed}"
        folder.mkdir()
        rows = ({"kind": "epoch", "epoch": i, "step": i, "train_top1_error": e} for i, e in enumerate(shown, 1))
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    figure1(load("figure1", Figure1Config, [f"runs_dir={tmp_path}"]))
    said = capsys.readouterr().out
    # 1 + 0.25 / 0.3 and 1 + 0.15 / 0.3 epochs; 3 + 0.05 / 0.1
    assert "mean: relu 1.7, tanh 3.5 epochs; ratio 2.1 (by seed: 1.9)" in said
    assert (tmp_path / "figure1.png").is_file()
    folder = tmp_path / "cifar10_tanh-1"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"kind": "epoch", "epoch": 1, "step": 1, "train_top1_error": 0.9}')
    figure1(load("figure1", Figure1Config, [f"runs_dir={tmp_path}"]))
    said = capsys.readouterr().out
    assert "no ratio before all are there: tanh, seed 1" in said and "mean" not in said
    with pytest.raises(RequestError, match="no run cifar10_relu-SEED with an epoch done"):
        figure1(load("figure1", Figure1Config, [f"runs_dir={tmp_path / 'none'}"]))


def test_claims_tell_how_far_each_was_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run in small is told as such; one network is no ensemble, and two are not the five of Table 2."""
    for name in ("no_lrn-3", "paper-0"):
        config = load("train", TrainConfig, [f"experiment={name[:-2]}", f"seed={name[-1]}", f"runs_dir={tmp_path}",
                                             "model.width=0.25"])  # fmt: skip
        folder = RunFolder(config.folder)
        folder.checkpoints.mkdir(parents=True)
        folder.write_config(config)
    folder.metrics.with_name("metrics.jsonl").write_text("")
    (tmp_path / "no_lrn-3" / "metrics.jsonl").write_text(
        '{"kind": "epoch", "epoch": 2, "step": 9, "train_top1_error": 0.5, "val_top1_error": 0.625}\n'
    )
    five = "+".join(f"paper-{seed}" for seed in range(5))
    facts = {"data": {"name": "mine"}, "results": [{"views": 10, "top1_error": 0.25, "top5_error": 0.125}]}
    for name in (five, "paper-0+paper-1"):
        (tmp_path / name / "report").mkdir(parents=True)
        (tmp_path / name / "report" / "report.json").write_text(json.dumps(facts))
    claims(load("claims", ClaimsConfig, [f"runs_dir={tmp_path}"]))
    said = capsys.readouterr().out
    told = {text.split(":")[0].split()[-1]: text for text in said.split("\n\n") if text}
    assert list(told) == [experiment.name for experiment in experiments()]
    small = "training error 50.0 %, val error 62.5 % (centre patch); not evaluated yet; with model.width=0.25\n"
    assert f"run here: no_lrn-3: 2 epochs, {small}" in told["no_lrn"] + "\n"
    assert (
        "run here: paper-0: begun, no epoch done yet" in told["paper"] and "+" not in told["paper"].split("run here")[1]
    )
    assert told["ensemble"].count("run here") == 1
    assert f"run here: {five}: top-1 error 25.0 %, top-5 12.5 % on mine val, 10 views" in told["ensemble"]
    assert "needs ImageNet; two GPUs for the claim about time" in told["one_column"]
    assert all(("seen by this project" in told[e.name]) == bool(e.seen) for e in experiments())
    sections = [experiment.section for experiment in experiments() if experiment.section != "none"]
    assert all(before <= after for before, after in pairwise(sections))


def test_the_table_of_claims_has_every_experiment_and_what_was_seen() -> None:
    root = Path(__file__).parents[2]
    table = (root / "docs" / "claims.md").read_text()
    assert all((root / path).is_file() for e in experiments() for path in re.findall(r"docs/\S+\.\w+", e.seen))
    assert [e.name for e in experiments() if f"`{e.name}`" not in table] == []
    assert "@" not in table
