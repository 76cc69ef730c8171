"""python -m alexnet_repro.claims [runs_dir=runs]: the paper's claims, each with its command and how far it was tried.

What came of those that were run for this project stands in docs/claims.md.
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from alexnet_repro.config import ClaimsConfig, TrainConfig
from alexnet_repro.experiments import Experiment, experiments
from alexnet_repro.reporting.metrics_log import read_metrics
from alexnet_repro.reporting.progress import percent
from alexnet_repro.reporting.report import FACTS, read_facts, report_folder
from alexnet_repro.run_folder import MAY_CHANGE, RunFolder, flat
from data_prep.command import RequestError, load, main

_WIDTH, _INDENT = 110, " " * 9
_OWN = ("run", *(name for name in MAY_CHANGE if name != "data"))  # of each run, whatever the experiment


def claims(config: ClaimsConfig) -> None:
    runs_dir = Path(config.runs_dir)
    for experiment in experiments():
        section = "" if experiment.section == "none" else re.split("[, ]", experiment.section)[0]
        print(_wrapped(f"{section:<9}{experiment.name}: {experiment.claim}"))
        print(_wrapped(f"{_INDENT}expected: {experiment.expected}"))
        if experiment.seen:
            print(_wrapped(f"{_INDENT}seen by this project: {experiment.seen}"))
        print(f"{_INDENT}{experiment.command}")
        if experiment.then:
            print(_wrapped(f"{_INDENT}then: {experiment.then}"))
        print(_wrapped(f"{_INDENT}cost: {experiment.cost}"))
        for line in list(_runs(experiment, runs_dir)) or [f"not run in {runs_dir}: needs {experiment.needs}"]:
            print(f"{_INDENT}{line}")
        print(flush=True)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)


def _runs(experiment: Experiment, runs_dir: Path) -> Iterator[str]:
    for folder in experiment.runs_in(runs_dir):
        run = RunFolder(folder)
        result = " and ".join(_reported(folder)) or (_progress(run) if run.exists() else "")
        if result:
            yield f"run here: {folder.name}: {result}{_otherwise(experiment, run) if run.exists() else ''}"


def _reported(folder: Path) -> Iterator[str]:
    """The errors in the reports of a run or an ensemble, and where these are."""
    for split in ("val", "test"):
        report = report_folder(folder, split)
        if not (report / FACTS).is_file():
            continue
        facts = read_facts(report)
        for row in facts["results"][-1:]:
            views = f"{row['views']} view{'s' * (row['views'] > 1)}"
            yield (
                f"top-1 error {percent(row['top1_error'])}, top-5 {percent(row['top5_error'])} on "
                f"{facts['data']['name']} {split}, {views}, {report / 'report.html'}"
            )


def _progress(run: RunFolder) -> str:
    history = read_metrics(run.metrics, "epoch")
    if not history:
        return "begun, no epoch done yet"
    last = history[-1]
    return (
        f"{int(last['epoch'])} epochs, training error {percent(last['train_top1_error'])}, "
        f"val error {percent(last['val_top1_error'])} (centre patch); not evaluated yet"
    )


def _otherwise(experiment: Experiment, run: RunFolder) -> str:
    """In which settings the run is not what the experiment says: a result in small is not the claim's."""
    try:
        config = run.config()
    except RequestError:
        return "; begun by another version of this project"
    asked = load("train", TrainConfig, [f"experiment={experiment.name}", f"seed={config.seed}"])
    ours, theirs = flat(asdict(config)), flat(asdict(asked))
    keys = [key for key in sorted(ours.keys() | theirs.keys()) if not key.startswith(_OWN)]
    apart = [f"{key}={ours.get(key)}" for key in keys if ours.get(key) != theirs.get(key)]
    return f"; with {', '.join(apart)}" if apart else ""


if __name__ == "__main__":
    main("claims", ClaimsConfig, claims)
