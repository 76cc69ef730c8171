"""Evaluated runs side by side, one by one or in groups that differ in the seed alone, and their differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_repro.config import TrainConfig
from alexnet_repro.config.commands import ComparisonConfig
from alexnet_repro.evaluation.intervals import paired_bootstrap, seed_interval
from alexnet_repro.evaluation.metrics import TOP_K, wrong
from alexnet_repro.evaluation.predictions import FILE, KeptPredictions
from alexnet_repro.paper.comparable import ROUNDING
from alexnet_repro.paper.pairs import pair_for
from alexnet_repro.runs.folder import RunFolder, report_folder, runs_dir_option
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.runs.settings import OF_A_GROUP, differences, without_seed
from data_prep.common.errors import RequestError


class NotEvaluated(RequestError):
    """The run has no predictions of this kind; evaluate would make them."""


@dataclass
class EvaluatedRun:
    """A run or an ensemble (a+b) with what evaluate kept of it."""

    name: str
    kept: KeptPredictions
    config: TrainConfig | None  # None for an ensemble
    epochs: list[dict[str, float]] = field(default_factory=list)  # what metrics.jsonl has of each

    @classmethod
    def load(cls, runs_dir: str, name: str, split: str, views: int) -> "EvaluatedRun":
        """RequestError if there is no such run, or no errors of it on this split with so many views."""
        folder = Path(runs_dir) / name
        if not folder.is_dir():
            raise RequestError(f"{folder}: no such run; check runs=[...] and runs_dir")
        remedy = f"make them with {evaluate_command([name], runs_dir, split, views)}"
        path = report_folder(folder, split) / FILE
        if not path.is_file():
            raise NotEvaluated(f"{path}: no predictions; {remedy}")
        kept = KeptPredictions.load(path)
        if views not in kept.views:
            raise NotEvaluated(f"{path}: has no predictions of views={views}; {remedy}")
        if not kept.labelled:
            raise RequestError(f"{path}: its images have no labels, so there are no errors to compare")
        run = RunFolder(folder)
        return cls(name, kept, run.config() if run.exists() else None, read_metrics(run.metrics, "epoch"))

    def wrong(self, views: int, k: int) -> np.ndarray:
        """bool [N]: of which images the label is not among the k most probable classes."""
        return wrong(self.kept.views[views].rank, k)

    def trained_on(self) -> str:
        """The fingerprint of the data set that the run was trained on; not for an ensemble."""
        (member,) = self.kept.about["members"]
        if "trained_on" not in member:
            raise RequestError(f"{self.name}: its predictions are of an older version of this project; evaluate again")
        return str(member["trained_on"]["plan"])


def evaluate_command(names: Sequence[str], runs_dir: str, split: str, views: int) -> str:
    if len(names) > 1:
        which = f"--multirun run={','.join(names)}"
    elif "+" in names[0]:  # an ensemble
        which = f"'runs=[{names[0].replace('+', ',')}]'"
    else:
        which = f"run={names[0]}"
    return f"python -m alexnet_repro.evaluate {which}{runs_dir_option(runs_dir)} split={split} views={views}"


def refuse_other_images(runs: Sequence[EvaluatedRun]) -> None:
    """RequestError unless all were evaluated on the same images."""
    first, *others = runs
    for other in others:
        a, b = first.kept, other.kept
        same = a.about["data"]["plan"] == b.about["data"]["plan"] and np.array_equal(a.names, b.names)
        if not same or a.classes != b.classes or not np.array_equal(a.labels, b.labels):
            raise RequestError(
                f"runs: {first.name} was evaluated on {a.about['data']['description']}, {other.name} on "
                f"{b.about['data']['description']}: not the same images; evaluate both on one data set, "
                "evaluate data_path=..."
            )


Group = dict[int, EvaluatedRun]  # by seed: runs that differ in it alone


def grouped(runs: Sequence[EvaluatedRun]) -> dict[str, Group]:
    """The runs grouped by name without -SEED. RequestError if two of a group have the same seed, or differ in more
    than that.
    """
    groups: dict[str, Group] = {}
    for run in runs:
        assert run.config is not None
        settings = without_seed(run.config)
        group = groups.setdefault(settings["run"], {})
        if other := group.get(run.config.seed):
            raise RequestError(f"{other.name}, {run.name}: both have seed={run.config.seed}; move one elsewhere")
        for other in group.values():
            assert other.config is not None
            apart = list(differences(without_seed(other.config), settings, only=OF_A_GROUP))
            if other.trained_on() != run.trained_on():
                apart.append("the images that they were trained on")
            if apart:
                raise RequestError(f"{other.name}, {run.name}: by their names they differ in the seed alone, but also "
                                   f"in {', '.join(apart)}; move one elsewhere")  # fmt: skip
        group[run.config.seed] = run
    return {name: dict(sorted(group.items())) for name, group in groups.items()}


def difference_of_runs(first: EvaluatedRun, second: EvaluatedRun, config: ComparisonConfig) -> dict[str, Any]:
    """Errors of `second` minus those of `first`, as fractions, with paired intervals over images; and the
    difference in the paper and in the logs of 2012, if the two are an ablation of either.
    """
    facts: dict[str, Any] = {"first": first.name, "second": second.name}
    for k in TOP_K:
        a, b = first.wrong(config.views, k), second.wrong(config.views, k)
        facts[f"top{k}_difference"] = float(b.mean() - a.mean())
        facts[f"top{k}_interval"] = paired_bootstrap(a, b, config.resamples, config.seed)
    paper = _paper_difference(first, second)
    return {**facts, "paper": paper} if paper else facts


def _paper_difference(first: EvaluatedRun, second: EvaluatedRun) -> dict[str, Any] | None:
    pair = pair_for(first.config, second.config) if first.config and second.config else None
    if pair is None:
        return None
    facts = pair.facts()
    if first.trained_on() != second.trained_on():
        facts["also_different"].append("the images that they were trained on")
    return facts


def errors_of_group(group: Group, views: int) -> dict[str, Any]:
    """Mean and range over seeds, as fractions."""
    facts: dict[str, Any] = {
        "seeds": list(group),
        "checkpoints": sorted({run.kept.about["members"][0]["checkpoint"] for run in group.values()}),
    }
    for k in TOP_K:
        errors = [float(run.wrong(views, k).mean()) for run in group.values()]
        facts |= {f"top{k}_error": float(np.mean(errors)), f"top{k}_range": [min(errors), max(errors)]}
    return facts


def difference_of_groups(baseline: Group, group: Group, config: ComparisonConfig) -> dict[str, Any]:
    """Errors of `group` minus those of `baseline`, as fractions: the mean over the seeds that both have, of the
    differences between runs of one seed. With several seeds the interval is over seeds, with one over images.
    """
    seeds = [seed for seed in group if seed in baseline]
    paper = _paper_difference(next(iter(baseline.values())), next(iter(group.values())))
    facts: dict[str, Any] = {"seeds": seeds, "left_out": sorted(group.keys() ^ baseline.keys()), "paper": paper}
    for k in TOP_K if seeds else ():
        pairs = [(baseline[seed].wrong(config.views, k), group[seed].wrong(config.views, k)) for seed in seeds]
        by_seed = np.array([second.mean() - first.mean() for first, second in pairs])
        if len(seeds) > 1:
            low, high = seed_interval(by_seed)
        else:
            low, high = paired_bootstrap(*pairs[0], config.resamples, config.seed)
        facts |= {f"top{k}": float(by_seed.mean()), f"top{k}_interval": [low, high]}
        facts[f"top{k}_zero_within"] = low <= 0 <= high
        if paper and (theirs := paper[f"top{k}_difference"]) is not None:
            facts[f"top{k}_paper_within"] = low - ROUNDING / 100 <= theirs <= high + ROUNDING / 100
    return facts


def while_training(groups: Mapping[str, Sequence[EvaluatedRun]]) -> dict[str, Any]:
    """The quantities of the paper's claims about training. For each group, the means over its runs of

    - the loss of the first epoch, which biases of 1 lower (section 5),
    - the training error of the last epoch, which weight decay lowers (5), and the validation error (one view), whose
      distance from it is overfitting (3.4, 4),
    - the number of epochs until the training loss was `train_loss`, the lowest that all runs have reached, which
      dropout doubles (4.2);

    and for each run the mean colourfulness of conv1's columns (6.1), if its metrics have it. Errors are fractions.
    Runs without a history, such as ensembles, are left out.
    """
    trained = {name: [run.epochs for run in runs if run.epochs] for name, runs in groups.items()}
    trained = {name: histories for name, histories in trained.items() if histories}
    lowest = [min(row["train_loss"] for row in rows) for histories in trained.values() for rows in histories]
    common = max(lowest, default=0.0)
    facts = []
    for name, histories in trained.items():
        last = [rows[-1] for rows in histories]
        reached = [epochs_until(common, [row["train_loss"] for row in rows]) for rows in histories]
        colours = [
            {key.split(".")[-1]: value for key, value in row.items() if key.startswith("colourfulness/")}
            for row in last
        ]
        facts.append(
            {
                "group": name,
                "epochs": _mean([len(rows) for rows in histories]),
                "first_train_loss": _mean([rows[0]["train_loss"] for rows in histories]),
                "train_top1_error": _mean([row["train_top1_error"] for row in last]),
                "val_top1_error": _mean([row["val_top1_error"] for row in last]),
                "epochs_to_train_loss": _mean([epochs for epochs in reached if epochs is not None]),
                "colourfulness": [columns for columns in colours if columns],
            }
        )
    return {"train_loss": common, "groups": facts}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def epochs_until(value: float, by_epoch: Sequence[float]) -> float | None:
    """After how many epochs a loss or an error was `value`, interpolated linearly between epochs; None if it never was.

    by_epoch[i]: of epoch i + 1.
    """
    if by_epoch[0] <= value:
        return 1.0
    for epoch, (before, after) in enumerate(pairwise(by_epoch), start=1):
        if after <= value:
            return epoch + (before - value) / (before - after)
    return None
