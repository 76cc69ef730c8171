"""python -m alexnet_repro.claims [runs_dir=runs]: the paper's claims, each with its command and how far it was tried.

What came of those that were run for this project stands in docs/claims.md.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from alexnet_repro.config import ClaimsConfig
from alexnet_repro.experiments import Experiment, experiments
from alexnet_repro.reporting.metrics_log import read_metrics
from alexnet_repro.reporting.progress import percent
from alexnet_repro.reporting.report import FACTS, read_facts, report_folder
from alexnet_repro.run_folder import RunFolder
from data_prep.command import RequestError, main

_WIDTH, _INDENT = 110, " " * 9


def claims(config: ClaimsConfig) -> None:
    runs_dir = Path(config.runs_dir)
    for experiment in experiments():
        section = "" if experiment.section == "none" else re.split("[, ]", experiment.section)[0]
        print(_wrapped(f"{section:<9}{experiment.name}: {experiment.claim}"))
        print(_wrapped(f"{_INDENT}expected: {experiment.expected}"))
        for line in _status(experiment, runs_dir):
            print(f"{_INDENT}{line}")
        print(flush=True)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)


def _status(experiment: Experiment, runs_dir: Path) -> Iterator[str]:
    folders = experiment.runs_in(runs_dir)
    for folder in folders:
        yield f"run here: {_result(folder)}"
    if not folders:
        yield f"not run in {runs_dir}; needs {experiment.needs}"
        yield experiment.command


def _result(folder: Path) -> str:
    """The errors of its reports and where they are, or how far the run has come."""
    told = [
        f"{row['views']} view{'s' * (row['views'] > 1)} of {split}: top-1 error {percent(row['top1_error'])}, "
        f"top-5 {percent(row['top5_error'])}, {report_folder(folder, split) / 'report.html'}"
        for split in ("val", "test")
        if (report_folder(folder, split) / FACTS).is_file()
        for row in read_facts(report_folder(folder, split))["results"][-1:]
    ]
    if told:
        return f"{folder.name}: " + "; ".join(told)
    run = RunFolder(folder)
    history = read_metrics(run.metrics, "epoch")
    if not history:
        return f"{folder.name}: begun, no epoch done yet"
    try:
        of = f" of at most {run.config().schedule.epochs}"
    except RequestError:  # begun by another version of this project
        of = ""
    last = history[-1]
    return (
        f"{folder.name}: {int(last['epoch'])}{of} epochs, training error {percent(last['train_top1_error'])}, "
        f"val error {percent(last['val_top1_error'])} (centre patch); not evaluated yet"
    )


if __name__ == "__main__":
    main("claims", ClaimsConfig, claims)
