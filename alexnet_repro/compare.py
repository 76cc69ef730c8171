"""python -m alexnet_repro.compare runs=[a,b,c]: errors side by side, and how far each difference can be trusted.

Reads the predictions that evaluate kept; all runs must have been evaluated on the same pictures.
"""

import json
from itertools import combinations
from typing import Any

from alexnet_repro.config import CompareConfig
from alexnet_repro.evaluation.ablations import claim_facts
from alexnet_repro.evaluation.evaluated import EvaluatedRun, load_evaluated, refuse_other_pictures
from alexnet_repro.evaluation.facts import errors_of
from alexnet_repro.evaluation.intervals import paired_bootstrap
from alexnet_repro.evaluation.metrics import TOP_K
from alexnet_repro.reporting.progress import points
from data_prep.command import main


def compare(config: CompareConfig) -> None:
    evaluated = [load_evaluated(config.runs_dir, name, config.split, config.views) for name in config.runs]
    refuse_other_pictures(evaluated)
    runs = [_run_facts(run, config.views) for run in evaluated]
    pairs = [_pair_facts(config, a, b) for a, b in combinations(evaluated, 2)]
    kept = evaluated[0].kept
    facts = {
        "data": kept.about["data"], "split": config.split, "views": config.views, "images": len(kept.labels),
        "resamples": config.resamples, "seed": config.seed, "runs": runs, "differences": pairs,
    }  # fmt: skip
    print(json.dumps(facts, indent=1) if config.json else _text(facts))


def _run_facts(run: EvaluatedRun, views: int) -> dict[str, Any]:
    model = run.config.model.name if run.config else f"ensemble of {len(run.kept.about['members'])}"
    return {"run": run.name, "model": model, **errors_of(run.kept.views[views])}


def _pair_facts(config: CompareConfig, first: EvaluatedRun, second: EvaluatedRun) -> dict[str, Any]:
    """Second minus first, as fractions."""
    facts: dict[str, Any] = {"first": first.name, "second": second.name}
    ranks = [run.kept.views[config.views].rank for run in (first, second)]
    for k in TOP_K:
        a, b = (rank >= k for rank in ranks)
        facts[f"top{k}_difference"] = float(b.mean() - a.mean())
        facts[f"top{k}_interval"] = paired_bootstrap(a, b, config.resamples, config.seed)
    if first.config and second.config and (paper := claim_facts(first.config, second.config)):
        facts["paper"] = paper
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
            ends = f"{points(low)} to {points(high)}"
            lines.append(f"  top-{k}  {points(pair[f'top{k}_difference'])}   ({ends}){clear}")
        if paper := pair.get("paper"):
            both = [points(paper[f"top{k}_difference"]) for k in TOP_K if paper[f"top{k}_difference"] is not None]
            lines.append(
                f"  paper, section {paper['section']}: {paper['claim']}; here that would be {' / '.join(both)}"
            )
            lines.append("  the paper measured on all of ILSVRC; other data, or one run of each, need not agree")
            if paper["also_different"]:
                lines.append(f"  the two runs differ in more than that: {', '.join(paper['also_different'])}")
    return "\n".join(lines)


def _ends(interval: tuple[float, float]) -> str:
    return f"({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


if __name__ == "__main__":
    main("compare", CompareConfig, compare)
