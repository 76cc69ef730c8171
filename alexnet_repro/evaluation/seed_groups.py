"""Runs that differ in the seed alone, and how such groups differ from one of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_repro.config import AblationsConfig, TrainConfig
from alexnet_repro.evaluation.ablations import claim_facts, settings_of, without_seed
from alexnet_repro.evaluation.evaluated import EvaluatedRun, evaluate_command
from alexnet_repro.evaluation.intervals import crossed_interval, paired_bootstrap
from alexnet_repro.evaluation.metrics import TOP_K
from alexnet_repro.evaluation.setting import ROUNDING
from alexnet_repro.run_folder import MAY_CHANGE
from data_prep.command import RequestError

Group = dict[int, EvaluatedRun]  # by seed
_OWN = ("run", "seed", *MAY_CHANGE)  # of each run of a group


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
