"""The table of differences as Markdown, which a terminal shows as well."""

from typing import Any

from alexnet_repro.reporting.progress import points

_HEAD = ["group", "seeds", "top-1 error (range)", "top-5 error (range)"]
_DIFFERENCE = ["difference top-1", "paper", "", "difference top-5", "paper", ""]


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
