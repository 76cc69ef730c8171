"""What a run may be compared with: in what it differs from the paper's own, and the paper's row beside its errors."""

from collections.abc import Mapping
from typing import Any

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.paper.numbers import PaperRow
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.settings import GROUP_NAMES, OF_THE_PAPER, differences
from data_prep.common.cli import load
from data_prep.plan import PrepareConfig

ROUNDING = 0.05  # points: the paper prints one digit after the point


def beside(row: PaperRow, errors: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's row next to a run's errors, in percent, as the paper prints them: its name, and for top1 and top5 the
    paper's error, the run's minus it (in points), and whether the run's interval holds it.

    `errors`: as `metrics.error_rates`, fractions and their intervals.
    """
    result: dict[str, Any] = {"row": f"{row.table}, {row.model}, {row.data}"}
    for key, theirs in (("top1", row.top1), ("top5", row.top5)):
        if theirs is not None:
            low, high = (100 * end for end in errors[f"{key}_interval"])
            within = low - ROUNDING <= theirs <= high + ROUNDING
            difference = 100 * errors[f"{key}_error"] - theirs
            result |= {key: theirs, f"{key}_difference": difference, f"{key}_within": within}
    return result


def differences_from_paper(
    config: TrainConfig, checkpoint: Checkpoint, data: PreparedData, release: str | None
) -> list[str]:
    """In what the run departs from the paper, a line each: the data first, then the length of training, then settings.

    `data`: the data set that it was trained on; `release`: its `whole_release()`.
    """
    paper = load("train", TrainConfig)
    lines = [] if release else [f"trained on: {checkpoint.data['description']} (paper: all of ILSVRC)"]
    side, paper_side = checkpoint.mean_image.shape[0], load("prepare", PrepareConfig, ["src=-", "out=-"]).image_size
    if side != paper_side:
        lines.append(f"images: {side}x{side} pixels (paper: {paper_side}x{paper_side})")
    lines += _taken_from(checkpoint.init_from, config.model.conv6 is not None)
    if release and (rejected := len(data.manifest.rejected)):
        lines.append(f"images that preparation could not read, and left out: {rejected}")
    if checkpoint.epoch != paper.schedule.epochs:
        lines.append(f"trained for: {checkpoint.epoch} epochs (paper: about {paper.schedule.epochs})")
    settings = differences(config, paper, only=OF_THE_PAPER, ignore=GROUP_NAMES)
    return [*lines, *(f"{key}: {ours} (paper: {theirs})" for key, (ours, theirs) in settings.items())]


def _taken_from(init_from: dict[str, Any] | None, sixth_layer: bool) -> list[str]:
    """The run whose weights training began with, the run that began with before it, and so on. Only CNN* had one."""
    paper = "paper, CNN*: a run on the whole Fall-2011 release" if sixth_layer else "paper: none"
    if init_from is None:
        return [f"weights taken from: none ({paper})"] if sixth_layer else []
    lines = []
    while init_from:
        trained = f"{init_from['model']} trained on {init_from['data']['description']} for {init_from['epoch']} epochs"
        layers = f", {', '.join(init_from['layers'])} alone" if init_from.get("layers") else ""
        lines.append(f"weights taken from: run {init_from['run']}, {trained}{layers} ({paper})")
        init_from = init_from["init_from"]
    return lines
