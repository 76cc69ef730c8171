"""What a report says: everything that was measured, and what it was measured on, as plain values."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation.intervals import mean_interval, proportion_interval
from alexnet_repro.evaluation.metrics import TOP_K, class_errors, confusion_matrix, confusions, losses, most_confused
from alexnet_repro.evaluation.predictions import KeptPredictions, KeptView
from alexnet_repro.paper import comparable as setting
from alexnet_repro.paper.numbers import PaperRow
from alexnet_repro.paper.numbers import row as paper_row
from alexnet_repro.runs.checkpoint import Checkpoint

_PAIRS, _MATRIX, _EXTREMES = 15, 10, 10  # confusions listed, classes in the matrix, best and worst classes


def errors_of(view: KeptView) -> dict[str, Any]:
    """Fractions and nats, each with its 95 % interval."""
    images = len(view.rank)
    result: dict[str, Any] = {}
    for k in TOP_K:
        wrong = int((view.rank >= k).sum())
        result[f"top{k}_error"] = wrong / images
        result[f"top{k}_interval"] = proportion_interval(wrong, images)
    nats = losses(view.own)
    return {**result, "log_loss": float(nats.mean()), "log_loss_interval": mean_interval(nats)}


def results_of(kept: KeptPredictions, rows: dict[int, PaperRow | None]) -> list[dict[str, Any]]:
    """One entry for each number of views; `rows`: the paper's number that was measured as this was, if there is one."""
    results = []
    for views, view in sorted(kept.views.items()):
        errors = errors_of(view)
        row = rows.get(views)
        beside = None if row is None else setting.beside(
            row, {f"top{k}": errors[f"top{k}_error"] for k in TOP_K},
            {f"top{k}": errors[f"top{k}_interval"] for k in TOP_K},
        )  # fmt: skip
        results.append({"views": views, **errors, "paper": beside})
    return results


def class_facts(kept: KeptPredictions) -> dict[str, Any]:
    """Of the most views there are: errors by class, the best and the worst, and what was taken for what."""
    view, count = kept.most_views, len(kept.classes)

    def named(label: int) -> dict[str, str]:
        return {"wnid": kept.classes[label], "words": kept.words[label]}

    by_class = class_errors(view.rank, kept.labels, count)
    entries = [{**named(one.label), **{k: v for k, v in asdict(one).items() if k != "label"}} for one in by_class]
    ordered = sorted(entries, key=lambda one: (one["top1_error"], one["top5_error"]))
    extremes = min(_EXTREMES, len(ordered) // 2)
    guesses = view.top[:, 0].astype(np.int64)
    pairs = confusions(guesses, kept.labels, count, _PAIRS)
    chosen = most_confused(pairs, _MATRIX)
    return {
        "per_class": entries,
        "best": ordered[:extremes],
        "worst": ordered[::-1][:extremes],
        "confusions": [
            {"label": named(p.label), "guess": named(p.guess), "count": p.count, "images": p.images} for p in pairs
        ],
        "matrix": {
            "classes": [named(label) for label in chosen],
            "counts": confusion_matrix(guesses, kept.labels, chosen).tolist(),
        },
    }


def member_facts(
    run: str, name: str, config: TrainConfig, checkpoint: Checkpoint, drawn_from: str, weight: float
) -> dict[str, Any]:
    """One of the runs that were evaluated."""
    history = checkpoint.history
    done = [row for row in history if row["epoch"] <= checkpoint.epoch]
    seconds = sum(row.get("seconds", 0.0) for row in done)
    images = sum(row.get("seconds", 0.0) * row.get("images_per_second", 0.0) for row in done)
    return {
        "run": run,
        "checkpoint": name,
        "model": config.model.name,
        "epochs": checkpoint.epoch,
        "steps": checkpoint.step,
        "trained_on": checkpoint.data,
        "fingerprint": drawn_from,
        "weight": weight,
        "training_seconds": seconds,
        "training_images_per_second": images / seconds if seconds else None,
    }


def setting_facts(
    configs: Sequence[TrainConfig], checkpoints: Sequence[Checkpoint], data: PreparedData, split: str
) -> tuple[dict[str, Any], dict[int, PaperRow | None]]:
    """Whether the paper's numbers may stand beside these, why, and which."""
    plan = data.identity()["plan"]
    same_data = all(checkpoint.data["plan"] == plan for checkpoint in checkpoints)
    release = data.whole_release() if same_data else None
    sixth = [config.model.conv6 is not None for config in configs]
    # The paper's networks with a sixth layer, and no others, had seen other pictures before.
    before = [checkpoint.init_from is not None for checkpoint in checkpoints]
    networks = len(sixth), any(sixth)
    rows = {views: paper_row(release, split, views, *networks) if before == sixth else None for views in (1, 10)}
    differences: dict[str, None] = {}
    for config, checkpoint in zip(configs, checkpoints, strict=True):
        lines = setting.differences_from_paper(config, checkpoint, data, release)
        differences |= dict.fromkeys(lines if len(configs) == 1 else (f"{config.run}: {line}" for line in lines))
    facts = {"release": release, "comparable": any(rows.values()), "differs_from_paper": list(differences)}
    return facts, rows
