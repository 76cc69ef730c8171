"""python -m alexnet_repro.evaluate run=NAME [split=val] [views=10|1]: errors, predictions and the report.

With runs=[a,b,c] [weights=[...]], of the ensemble; with --multirun run=a,b,c, of one after the other. What was stopped
goes on where it was.
"""

from alexnet_repro.config import EvaluateConfig, RunConfig, TrainConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("evaluate", EvaluateConfig)  # first, as the imports below take seconds

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_repro.data import PreparedData
from alexnet_repro.data.loader import loading_for
from alexnet_repro.evaluation.inference import Ensemble, Predictions
from alexnet_repro.evaluation.predictions import FILE, KeptPredictions, KeptView
from alexnet_repro.evaluation.split_pass import SplitPass, forget
from alexnet_repro.evaluation.submission import check_ids, read_ids, write_submission
from alexnet_repro.report import facts as measured
from alexnet_repro.report import illustrations
from alexnet_repro.report.drawings import choose
from alexnet_repro.report.environment import environment
from alexnet_repro.report.figure_store import FigureStore
from alexnet_repro.report.report import write_report
from alexnet_repro.runs.checkpoint import Checkpoint, fingerprint
from alexnet_repro.runs.folder import RunFolder, report_folder
from alexnet_repro.runs.trained import TrainedModel, load_trained, prepared_for
from data_prep.common.errors import RequestError, RunError
from data_prep.common.files import exclusive
from data_prep.common.text import duration, percent

_SHOWN, _SHOWN_SEED = 8, 0  # pictures of Figure 4, left; `figures` draws others


class Evaluation:
    """Member after member, so that one network and two sets of probabilities are in memory at a time."""

    def __init__(
        self, config: EvaluateConfig, data: PreparedData, members: list[RunConfig], configs: list[TrainConfig]
    ) -> None:
        self.config, self.data, self.members, self.configs = config, data, members, configs
        self.weights = [float(weight) for weight in config.weights or [1.0] * len(members)]
        self.checkpoints: list[Checkpoint] = []
        self.described: list[dict[str, Any]] = []
        self.unfinished: list[Path] = []  # what each member's pass has kept, for when it is stopped
        self.seconds, self.computed = 0.0, 0  # spent by this process, on so many pictures
        self.trained: TrainedModel | None = None  # of the last member
        self.started = time.monotonic()

    def run(self, names: np.ndarray) -> KeptPredictions:
        ensemble = Ensemble(self.weights)
        for member, config, weight in zip(self.members, self.configs, self.weights, strict=True):
            ensemble.add(self._member(member, config, weight))
        mean = ensemble.mean()
        classes = [info.wnid for info in self.data.manifest.classes]
        kept_of_member = ("run", "checkpoint", "weight", "fingerprint", "trained_on")
        about = {
            "members": [{key: one[key] for key in kept_of_member} for one in self.described],
            "data": self.data.identity(),
            "split": self.config.split,
            "views": self.config.views,
        }  # fmt: skip
        return KeptPredictions(about, names, mean.labels, classes, self.data.classes, self._views(mean))

    def _views(self, mean: Predictions) -> dict[int, KeptView]:
        keep = self.config.keep or len(self.data.classes)
        by_views = {1: mean.centre, self.config.views: mean.average}
        return {views: KeptView.of(probabilities, mean.labels, keep) for views, probabilities in by_views.items()}

    def _member(self, member: RunConfig, config: TrainConfig, weight: float) -> Predictions:
        self.trained = None  # makes room on the device
        trained = load_trained(member, self.config.checkpoint)
        trained.check_data(self.data, member.run)
        loading = loading_for(self.config.runtime, trained.inputs.use_gpu)
        folder = report_folder(member.folder, self.config.split)
        done = SplitPass(
            trained, self.data, self.config.split, self.config.views, self.config.batch_size, loading, folder
        )
        predictions = done.run()
        if not np.isfinite(predictions.average).all():
            forget(done.folder)
            raise RunError(
                f"{member.folder}: checkpoint {self.config.checkpoint} gives probabilities that are not numbers"
            )
        self.unfinished.append(done.folder)
        self.seconds += done.seconds
        self.computed += done.computed
        self.trained = trained
        self.checkpoints.append(replace(trained.checkpoint, weights={}, buffers={}))  # of seven, 3 GB
        drawn_from = fingerprint(trained.checkpoint)
        facts = measured.member_facts(
            member.run, self.config.checkpoint, config, trained.checkpoint, drawn_from, weight / sum(self.weights)
        )
        labelled = bool((predictions.labels >= 0).all())
        errors = (
            measured.errors_of(KeptView.of(predictions.average, predictions.labels, 1))
            if labelled and len(self.members) > 1
            else None
        )
        self.described.append({**facts, "errors": errors})
        return predictions

    def facts(self, name: str, kept: KeptPredictions) -> dict[str, Any]:
        setting, rows = measured.setting_facts(self.configs, self.checkpoints, self.data, self.config.split)
        return {
            "name": f"run {name}" if len(self.members) == 1 else f"the ensemble {name}",
            "fingerprint": "+".join(one["fingerprint"] for one in self.described),
            **setting,
            "data": self.data.identity(),
            "split": self.config.split,
            "images": len(kept.labels),
            "selected": self.config.checkpoint == "best",
            "results": measured.results_of(kept, rows) if kept.labelled else [],
            "members": self.described,
            "images_per_second": self.computed / self.seconds if self.computed else None,
            "seconds": time.monotonic() - self.started,
            "classes": measured.class_facts(kept) if kept.labelled else None,
            "environment": environment(),
            "configuration": {m.run: RunFolder(m.folder).configuration_text() for m in self.members},
        }

    def forget(self) -> None:
        """What was kept for a continuation, once the report is written."""
        for folder in self.unfinished:
            forget(folder)

    def draw(self, kept: KeptPredictions, out: Path, drawn_from: str) -> None:
        """What needs no further pass. An ensemble has no kernels and no curves of its own."""
        store = FigureStore(out, drawn_from)
        if len(self.members) == 1:
            assert self.trained is not None
            illustrations.draw_curves(store, RunFolder(self.members[0].folder), self.members[0].run)
            if illustrations.kernels_can_be_shown(self.trained):
                illustrations.draw_kernels(store, self.trained)
        numbers = choose(kept.labels, _SHOWN, _SHOWN_SEED)
        view = kept.most_views
        shown = KeptView(view.top[numbers], view.probabilities[numbers], view.rank[numbers], view.own[numbers])
        illustrations.draw_labels(store, self.data, self.data.split(kept.about["split"]), numbers, shown)


def evaluate(config: EvaluateConfig) -> None:
    members = config.members()
    configs = [RunFolder(member.folder).config() for member in members]
    data = prepared_for(configs[0], config.data_path)
    reader = data.split(config.split)
    ids = _ids(config, [info.wnid for info in data.manifest.classes])
    name = "+".join(config.names())
    out = _out(config)
    with ExitStack() as locks:
        for folder in sorted({out, *(report_folder(member.folder, config.split) for member in members)}):
            _make(folder)
            locks.enter_context(exclusive(folder / ".lock", str(folder)))
        print(f"data: {data.describe()}; split {config.split}, {config.views} view{'s' * (config.views > 1)}")
        evaluation = Evaluation(config, data, members, configs)
        kept = evaluation.run(reader.names())
        kept.save(out / FILE)
        facts = evaluation.facts(name, kept)
        evaluation.draw(kept, out, facts["fingerprint"])
        report = write_report(out, facts)
        evaluation.forget()
    for row in facts["results"]:
        low, high = row["top1_interval"]
        print(f"{row['views']:>2} view{'s' * (row['views'] > 1)}: top-1 error {percent(row['top1_error'])} "
              f"({100 * low:.1f} to {100 * high:.1f}), top-5 error {percent(row['top5_error'])}, "
              f"log-loss {row['log_loss']:.3f}")  # fmt: skip
    if config.submission:
        _submit(Path(config.submission), kept, ids, data, config.split)
    seconds = duration(facts["seconds"])
    print(f"{len(reader)} images of {data.manifest.name} in {seconds}; predictions: {out / FILE}; report: {report}")


def check(config: EvaluateConfig) -> None:
    """RequestError for whatever can be known to be wrong before one of several jobs begins."""
    folders = [RunFolder(member.folder) for member in config.members()]
    data = prepared_for(folders[0].config(), config.data_path)
    data.split(config.split)
    for folder in folders:
        if not (path := folder.checkpoint_path(config.checkpoint)).is_file():
            raise RequestError(f"{path}: no such checkpoint; train the run first, or name another with checkpoint=...")
    _ids(config, [info.wnid for info in data.manifest.classes])


def _out(config: EvaluateConfig) -> Path:
    name = "+".join(config.names())
    return Path(config.out) if config.out else report_folder(Path(config.runs_dir) / name, config.split)


def _ids(config: EvaluateConfig, classes: list[str]) -> dict[str, int]:
    if config.submission is None or config.devkit is None:
        return {}
    if not Path(config.submission).absolute().parent.is_dir():
        raise RequestError(f"submission={config.submission}: its folder does not exist; make it, or name another file")
    ids = read_ids(Path(config.devkit))
    check_ids(ids, classes, Path(config.devkit))
    return ids


def _submit(path: Path, kept: KeptPredictions, ids: dict[str, int], data: PreparedData, split: str) -> None:
    rejected = sum(entry.split == split for entry in data.manifest.rejected)
    blind = write_submission(path, kept, ids, len(kept.labels) + rejected)
    said = f", {blind} of them blind guesses for pictures that could not be read" if blind else ""
    print(f"{path}: {len(kept.labels) + rejected} lines{said}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be made ({error.strerror}); choose another folder with out=DIR") from None


if __name__ == "__main__":
    main(jobs, evaluate, check, writes=_out)
