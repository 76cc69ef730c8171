"""python -m alexnet_repro.compare runs=[a,b,c]: errors side by side, and how far each difference can be trusted.

Reads the predictions that evaluate kept; all runs must have been evaluated on the same pictures.
"""

from alexnet_repro.config import AblationsConfig, CompareConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("compare", CompareConfig)  # first, as the imports below take seconds

import json
from itertools import combinations
from pathlib import Path
from typing import Any

from alexnet_repro.evaluation.comparison import (
    EvaluatedRun,
    NotEvaluated,
    ablation_facts,
    grouped,
    load_evaluated,
    refuse_other_pictures,
)
from alexnet_repro.evaluation.intervals import paired_bootstrap
from alexnet_repro.evaluation.metrics import TOP_K
from alexnet_repro.paper.ablations import claim_facts
from alexnet_repro.report.facts import errors_of
from alexnet_repro.runs.folder import RunFolder
from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically
from data_prep.common.text import points

_HEAD = ["group", "seeds", "top-1 error (range)", "top-5 error (range)"]
_DIFFERENCE = ["difference top-1", "paper", "", "difference top-5", "paper", ""]


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


def ablation_table(facts: dict[str, Any]) -> str:
    """`facts`: of evaluation/seed_groups.py."""
    head = (
        f"{facts['images']:,} pictures of {facts['data']['name']}, split {facts['split']}, views={facts['views']}; "
        f"errors in %, mean over seeds; differences to {facts['baseline']} in points, with 95 % intervals"
    )
    rows = [_HEAD + _DIFFERENCE, *(_row(group) for group in facts["groups"])]
    notes = [note for group in facts["groups"] for note in _notes(group, facts["baseline"])]
    if facts["not_evaluated"]:
        command = facts["evaluate_them"]
        notes.append(f"not evaluated, and left out: {', '.join(facts['not_evaluated'])}; `{command}`")
    return f"{head}\n\n{_aligned(rows)}\n" + "".join(f"\n- {note}" for note in [*notes, *_legend(facts)]) + "\n"


def _row(group: dict[str, Any]) -> list[str]:
    cells = [group["group"], str(len(group["seeds"]))]
    for k in (1, 5):
        low, high = group[f"top{k}_range"]
        cells.append(f"{100 * group[f'top{k}_error']:.1f} ({100 * low:.1f}–{100 * high:.1f})")
    difference = group.get("difference")
    for k in (1, 5):
        if not difference or not difference["seeds"]:
            cells += ["", "", ""]
            continue
        low, high = difference[f"top{k}_interval"]
        theirs = difference["paper"] and difference["paper"][f"top{k}_difference"]
        words = ["zero within" if difference[f"top{k}_zero_within"] else "zero outside"]
        if theirs is not None:
            words.append("paper's within" if difference[f"top{k}_paper_within"] else "paper's outside")
        own = f"{points(difference[f'top{k}'])} ({points(low)} to {points(high)})"
        cells += [own, "" if theirs is None else points(theirs), ", ".join(words)]
    return cells


def _notes(group: dict[str, Any], baseline: str) -> list[str]:
    name, notes = group["group"], []
    if group["checkpoints"] != ["last"]:
        notes.append(f"{name}: evaluated at checkpoint {', '.join(group['checkpoints'])}")
    difference = group.get("difference")
    if not difference:
        return notes
    if difference["left_out"]:
        seeds = ", ".join(map(str, difference["left_out"]))
        notes.append(f"{name} − {baseline}: only one of the two has seed {seeds}, left out of the difference")
    if not difference["seeds"]:
        notes.append(f"{name} − {baseline}: no seed in common, so no difference")
    if len(difference["seeds"]) == 1:
        notes.append(f"{name} − {baseline}: one seed; the interval is of the choice of pictures (paired bootstrap) and "
                     "says nothing of other seeds")  # fmt: skip
    if paper := difference["paper"]:
        also = ", ".join(paper["also_different"])
        notes.append(f"{name} − {baseline}: the paper, section {paper['section']}: {paper['claim']}"
                     + (f"; the two differ in more than that: {also}" if also else ""))  # fmt: skip
    return notes


def _legend(facts: dict[str, Any]) -> list[str]:
    differences = [group["difference"] for group in facts["groups"] if "difference" in group]
    lines = []
    if any(len(difference["seeds"]) > 1 for difference in differences):
        lines.append("intervals over seeds hold for other pictures and other seeds (two-way random-effects analysis of "
                     "variance, Satterthwaite's degrees of freedom); with few seeds they are wide")  # fmt: skip
    if any(difference["paper"] for difference in differences):
        lines.append("the paper measured on all of ILSVRC, and one run of each; other data need not agree")
    return lines


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def ablations(config: AblationsConfig) -> None:
    folder = Path(config.runs_dir)
    runs, lacking = _runs(config, folder)
    if not runs:
        missing = f"{', '.join(lacking)} have no predictions of split={config.split} views={config.views}"
        raise RequestError(f"runs_dir={folder}: {missing if lacking else 'no runs here'}; train runs there, and "
                           "evaluate them")  # fmt: skip
    refuse_other_pictures(runs)
    groups = grouped(runs)
    if config.baseline not in groups:
        raise RequestError(f"baseline={config.baseline}: no such group with predictions in {folder}; there are "
                           f"{', '.join(groups)}")  # fmt: skip
    facts = ablation_facts(config, groups, lacking)
    document, table = json.dumps(facts, indent=1), ablation_table(facts)
    for name, text in (("ablations.json", document + "\n"), ("ablations.md", table)):
        _write(folder / name, text)
    print(document if config.json else f"{table}\nwritten: {folder / 'ablations.md'}, {folder / 'ablations.json'}")


def _runs(config: AblationsConfig, folder: Path) -> tuple[list[EvaluatedRun], list[str]]:
    """The runs with predictions, in the order of their names, and the names of those without. Ensembles are no runs."""
    runs, lacking = [], []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not RunFolder(path).exists():
            continue
        try:
            runs.append(load_evaluated(config.runs_dir, path.name, config.split, config.views))
        except NotEvaluated:
            lacking.append(path.name)
    return runs, lacking


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    main(jobs, compare)
