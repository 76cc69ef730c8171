"""report.md and report.json: what a run reached, on which data, beside the paper's tables."""

import json
from pathlib import Path
from typing import Any

from alexnet_repro.reporting.paper_numbers import TABLE_1, TABLE_2
from data_prep.format import write_atomically


def write_report(folder: Path, facts: dict[str, Any]) -> Path:
    """Writes `facts` (see evaluate.py) to report.json, and the same for people to report.md, whose path is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "report.json", lambda file: file.write(document.encode()))
    text = _markdown(facts)
    write_atomically(folder / "report.md", lambda file: file.write(text.encode()))
    return folder / "report.md"


def _markdown(facts: dict[str, Any]) -> str:
    rows = [
        f"| this run | {facts['model']} | {facts['data']['name']} {facts['split']} | {view['views']} "
        f"| **{100 * view['top1_error']:.1f}** | **{100 * view['top5_error']:.1f}** |"
        for view in facts["results"]
    ]
    for row in (*TABLE_2, *TABLE_1):
        views = "–" if row.views is None else str(row.views)
        rows.append(
            f"| paper, {row.table} | {row.model} | {row.data} | {views} | {_or_dash(row.top1)} | {_or_dash(row.top5)} |"
        )
    differences = "".join(f"- {line}\n" for line in facts["differs_from_paper"])
    machine_lines = "".join(f"- {key}: {value}\n" for key, value in facts["machine"].items())
    return f"""# Report of run {facts["run"]}

{_comparability(facts)}
{_selection(facts)}
Evaluated: {facts["images"]:,} {facts["split"]} images of {facts["data"]["name"]}.
Checkpoint: {facts["checkpoint"]}, after {facts["epochs"]} epochs ({facts["steps"]:,} steps).

| | model | data | views | top-1 error (%) | top-5 error (%) |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Views: 1 is the centre patch; 10 are the four corners, the centre and their mirror images, softmax outputs averaged
(section 4.1). Log-loss: {", ".join(f"{view['log_loss']:.4f} ({view['views']})" for view in facts["results"])} nats.

## What differs from the paper's setting

{differences or "Nothing in the configuration." + chr(10)}
## Machine

{machine_lines}- evaluation: {facts["images_per_second"]:.1f} images/s, {facts["seconds"]:.0f} s
"""


def _comparability(facts: dict[str, Any]) -> str:
    """Whether the paper's rows may be read beside this run's: decided by what it was trained and evaluated on."""
    if facts["comparable"]:
        return "This run used the whole of ILSVRC-2012: its errors compare with those of Table 2 for the same views."
    trained = facts["trained_on"]["description"]
    return (
        f"**This run was trained on {trained} and evaluated on {facts['data']['description']}, split {facts['split']}: "
        "not what the paper's tables report.** Their rows are shown for orientation; the numbers do not compare."
    )


def _selection(facts: dict[str, Any]) -> str:
    if facts["checkpoint"] != "best":
        return ""
    return (
        "\nThe checkpoint was chosen by the validation error of the centre patch, which flatters that error a little.\n"
    )


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
