"""python -m alexnet_repro.compare runs=[a,b,c]: errors side by side, and how far each difference can be trusted.

Reads the predictions that evaluate kept; all runs must have been evaluated on the same images. The command `ablations`,
which does the same for all runs of a folder and over seeds, is here as well.
"""

from alexnet_repro.config import AblationsConfig, CompareConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("compare", CompareConfig)  # first, as the imports below take seconds

import json
from itertools import combinations
from pathlib import Path
from typing import Any

from alexnet_repro.config.commands import ComparisonConfig
from alexnet_repro.evaluation.comparison import (
    EvaluatedRun,
    NotEvaluated,
    difference_of_groups,
    difference_of_runs,
    errors_of_group,
    evaluate_command,
    grouped,
    refuse_other_images,
    while_training,
)
from alexnet_repro.evaluation.intervals import Interval
from alexnet_repro.evaluation.metrics import TOP_K
from alexnet_repro.paper.records import SPREAD
from alexnet_repro.runs.folder import RunFolder
from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically
from data_prep.common.text import percent_interval, points

_LOG_DIGITS = 3  # of differences in the logs of 2012, which may be smaller than a tenth of a point


def compare(config: CompareConfig) -> None:
    runs = [EvaluatedRun.load(config.runs_dir, name, config.split, config.views) for name in config.runs]
    refuse_other_images(runs)
    facts = _what_is_compared(config, runs[0]) | {
        "runs": [
            {
                "run": run.name,
                "model": run.config.model.name if run.config else f"ensemble of {len(run.kept.about['members'])}",
                **run.kept.views[config.views].errors(),
            }
            for run in runs
        ],
        "differences": [difference_of_runs(first, second, config) for first, second in combinations(runs, 2)],
        "training": while_training({run.name: [run] for run in runs}),
    }
    print(json.dumps(facts, indent=1) if config.json else _runs_text(facts))


def ablations(config: AblationsConfig) -> None:
    folder = Path(config.runs_dir)
    runs, not_evaluated = _runs_of(config)
    if not runs:
        missing = f"{', '.join(not_evaluated)} have no predictions of split={config.split} views={config.views}"
        raise RequestError(f"runs_dir={folder}: {missing if not_evaluated else 'no runs here'}; train runs there, and "
                           "evaluate them")  # fmt: skip
    refuse_other_images(runs)
    groups = grouped(runs)
    if config.baseline not in groups:
        raise RequestError(f"baseline={config.baseline}: no such group with predictions in {folder}; there are "
                           f"{', '.join(groups)}")  # fmt: skip
    baseline = groups.pop(config.baseline)
    first = {"group": config.baseline, **errors_of_group(baseline, config.views)}
    others = [
        {"group": name, **errors_of_group(group, config.views)}
        | {"difference": difference_of_groups(baseline, group, config)}
        for name, group in groups.items()
    ]
    command = evaluate_command(not_evaluated, config.runs_dir, config.split, config.views) if not_evaluated else None
    facts = _what_is_compared(config, next(iter(baseline.values()))) | {
        "baseline": config.baseline, "groups": [first, *others],
        "training": while_training({config.baseline: list(baseline.values())}
                                   | {name: list(group.values()) for name, group in groups.items()}),
        "not_evaluated": not_evaluated, "evaluate_them": command,
    }  # fmt: skip
    document, text = json.dumps(facts, indent=1), _groups_text(facts)
    _write(folder / "ablations.json", document + "\n")
    _write(folder / "ablations.md", text)
    print(document if config.json else f"{text}\nwritten: {folder / 'ablations.md'}, {folder / 'ablations.json'}")


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from None


def _what_is_compared(config: ComparisonConfig, run: EvaluatedRun) -> dict[str, Any]:
    """`run`: any one of them, since all were evaluated on the same images."""
    return {
        "data": run.kept.about["data"], "split": config.split, "views": config.views, "images": len(run.kept.labels),
        "resamples": config.resamples, "seed": config.seed,
    }  # fmt: skip


def _runs_of(config: AblationsConfig) -> tuple[list[EvaluatedRun], list[str]]:
    """The runs in runs_dir with predictions, by name, and the names of those without. Ensembles are left out."""
    runs, not_evaluated = [], []
    folder = Path(config.runs_dir)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not RunFolder(path).exists():
            continue
        try:
            runs.append(EvaluatedRun.load(config.runs_dir, path.name, config.split, config.views))
        except NotEvaluated:
            not_evaluated.append(path.name)
    return runs, not_evaluated


def _runs_text(facts: dict[str, Any]) -> str:
    rows = [["run", "model", "top-1 error", "top-5 error", "log-loss"]]
    for run in facts["runs"]:
        errors = [_error(run[f"top{k}_error"], run[f"top{k}_interval"]) for k in TOP_K]
        rows.append([run["run"], run["model"], *errors, f"{run['log_loss']:.4f}"])
    lines = [
        f"{_measured_on(facts)}; errors in %, with 95 % intervals", "", _table(rows), "",
        f"differences in points, with 95 % intervals (paired bootstrap, {facts['resamples']:,} resamples)",
    ]  # fmt: skip
    for pair in facts["differences"]:
        lines.append(f"{pair['second']} − {pair['first']}")
        for k in TOP_K:
            low, high = interval = pair[f"top{k}_interval"]
            zero = "   zero lies within" if low <= 0 <= high else ""
            lines.append(f"  top-{k}  {_difference(pair[f'top{k}_difference'], interval)}{zero}")
        if paper := pair.get("paper"):
            lines.append(f"  {_claim(paper)}")
            if both := _both(paper):
                lines.append(f"  here that would be {both}; the paper measured on all of ILSVRC, and other data, or "
                             "one run of each, need not agree")  # fmt: skip
            lines += [f"  {line}" for line in _recorded(paper)]
    training = _training_text(facts["training"], "run")
    return "\n".join([*lines, "", *training] if training else lines)


def _training_text(training: dict[str, Any], of: str) -> list[str]:
    """What `while_training` found, as a table in Markdown, a row for each run or group (`of`); no lines if there is
    nothing.
    """
    if not training["groups"]:
        return []
    rows = [
        [of, "epochs", "first epoch's loss", f"epochs to a loss of {training['train_loss']:.3f}",
         "training error", "val − training", "colourfulness of conv1"]
    ]  # fmt: skip
    for group in training["groups"]:
        colours = "; ".join(
            ", ".join(f"{name} {value:.2f}" for name, value in columns.items()) for columns in group["colourfulness"]
        )
        error, val = group["train_top1_error"], group["val_top1_error"]
        rows.append(
            [group["group"], f"{group['epochs']:g}", f"{group['first_train_loss']:.3f}",
             f"{group['epochs_to_train_loss']:.1f}", f"{100 * error:.1f}", points(val - error), colours]
        )  # fmt: skip
    about = ("training: losses and top-1 errors (%) are means over an epoch, with augmentation and dropout; that of "
             "val is of one view after the last epoch")  # fmt: skip
    return [about, "", _table(rows)]


def _groups_text(facts: dict[str, Any]) -> str:
    """A table in Markdown, and notes on it as a list."""
    notes = []
    rows = [
        ["group", "seeds", *(f"top-{k} error (range)" for k in TOP_K)]
        + [cell for k in TOP_K for cell in (f"difference top-{k}", "paper", "log of 2012", "")]
    ]
    for group in facts["groups"]:
        errors = [_error(group[f"top{k}_error"], group[f"top{k}_range"]) for k in TOP_K]
        difference = group.get("difference")
        differences = [cell for k in TOP_K for cell in _difference_cells(difference, k)]
        rows.append([group["group"], str(len(group["seeds"])), *errors, *differences])
        if group["checkpoints"] != ["last"]:
            notes.append(f"{group['group']}: evaluated at checkpoint {', '.join(group['checkpoints'])}")
        if difference:
            notes += [f"{group['group']} − {facts['baseline']}: {note}" for note in _difference_notes(difference)]
    if facts["not_evaluated"]:
        notes.append(f"not evaluated, and left out: {', '.join(facts['not_evaluated'])}; `{facts['evaluate_them']}`")
    compared = [group["difference"] for group in facts["groups"] if "difference" in group]
    if any(len(difference["seeds"]) > 1 for difference in compared):
        notes.append("over several seeds: the mean of the differences between runs of the same seed, with Student's t "
                     "interval; it covers other seeds, not other test images, and is wide with few seeds")  # fmt: skip
    if any(difference["paper"] for difference in compared):
        notes.append(
            "the paper and its authors' logs measured on all of ILSVRC, and one run of each; other data need not agree"
        )
    head = (
        f"{_measured_on(facts)}; errors in %, mean over seeds; differences to {facts['baseline']} in points, with 95 % "
        "intervals"
    )
    text = f"{head}\n\n{_table(rows)}\n" + "".join(f"\n- {note}" for note in notes) + "\n"
    training = "\n".join(_training_text(facts["training"], "group"))
    return f"{text}\n{training}\n" if training else text


def _difference_cells(difference: dict[str, Any] | None, k: int) -> list[str]:
    """The difference, the paper's, the log's, and which of zero and the paper's the interval holds."""
    if not difference or not difference["seeds"]:
        return ["", "", "", ""]
    paper, key = difference["paper"], f"top{k}_difference"
    theirs = paper and paper[key]
    log = paper and paper["recorded"] and paper["recorded"][key]
    holds = ["zero within" if difference[f"top{k}_zero_within"] else "zero outside"]
    if theirs is not None:
        holds.append("paper's within" if difference[f"top{k}_paper_within"] else "paper's outside")
    ours = _difference(difference[f"top{k}"], difference[f"top{k}_interval"])
    cells = ["" if theirs is None else points(theirs), "" if log is None else points(log, _LOG_DIGITS)]
    return [ours, *cells, ", ".join(holds)]


def _difference_notes(difference: dict[str, Any]) -> list[str]:
    notes = []
    if difference["left_out"]:
        seeds = ", ".join(map(str, difference["left_out"]))
        notes.append(f"only one of the two has seed {seeds}, left out of the difference")
    if not difference["seeds"]:
        notes.append("no seed in common, so no difference")
    if len(difference["seeds"]) == 1:
        notes.append("one seed; the interval covers the sampling of test images (paired bootstrap), not of seeds")
    if difference["paper"]:
        notes += [_claim(difference["paper"]), *_recorded(difference["paper"])]
    return notes


def _claim(paper: dict[str, Any]) -> str:
    also = f"; the two differ in more than that: {', '.join(also)}" if (also := paper["also_different"]) else ""
    whose = f"the paper, section {paper['section']}" if paper["section"] else "not in the paper"
    return f"{whose}: {paper['claim']}{also}"


def _recorded(paper: dict[str, Any]) -> list[str]:
    """What the logs of 2012 have of the pair: a line, or none."""
    if not (log := paper["recorded"]):
        return []
    better, worse = log["nets"]
    both = _both(log, _LOG_DIGITS)
    return [f"log of 2012: nets {better} and {worse} on {log['data']}, one run of each, differ by {both}; the top-1 "
            f"errors of near-equal nets spread by about ±{SPREAD}"]  # fmt: skip


def _both(differences: dict[str, Any], digits: int = 1) -> str:
    """The differences that are known, top-1 / top-5."""
    known = (differences[f"top{k}_difference"] for k in TOP_K)
    return " / ".join(points(difference, digits) for difference in known if difference is not None)


def _measured_on(facts: dict[str, Any]) -> str:
    return f"{facts['images']:,} images of {facts['data']['name']}, split {facts['split']}, views={facts['views']}"


def _error(fraction: float, ends: Interval) -> str:
    """An error in percent, with the ends of an interval or a range."""
    return f"{100 * fraction:.1f} ({percent_interval(ends)})"


def _difference(fraction: float, interval: Interval) -> str:
    """A difference in percentage points, with the ends of its interval."""
    low, high = interval
    return f"{points(fraction)} ({points(low)} to {points(high)})"


def _table(rows: list[list[str]]) -> str:
    """A table in Markdown, with aligned columns; the first row is the head."""
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


if __name__ == "__main__":
    main(jobs, compare)
