"""python -m alexnet_repro.compare runs=[a,b,c]: errors side by side, and how far each difference can be trusted.

Reads the predictions that evaluate kept; all runs must have been evaluated on the same pictures.
"""

import json
from itertools import combinations
from typing import Any

import numpy as np

from alexnet_repro.config import CompareConfig, TrainConfig
from alexnet_repro.evaluation.ablations import claim_for
from alexnet_repro.evaluation.facts import errors_of
from alexnet_repro.evaluation.intervals import paired_bootstrap
from alexnet_repro.evaluation.metrics import TOP_K
from alexnet_repro.evaluation.predictions import FILE, KeptPredictions
from alexnet_repro.reporting.report import report_folder
from alexnet_repro.run_folder import RunFolder
from data_prep.command import RequestError, main


def compare(config: CompareConfig) -> None:
    kept = {name: _predictions(config, name) for name in config.runs}
    _refuse_other_pictures(config, kept)
    configs = {name: _configuration(config, name) for name in config.runs}
    runs = [_run_facts(name, kept[name], configs[name], config.views) for name in config.runs]
    pairs = [_pair_facts(config, a, b, kept, configs) for a, b in combinations(config.runs, 2)]
    about = kept[config.runs[0]].about
    facts = {
        "data": about["data"], "split": config.split, "views": config.views, "images": len(kept[config.runs[0]].labels),
        "resamples": config.resamples, "seed": config.seed, "runs": runs, "differences": pairs,
    }  # fmt: skip
    print(json.dumps(facts, indent=1) if config.json else _text(facts))


def _predictions(config: CompareConfig, name: str) -> KeptPredictions:
    folder = config.folder(name)
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such run; check runs=[...] and runs_dir")
    again = f"python -m alexnet_repro.evaluate run={name} split={config.split} views={config.views}"
    path = report_folder(folder, config.split) / FILE
    if not path.is_file():
        raise RequestError(f"{path}: no predictions; make them with {again}")
    kept = KeptPredictions.load(path)
    if config.views not in kept.views:
        raise RequestError(f"{path}: has no predictions of views={config.views}; make them with {again}")
    if not kept.labelled:
        raise RequestError(f"{path}: its pictures have no labels, so there are no errors to compare")
    return kept


def _refuse_other_pictures(config: CompareConfig, kept: dict[str, KeptPredictions]) -> None:
    first, *others = config.runs
    for name in others:
        a, b = kept[first], kept[name]
        same = a.about["data"]["plan"] == b.about["data"]["plan"] and np.array_equal(a.names, b.names)
        if not same or a.classes != b.classes or not np.array_equal(a.labels, b.labels):
            raise RequestError(
                f"runs: {first} was evaluated on {a.about['data']['description']}, {name} on "
                f"{b.about['data']['description']}: not the same pictures; evaluate both on one data set, data_path=..."
            )


def _configuration(config: CompareConfig, name: str) -> TrainConfig | None:
    """None for an ensemble."""
    folder = RunFolder(config.folder(name))
    return folder.config() if folder.exists() else None


def _run_facts(name: str, kept: KeptPredictions, config: TrainConfig | None, views: int) -> dict[str, Any]:
    model = config.model.name if config else f"ensemble of {len(kept.about['members'])}"
    return {"run": name, "model": model, **errors_of(kept.views[views])}


def _pair_facts(
    config: CompareConfig,
    first: str,
    second: str,
    kept: dict[str, KeptPredictions],
    configs: dict[str, TrainConfig | None],
) -> dict[str, Any]:
    """Second minus first, as fractions."""
    facts: dict[str, Any] = {"first": first, "second": second}
    ranks = [kept[name].views[config.views].rank for name in (first, second)]
    for k in TOP_K:
        a, b = (rank >= k for rank in ranks)
        facts[f"top{k}_difference"] = float(b.mean() - a.mean())
        facts[f"top{k}_interval"] = paired_bootstrap(a, b, config.resamples, config.seed)
    a_config, b_config = configs[first], configs[second]
    if a_config and b_config and (claim := claim_for(a_config, b_config)):
        ablation = claim.ablation
        facts["paper"] = {
            "section": ablation.section,
            "claim": ablation.claim,
            "top1_difference": claim.sign * ablation.top1 / 100,
            "top5_difference": None if ablation.top5 is None else claim.sign * ablation.top5 / 100,
            "also_different": list(claim.otherwise),
        }
    return facts


def _text(facts: dict[str, Any]) -> str:
    lines = [
        f"{facts['images']:,} pictures of {facts['data']['name']}, split {facts['split']}, views={facts['views']}; "
        "errors in %, with 95 % intervals",
        "",
    ]
    width = max(3, *(len(run["run"]) for run in facts["runs"]))
    lines.append(f"{'run':<{width}}  {'model':<22}{'top-1':>6} {'':<14}{'top-5':>6} {'':<14}{'log-loss':>9}")
    for run in facts["runs"]:
        numbers = "".join(f"{100 * run[f'top{k}_error']:>6.1f} {_ends(run[f'top{k}_interval']):<14}" for k in TOP_K)
        lines.append(f"{run['run']:<{width}}  {run['model']:<22}{numbers}{run['log_loss']:>9.4f}")
    lines += ["", f"differences in points, with 95 % intervals (paired bootstrap, {facts['resamples']:,} resamples)"]
    for pair in facts["differences"]:
        lines.append(f"{pair['second']} − {pair['first']}")
        for k in TOP_K:
            low, high = pair[f"top{k}_interval"]
            clear = "" if low > 0 or high < 0 else "   zero lies within"
            ends = f"{_points(low)} to {_points(high)}"
            lines.append(f"  top-{k}  {_points(pair[f'top{k}_difference'])}   ({ends}){clear}")
        if paper := pair.get("paper"):
            both = [_points(paper[f"top{k}_difference"]) for k in TOP_K if paper[f"top{k}_difference"] is not None]
            lines.append(
                f"  paper, section {paper['section']}: {paper['claim']}; here that would be {' / '.join(both)}"
            )
            lines.append("  the paper measured on all of ILSVRC; other data, or one run of each, need not agree")
            if paper["also_different"]:
                lines.append(f"  the two runs differ in more than that: {', '.join(paper['also_different'])}")
    return "\n".join(lines)


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")


def _ends(interval: tuple[float, float]) -> str:
    return f"({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


if __name__ == "__main__":
    main("compare", CompareConfig, compare)
