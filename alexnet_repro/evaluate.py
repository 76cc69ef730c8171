"""python -m alexnet_repro.evaluate run=NAME [split=val] [views=10|9|1]: errors, predictions and the report.

With runs=[a,b,c] [weights=[...]], of the ensemble; with --multirun run=a,b,c, of one after the other. An interrupted
evaluation, started again, continues where it was. With classes=FILE, on the images of these classes alone.
"""

from alexnet_repro.config import EvaluateConfig, RunConfig, TrainConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("evaluate", EvaluateConfig)  # first, as the imports below take seconds

import re
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation.class_subset import ClassSubset, read_classes
from alexnet_repro.evaluation.inference import Probabilities, add_member
from alexnet_repro.evaluation.predictions import FILE, KeptPredictions, KeptView
from alexnet_repro.evaluation.split_pass import run_pass
from alexnet_repro.evaluation.submission import read_ids, write_submission
from alexnet_repro.report import results, run_figures
from alexnet_repro.report.environment import environment
from alexnet_repro.report.figure_store import FigureStore
from alexnet_repro.report.report import write_report
from alexnet_repro.runs.checkpoint import Checkpoint, load_checkpoint, refuse_missing
from alexnet_repro.runs.folder import RunFolder, make_writable, report_folder
from alexnet_repro.runs.trained import TrainedModel, load_trained, prepared_for
from data_prep.common.errors import RequestError, RunError
from data_prep.common.files import exclusive
from data_prep.common.text import duration, percent, percent_interval
from data_prep.reader import SplitReader

_UNFINISHED = ".unfinished"
_SHOWN, _SHOWN_SEED = 8, 0  # images of Figure 4, left; `figures` draws others


def evaluate(config: EvaluateConfig) -> None:
    members = config.members()
    configs = [RunFolder(member.folder).config() for member in members]
    data, subset, reader, ids = _inputs(config)
    out = _out(config)
    with ExitStack() as locks:
        for folder in sorted({out, *(_pass_folder(config, member).parent for member in members)}):
            make_writable(folder)
            locks.enter_context(exclusive(folder / ".lock", str(folder)))
        print(f"data: {data.describe()}; split {config.split}, {config.views} view{'s' * (config.views > 1)}"
              + (f"; {subset}" if subset else ""))  # fmt: skip
        evaluation = Evaluation(config, data, reader, subset, configs)
        kept = evaluation.run(members)
        kept.save(out / FILE)
        report = evaluation.report(kept)
        evaluation.add_figures(kept, FigureStore(out, report["fingerprint"]))
        page = write_report(out, report)
        for member in members:
            shutil.rmtree(_pass_folder(config, member), ignore_errors=True)
    for row in report["results"]:
        print(f"{row['views']:>2} view{'s' * (row['views'] > 1)}: top-1 error {percent(row['top1_error'])} "
              f"({percent_interval(row['top1_interval'])}), top-5 error {percent(row['top5_error'])} "
              f"({percent_interval(row['top5_interval'])}), log-loss {row['log_loss']:.3f}")  # fmt: skip
    if config.submission:
        images = len(reader) + sum(entry.split == config.split for entry in data.manifest.rejected)
        blind = write_submission(Path(config.submission), kept, ids, images)
        guessed = f", {blind} of them for images that could not be read, with the lowest ids" if blind else ""
        print(f"{config.submission}: {images} lines{guessed}")
    seconds = duration(report["seconds"])
    print(f"{len(reader)} images of {data.manifest.name} in {seconds}; predictions: {out / FILE}; report: {page}")


class Evaluation:
    """Takes one member after the other, so that one network and two sets of probabilities are in memory at a time."""

    def __init__(
        self,
        config: EvaluateConfig,
        data: PreparedData,
        reader: SplitReader,
        subset: ClassSubset | None,
        configs: list[TrainConfig],
    ) -> None:
        """`reader`: the images; `subset`: of the classes, or None; `configs`: what each member was trained with."""
        self.config, self.data, self.reader, self.subset, self.configs = config, data, reader, subset, configs
        weights = config.weights or [1.0] * len(configs)
        self.shares = [weight / sum(weights) for weight in weights]  # of the members in the mean
        self.checkpoints: list[Checkpoint] = []  # without their weights
        self.descriptions: list[dict[str, Any]] = []
        self.seconds, self.computed = 0.0, 0  # spent by this process, on so many images
        self.trained: TrainedModel | None = None  # the last member
        self.started = time.monotonic()

    def run(self, members: list[RunConfig]) -> KeptPredictions:
        mean: Probabilities | None = None
        for member, config, share in zip(members, self.configs, self.shares, strict=True):
            mean = add_member(mean, self._predict(member, config, share), share)
        assert mean is not None
        described = ("run", "checkpoint", "weight", "fingerprint", "trained_on")
        about = {
            "members": [{key: one[key] for key in described} for one in self.descriptions],
            "data": self.data.identity(),
            "split": self.config.split,
            "views": self.config.views,
            **({"part": str(self.subset)} if self.subset else {}),
        }
        classes, class_names = self.data.classes, self.data.class_names
        if self.subset:
            classes, class_names = self.subset.outputs, self.subset.names(self.checkpoints[0].words)
        keep = self.config.keep or len(classes)
        by_views = {1: mean.centre, self.config.views: mean.average}
        views = {number: KeptView.of(probabilities, mean.labels, keep) for number, probabilities in by_views.items()}
        return KeptPredictions(about, self.reader.names(), mean.labels, classes, class_names, views)

    def _predict(self, member: RunConfig, config: TrainConfig, share: float) -> Probabilities:
        self.trained = None  # makes room on the device
        trained = self.trained = load_trained(member, self.config.checkpoint)
        trained.check_data(self.data, member.run, any_classes=self.subset is not None)
        if self.subset and trained.checkpoint.classes != self.subset.known:
            raise RequestError(f"runs: {member.run} was trained on other classes than {self.config.names()[0]}")
        done = run_pass(trained, self.data, self.reader, self.config, _pass_folder(self.config, member))
        probabilities = self.subset.restricted(done.probabilities) if self.subset else done.probabilities
        if not np.isfinite(probabilities.average).all():
            shutil.rmtree(_pass_folder(self.config, member), ignore_errors=True)
            raise RunError(f"{member.folder}: checkpoint {self.config.checkpoint} gives probabilities that are not "
                           "numbers; evaluate another with checkpoint=...")  # fmt: skip
        self.seconds += done.seconds
        self.computed += done.computed
        self.checkpoints.append(replace(trained.checkpoint, weights={}, buffers={}))  # those of seven take 3 GB
        description = results.member_description(
            config, trained.checkpoint, self.config.checkpoint, done.fingerprint, share
        )
        several, labelled = len(self.configs) > 1, bool((probabilities.labels >= 0).all())
        errors = KeptView.of(probabilities.average, probabilities.labels, 1).errors() if several and labelled else None
        self.descriptions.append({**description, "errors": errors})
        return probabilities

    def report(self, kept: KeptPredictions) -> dict[str, Any]:
        """The content of report.json."""
        names = "+".join(self.config.names())
        comparison, paper_rows = results.comparison_with_paper(
            self.configs, self.checkpoints, self.data, self.config.split
        )
        if self.subset:
            lines = [f"evaluated on: {self.subset} (paper: all classes)", *comparison["differs_from_paper"]]
            comparison |= {"comparable": False, "differs_from_paper": lines}
            paper_rows = {}
        return {
            "name": f"run {names}" if len(self.configs) == 1 else f"the ensemble {names}",
            "fingerprint": "+".join(one["fingerprint"] for one in self.descriptions),
            **comparison,
            "data": self.data.identity(),
            "split": self.config.split,
            "images": len(kept.labels),
            "selected": self.config.checkpoint == "best",
            "results": results.error_rows(kept, paper_rows) if kept.labelled else [],
            "members": self.descriptions,
            "images_per_second": self.computed / self.seconds if self.computed else None,
            "seconds": time.monotonic() - self.started,
            "classes": results.class_results(kept) if kept.labelled else None,
            "environment": environment(),
            "configuration": {m.run: RunFolder(m.folder).configuration_text() for m in self.config.members()},
        }

    def add_figures(self, kept: KeptPredictions, store: FigureStore) -> None:
        """Adds the figures that need no further pass. An ensemble has no kernels and no curves of its own."""
        if len(self.configs) == 1 and self.trained:
            (member,) = self.config.members()
            run_figures.add_curves(store, RunFolder(member.folder), member.run)
            if run_figures.kernels_can_be_shown(self.trained):
                run_figures.add_kernels(store, self.trained)
        numbers = run_figures.choose(kept.labels, _SHOWN, _SHOWN_SEED)
        images = self.reader.subset(numbers)
        run_figures.add_labels(store, kept.class_names, images, kept.most_views.subset(numbers))


def check(config: EvaluateConfig) -> None:
    """RequestError for whatever can be known to be wrong before one of several jobs begins."""
    _inputs(config)
    for member in config.members():
        refuse_missing(RunFolder(member.folder).checkpoint_path(config.checkpoint))


def _inputs(config: EvaluateConfig) -> tuple[PreparedData, ClassSubset | None, SplitReader, dict[str, int]]:
    """The data set, the part of the classes (None for all), the images to be evaluated, and the ids for a submission.
    RequestError if one of them cannot be had.
    """
    data = prepared_for(config.members()[0].folder, config.data_path)
    subset = _class_subset(config)
    reader = subset.reader(data, config.split) if subset else data.split(config.split)
    return data, subset, reader, _submission_ids(config, data)


def _class_subset(config: EvaluateConfig) -> ClassSubset | None:
    """None for all classes. RequestError if the list or the first run's checkpoint cannot be read."""
    if config.classes is None:
        return None
    if re.match(r"test(-|$)", Path(config.classes).stem):
        raise RequestError(f"classes={config.classes}: its report would lie where that of split=test does; rename the "
                           "file")  # fmt: skip
    chosen = list(read_classes(Path(config.classes)))
    first = RunFolder(config.members()[0].folder)
    known = load_checkpoint(first.checkpoint_path(config.checkpoint), on_disk=True).classes
    return ClassSubset(chosen, known, config.others)


def _report_folder(folder: Path, config: EvaluateConfig) -> Path:
    """The folder for the report of the run or ensemble in `folder`; a part of the classes has one of its own."""
    whole = report_folder(folder, config.split)
    return whole if config.classes is None else whole.with_name(f"{whole.name}-{Path(config.classes).stem}")


def _out(config: EvaluateConfig) -> Path:
    name = "+".join(config.names())
    return Path(config.out) if config.out else _report_folder(Path(config.runs_dir) / name, config)


def _pass_folder(config: EvaluateConfig, member: RunConfig) -> Path:
    """Where a member's pass writes what it has computed: its run's report, or `out`, as runs may be read-only."""
    if config.out:
        return Path(config.out) / f"{_UNFINISHED}-{member.run}"
    return _report_folder(member.folder, config) / _UNFINISHED


def _submission_ids(config: EvaluateConfig, data: PreparedData) -> dict[str, int]:
    """wnid -> ILSVRC id; empty without a submission."""
    if config.submission is None or config.devkit is None:
        return {}
    if not Path(config.submission).absolute().parent.is_dir():
        raise RequestError(f"submission={config.submission}: its folder does not exist; make it, or name another file")
    return read_ids(Path(config.devkit), data.classes)


if __name__ == "__main__":
    main(jobs, evaluate, check, writes=_out)
