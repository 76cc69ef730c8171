"""python -m alexnet_repro.claims [runs_dir=runs]: the paper's claims, each with its command and the runs of it here.
records=true prints docs/records.md instead.

Claims, commands and costs are read from the heads of conf/experiment/*.yaml: lines "# Key: text", continued by lines
indented by three spaces. The results of this project stand in docs/claims.md.
"""

from alexnet_repro.config import ClaimsConfig, TrainConfig
from data_prep.common.cli import command_line, conf_folder, load, main

if __name__ == "__main__":
    jobs = command_line("claims", ClaimsConfig)  # first, as the imports below take seconds

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet_repro.paper.records import as_markdown
from alexnet_repro.report.report import REPORT, read_report
from alexnet_repro.runs.folder import RunFolder, report_folder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.runs.settings import OF_AN_EXPERIMENT, differences
from data_prep.common.errors import RequestError
from data_prep.common.text import percent

_REQUIRED = ("claim", "section", "command", "expected", "cost", "needs")
_FIRST_LINE = "# @package _global_"
_SEED = "${seed}"
_WIDTH, _INDENT = 110, " " * 9  # of the printed text, in characters


@dataclass(frozen=True)
class Experiment:
    """A file of conf/experiment/: a claim of the paper, or a use of this project, and the command that tests it."""

    name: str
    claim: str
    section: str  # of the paper, or "none"
    command: str  # a whole command line
    expected: str
    cost: str
    needs: str  # the data, and what else
    run: str  # the run's name, with ${seed} where it has one
    then: str = ""  # command lines that follow
    seen: str = ""  # this project's result, and where it is described
    members: str = "1"  # runs in the ensemble that the claim is about

    def runs_in(self, runs_dir: Path) -> list[Path]:
        """The folders of its runs in the order of their seeds, or of its ensembles."""
        one = re.escape(self.run).replace(re.escape(_SEED), "[0-9]+")
        pattern = re.compile(r"\+".join([one] * int(self.members)))
        found = [path for path in runs_dir.iterdir() if pattern.fullmatch(path.name)] if runs_dir.is_dir() else []
        # By number where the parts are numbers: paper-10 after paper-9.
        return sorted(found, key=lambda path: [(len(part), part) for part in re.split("[+-]", path.name)])


def experiments() -> list[Experiment]:
    """All files of conf/experiment/, in the order of the paper's sections."""
    found = [_read(path) for path in sorted((conf_folder() / "experiment").glob("*.yaml"))]
    return sorted(found, key=lambda experiment: (experiment.section == "none", experiment.section))


def _read(path: Path) -> Experiment:
    """ValueError if the head lacks a key, which is a mistake in a file of this project."""
    text = path.read_text(encoding="utf-8")
    head = text.partition("\ndefaults:")[0]
    fields: dict[str, str] = {}
    key = ""
    for line in head.splitlines():
        if match := re.fullmatch(r"# ([A-Z][a-z ]*): (.*)", line):
            key = match[1].lower()
            fields[key] = match[2]
        elif line.startswith("#   ") and key:
            fields[key] += " " + line[1:].strip()
    run = re.search(r"^run: (.+)$", text, re.MULTILINE)
    if missing := [key for key in _REQUIRED if not fields.get(key)]:
        raise ValueError(f"{path}: its head lacks {', '.join(missing)}")
    if not text.startswith(_FIRST_LINE) or run is None:
        raise ValueError(f"{path}: must begin with {_FIRST_LINE!r} and set run")
    known = {key: fields[key] for key in fields if key in Experiment.__annotations__}  # heads have other notes too
    return Experiment(name=path.stem, run=run[1], **known)


def claims(config: ClaimsConfig) -> None:
    if config.records:
        print(as_markdown(), end="")
        return
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
    """A line for each run or ensemble of the experiment that exists: its result so far, and other settings."""
    for folder in experiment.runs_in(runs_dir):
        run = RunFolder(folder)
        result = " and ".join(_reported(folder)) or (_progress(run) if run.exists() else "")
        if result:
            yield f"run here: {folder.name}: {result}{_other_settings(experiment, run) if run.exists() else ''}"


def _reported(folder: Path) -> Iterator[str]:
    """The errors in the reports of a run or an ensemble, and where the reports are."""
    for split in ("val", "test"):
        report = report_folder(folder, split)
        if not (report / REPORT).is_file():
            continue
        facts = read_report(report)
        for row in facts["results"][-1:]:  # of the most views; none without labels
            views = f"{row['views']} view{'s' * (row['views'] > 1)}"
            yield (
                f"top-1 error {percent(row['top1_error'])}, top-5 {percent(row['top5_error'])} on "
                f"{facts['data']['name']} {split}, {views}, {report / 'report.html'}"
            )


def _progress(run: RunFolder) -> str:
    """The errors after the last epoch of a run that was not evaluated."""
    history = read_metrics(run.metrics, "epoch")
    if not history:
        return "begun, no epoch done yet"
    last = history[-1]
    return (
        f"{int(last['epoch'])} epochs, training error {percent(last['train_top1_error'])}, "
        f"val error {percent(last['val_top1_error'])} (centre patch); not evaluated yet"
    )


def _other_settings(experiment: Experiment, run: RunFolder) -> str:
    """The settings that the run has otherwise than the experiment: the result of a smaller run is not the claim's."""
    try:
        config = run.config()
    except RequestError:
        return "; begun by another version of this project"
    asked = load("train", TrainConfig, [f"experiment={experiment.name}", f"seed={config.seed}"])
    other = [f"{key}={ours}" for key, (ours, _) in differences(config, asked, only=OF_AN_EXPERIMENT).items()]
    return f"; with {', '.join(other)}" if other else ""


if __name__ == "__main__":
    main(jobs, claims)
