"""Runs as evaluate left them, for the commands that set several beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_repro.config import TrainConfig
from alexnet_repro.evaluation.predictions import FILE, KeptPredictions
from alexnet_repro.reporting.report import report_folder
from alexnet_repro.run_folder import RunFolder
from data_prep.command import RequestError


@dataclass
class EvaluatedRun:
    name: str
    kept: KeptPredictions
    config: TrainConfig | None  # None for an ensemble


class NotEvaluated(RequestError):
    """The run has no predictions of this kind; evaluate would make them."""


def evaluate_command(names: Sequence[str], runs_dir: str, split: str, views: int) -> str:
    several = f"--multirun run={','.join(names)}" if len(names) > 1 else f"run={names[0]}"
    where = f" runs_dir={runs_dir}" if runs_dir != "runs" else ""
    return f"python -m alexnet_repro.evaluate {several}{where} split={split} views={views}"


def load_evaluated(runs_dir: str, name: str, split: str, views: int) -> EvaluatedRun:
    """RequestError if there is no such run, or no errors of it on this split with so many views."""
    folder = Path(runs_dir) / name
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such run; check runs=[...] and runs_dir")
    again = evaluate_command([name], runs_dir, split, views)
    path = report_folder(folder, split) / FILE
    if not path.is_file():
        raise NotEvaluated(f"{path}: no predictions; make them with {again}")
    kept = KeptPredictions.load(path)
    if views not in kept.views:
        raise NotEvaluated(f"{path}: has no predictions of views={views}; make them with {again}")
    if not kept.labelled:
        raise RequestError(f"{path}: its pictures have no labels, so there are no errors to compare")
    run = RunFolder(folder)
    return EvaluatedRun(name, kept, run.config() if run.exists() else None)


def refuse_other_pictures(runs: Sequence[EvaluatedRun]) -> None:
    """RequestError unless all were evaluated on the same pictures."""
    first, *others = runs
    for other in others:
        a, b = first.kept, other.kept
        same = a.about["data"]["plan"] == b.about["data"]["plan"] and np.array_equal(a.names, b.names)
        if not same or a.classes != b.classes or not np.array_equal(a.labels, b.labels):
            raise RequestError(
                f"runs: {first.name} was evaluated on {a.about['data']['description']}, {other.name} on "
                f"{b.about['data']['description']}: not the same pictures; evaluate both on one data set, "
                "evaluate data_path=..."
            )
