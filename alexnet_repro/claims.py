"""python -m alexnet_repro.claims [runs_dir=runs]: the paper's claims, each with its command and how far it was tried.

What came of those that were run for this project stands in docs/claims.md.
"""

from alexnet_repro.config import ClaimsConfig, TrainConfig
from data_prep.common.cli import command_line, conf_folder, load, main

if __name__ == "__main__":
    jobs = command_line("claims", ClaimsConfig)  # first, as the imports below take seconds

import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from alexnet_repro.report.report import FACTS, read_facts
from alexnet_repro.runs.folder import MAY_CHANGE, RunFolder, report_folder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.runs.settings import flat
from data_prep.common.errors import RequestError
from data_prep.common.text import percent

_KEYS = ("claim", "section", "command", "expected", "cost", "needs")
_FIRST = "# @package _global_"
_SEED = "${seed}"

_WIDTH, _INDENT = 110, " " * 9
_OWN = ("run", *(name for name in MAY_CHANGE if name != "data"))  # of each run, whatever the experiment


@dataclass(frozen=True)
class Experiment:
    """One claim of the paper, or one use of the machinery, that a command tries."""

    name: str
    claim: str
    section: str  # of the paper, or "none"
    command: str  # a whole command line
    expected: str
    cost: str
    needs: str  # the data, and what else
    run: str  # the run's name, with ${seed} where it has one
    then: str = ""  # command lines that follow
    seen: str = ""  # what came of it for this project, and where that stands
    members: str = "1"  # of the ensemble that it is about

    def runs_in(self, runs_dir: Path) -> list[Path]:
        """The folders of its runs by seed, or of its ensembles."""
        one = re.escape(self.run).replace(re.escape(_SEED), "[0-9]+")
        pattern = re.compile(r"\+".join([one] * int(self.members)))
        found = [path for path in runs_dir.iterdir() if pattern.fullmatch(path.name)] if runs_dir.is_dir() else []
        return sorted(found, key=lambda path: [(len(part), part) for part in re.split("[+-]", path.name)])


def experiments() -> list[Experiment]:
    """All of them, in the order of the paper's sections."""
    found = [_read(path) for path in sorted((conf_folder() / "experiment").glob("*.yaml"))]
    return sorted(found, key=lambda experiment: (experiment.section == "none", experiment.section))


def _read(path: Path) -> Experiment:
    """ValueError if the head lacks a key: a file of this project that is not as the others are."""
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
    if missing := [key for key in _KEYS if not fields.get(key)]:
        raise ValueError(f"{path}: its head lacks {', '.join(missing)}")
    if not text.startswith(_FIRST) or run is None:
        raise ValueError(f"{path}: must begin with {_FIRST!r} and set run")
    known = {key: fields[key] for key in (*_KEYS, "then", "seen", "members") if key in fields}
    return Experiment(name=path.stem, run=run[1], **known)


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
    main(jobs, claims)
