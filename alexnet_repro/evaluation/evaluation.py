"""One or several runs on a split: their predictions, averaged, and what is to be said of them."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_repro import runtime
from alexnet_repro.config import EvaluateConfig, RunConfig, TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation import facts as measured
from alexnet_repro.evaluation import illustrations
from alexnet_repro.evaluation.ensemble import Ensemble
from alexnet_repro.evaluation.predict import Predictions
from alexnet_repro.evaluation.predictions import KeptPredictions, KeptView
from alexnet_repro.evaluation.split_pass import SplitPass, fingerprint, forget
from alexnet_repro.reporting.environment import environment
from alexnet_repro.reporting.figure4 import choose
from alexnet_repro.reporting.figure_store import FigureStore
from alexnet_repro.reporting.report import report_folder
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.trained import TrainedModel, load_trained
from alexnet_repro.training.checkpoint import Checkpoint
from data_prep.command import RunError

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
        loading = runtime.loading(self.config.runtime, trained.inputs.use_gpu)
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
