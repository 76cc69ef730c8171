"""Runs as evaluate left them, for the commands that set several beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_repro.config import AblationsConfig, TrainConfig
from alexnet_repro.evaluation.intervals import crossed_interval, paired_bootstrap
from alexnet_repro.evaluation.metrics import TOP_K
from alexnet_repro.evaluation.predictions import FILE, KeptPredictions
from alexnet_repro.paper.ablations import claim_facts, settings_of, without_seed
from alexnet_repro.paper.comparable import ROUNDING
from alexnet_repro.runs.folder import MAY_CHANGE, RunFolder, report_folder
from data_prep.common.errors import RequestError


@dataclass
class EvaluatedRun:
    name: str
    kept: KeptPredictions
    config: TrainConfig | None  # None for an ensemble


Group = dict[int, EvaluatedRun]  # by seed
_OWN = ("run", "seed", *MAY_CHANGE)  # of each run of a group


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


def group_name(config: TrainConfig) -> str:
    return without_seed(config.run, config.seed) or ""


def grouped(runs: Sequence[EvaluatedRun]) -> dict[str, Group]:
    """RequestError if two runs of one name have the same seed, or differ in more than that."""
    groups: dict[str, Group] = {}
    for run in runs:
        assert run.config is not None
        group = groups.setdefault(group_name(run.config), {})
        if other := group.get(run.config.seed):
            raise RequestError(f"{other.name}, {run.name}: both have seed={run.config.seed}; move one elsewhere")
        for other in group.values():
            if apart := _apart(other, run):
                raise RequestError(f"{other.name}, {run.name}: by their names they differ in the seed alone, but also "
                                   f"in {', '.join(apart)}; move one elsewhere")  # fmt: skip
        group[run.config.seed] = run
    return {name: dict(sorted(group.items())) for name, group in groups.items()}


def _apart(first: EvaluatedRun, second: EvaluatedRun) -> list[str]:
    assert first.config is not None and second.config is not None
    a, b = (settings_of(config) for config in (first.config, second.config))
    keys = [key for key in sorted(a.keys() | b.keys()) if key.split(".")[0] not in _OWN]
    apart = [key for key in [*keys, "runtime.precision"] if a.get(key) != b.get(key)]
    same_data = _trained_on(first) == _trained_on(second)
    return apart if same_data else [*apart, "the pictures that they were trained on"]


def _trained_on(run: EvaluatedRun) -> str:
    """The data set's fingerprint."""
    (member,) = run.kept.about["members"]
    if "trained_on" not in member:
        raise RequestError(f"{run.name}: its predictions are of an older version of this project; evaluate it again")
    return member["trained_on"]["plan"]


def ablation_facts(config: AblationsConfig, groups: dict[str, Group], lacking: Sequence[str]) -> dict[str, Any]:
    """The baseline first, then the others by name. Errors and differences as fractions."""
    baseline = groups[config.baseline]
    kept = next(iter(baseline.values())).kept
    names = [config.baseline, *(name for name in groups if name != config.baseline)]
    again = evaluate_command(lacking, config.runs_dir, config.split, config.views) if lacking else None
    return {
        "data": kept.about["data"], "split": config.split, "views": config.views, "images": len(kept.labels),
        "resamples": config.resamples, "seed": config.seed, "baseline": config.baseline,
        "groups": [
            _errors(name, groups[name], config.views)
            | ({} if name == config.baseline else {"difference": _difference(config, baseline, groups[name])})
            for name in names
        ],
        "not_evaluated": list(lacking), "evaluate_them": again,
    }  # fmt: skip


def _errors(name: str, group: Group, views: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"group": name, "seeds": list(group)}
    checkpoints = {run.kept.about["members"][0]["checkpoint"] for run in group.values()}
    facts["checkpoints"] = sorted(checkpoints)
    for k in TOP_K:
        errors = [float(wrong.mean()) for wrong in _wrong(group, group, views, k)]
        facts |= {f"top{k}_error": float(np.mean(errors)), f"top{k}_range": [min(errors), max(errors)]}
    return facts


def _difference(config: AblationsConfig, baseline: Group, group: Group) -> dict[str, Any]:
    """`group` minus `baseline`, over the seeds that both have."""
    seeds = [seed for seed in group if seed in baseline]
    one, other = next(iter(baseline.values())).config, next(iter(group.values())).config
    assert one is not None and other is not None
    paper = claim_facts(one, other)
    facts: dict[str, Any] = {"seeds": seeds, "left_out": sorted(group.keys() ^ baseline.keys()), "paper": paper}
    for k in TOP_K if seeds else ():
        better, worse = (_wrong(runs, seeds, config.views, k) for runs in (baseline, group))
        low, high = (
            crossed_interval(worse.astype(np.int64) - better)
            if len(seeds) > 1 and better.shape[1] > 1
            else paired_bootstrap(better[0], worse[0], config.resamples, config.seed)
        )
        facts |= {f"top{k}": float(worse.mean() - better.mean()), f"top{k}_interval": [low, high]}
        facts[f"top{k}_zero_within"] = bool(low <= 0 <= high)
        if paper and (theirs := paper[f"top{k}_difference"]) is not None:
            facts[f"top{k}_paper_within"] = bool(low - ROUNDING / 100 <= theirs <= high + ROUNDING / 100)
    return facts


def _wrong(group: Group, seeds: Sequence[int] | Group, views: int, k: int) -> np.ndarray:
    """bool [S, N]."""
    return np.stack([group[seed].kept.views[views].rank >= k for seed in seeds])
