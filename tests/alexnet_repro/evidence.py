"""Two small trained runs, and what evaluate makes of them."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from conftest import SMALL
from networks import SENSITIVE_START

from alexnet_repro.config import EvaluateConfig, TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluate import evaluate
from alexnet_repro.evaluation.predictions import KeptPredictions
from alexnet_repro.model import AlexNet
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.train import train
from data_prep.common.cli import load

EPOCH_ROW = {  # of a run's history
    "epoch": 1,
    "step": 4,
    "learning_rate": 0.01,
    "train_loss": 2.25,
    "train_top1_error": 0.75,
    "train_top5_error": 0.375,
    "val_loss": 2.5,
    "val_top1_error": 0.625,
    "val_top5_error": 0.25,
    "images_per_second": 50.0,
    "data_wait": 0.5,
    "seconds": 64.0,
}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b *c* _d_ `e` [f](http://g.example)",
    "$\\frac{1}{0}$, maths",
    "\x1b[31mred\x07",
    "line\nbreak",
    "\u202egnihtemos",
    "漢字 العربية",
]


def make_world(prepared: Path, folder: Path) -> Path:
    """A data set whose classes have hostile names, and two small runs on it."""
    shutil.copytree(prepared, folder / "data")
    manifest = json.loads((folder / "data" / "manifest.json").read_text())
    for info, words in zip(manifest["classes"], HOSTILE, strict=False):
        info["words"] = words
    (folder / "data" / "manifest.json").write_text(json.dumps(manifest))
    apart = [*SENSITIVE_START, "optim.learning_rate=1e-7"]  # a rate that leaves the weights as they are
    for run, extra in (("one", apart), ("two", [*apart, "seed=1", "model.norm.k=1"])):
        where = [f"data.path={folder / 'data'}", f"runs_dir={folder / 'runs'}", f"run={run}", "schedule.epochs=1"]
        train(load("train", TrainConfig, [*where, *SMALL, *extra]))
    return folder


def write_run(config: TrainConfig, model: AlexNet) -> None:
    """The run that `config` names, on its data set, with the weights of `model` and nothing trained."""
    data, run = PreparedData(config.data.path), RunFolder(config.folder)
    with run.locked():
        run.write_config(config)
    Checkpoint(
        epoch=0, step=0, within={}, weights=dict(model.state_dict()), buffers={}, buffer_rates={}, history=[],
        classes=data.classes, words=data.class_names, data=data.identity(),
        mean_image=torch.from_numpy(data.mean_image), inputs={"mean": config.augment.mean, "scale": 1.0},
        model=asdict(config.model),
    ).save(run.checkpoint_path("last"))  # fmt: skip


def evaluate_in(world: Path, *overrides: str, run: str = "run=one") -> None:
    where = [f"runs_dir={world / 'runs'}", "runtime.workers=0", "devices=[cpu]"]
    evaluate(load("evaluate", EvaluateConfig, [run, *where, *overrides]))


def kept_of(world: Path, run: str = "one") -> KeptPredictions:
    return KeptPredictions.load(world / "runs" / run / "report" / "predictions.npz")


def ensure_evaluated(world: Path, *runs: str) -> None:
    """With the usual ten views, unless an earlier test has left them."""
    for run in runs:
        path = world / "runs" / run / "report" / "predictions.npz"
        if not path.is_file() or 10 not in KeptPredictions.load(path).views:
            evaluate_in(world, run=f"run={run}")


def new_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder
