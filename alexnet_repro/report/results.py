"""What report.json says: everything that was measured, and what it was measured on, as plain values.

Errors are fractions, log-loss is in nats, intervals are of 95 %.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation.metrics import class_errors, confusion_matrix, confusions, most_confused
from alexnet_repro.evaluation.predictions import KeptPredictions
from alexnet_repro.paper import comparable
from alexnet_repro.paper.numbers import PaperRow, paper_row
from alexnet_repro.runs.checkpoint import Checkpoint

_PAIRS, _MATRIX, _EXTREMES = 15, 10, 10  # confusions listed, classes in the matrix, best and worst classes


def error_rows(kept: KeptPredictions, paper: dict[int, PaperRow | None]) -> list[dict[str, Any]]:
    """One entry for each number of views. `paper`: its row that was measured in the same way, if there is one."""
    rows = []
    for views, view in sorted(kept.views.items()):
        errors, row = view.errors(), paper.get(views)
        rows.append({"views": views, **errors, "paper": comparable.beside(row, errors) if row else None})
    return rows


def class_results(kept: KeptPredictions) -> dict[str, Any]:
    """With the most views there are: errors by class, the best and the worst classes, and the confusions."""
    view, count = kept.most_views, len(kept.classes)

    def named(label: int) -> dict[str, str]:
        return {"wnid": kept.classes[label], "words": kept.class_names[label]}

    by_class = map(asdict, class_errors(view.rank, kept.labels, count))
    entries: list[dict[str, Any]] = [{**named(one.pop("label")), **one} for one in by_class]
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


def member_description(
    config: TrainConfig, checkpoint: Checkpoint, name: str, fingerprint: str, weight: float
) -> dict[str, Any]:
    """One of the runs that were evaluated, at its checkpoint `name`; `weight`: its share in the ensemble."""
    seconds = sum(row.get("seconds", 0.0) for row in checkpoint.history)
    images = sum(row.get("seconds", 0.0) * row.get("images_per_second", 0.0) for row in checkpoint.history)
    return {
        "run": config.run,
        "checkpoint": name,
        "model": config.model.name,
        "epochs": checkpoint.epoch,
        "steps": checkpoint.step,
        "trained_on": checkpoint.data,
        "fingerprint": fingerprint,
        "weight": weight,
        "training_seconds": seconds,
        "training_images_per_second": images / seconds if seconds else None,
    }


def comparison_with_paper(
    configs: Sequence[TrainConfig], checkpoints: Sequence[Checkpoint], data: PreparedData, split: str
) -> tuple[dict[str, Any], dict[int, PaperRow | None]]:
    """Whether the paper's numbers may stand beside these, what differs from its setting; and its rows by views."""
    same_data = all(checkpoint.data_fingerprint == data.fingerprint for checkpoint in checkpoints)
    release = data.whole_release() if same_data else None
    sixth = [config.model.conv6 is not None for config in configs]
    # In the paper, the networks with a sixth layer, and no others, were trained on the Fall-2011 release before.
    pretrained = [checkpoint.init_from is not None for checkpoint in checkpoints]
    networks = len(sixth), any(sixth)
    rows = {views: paper_row(release, split, views, *networks) if pretrained == sixth else None for views in (1, 10)}
    differences: dict[str, None] = {}
    for config, checkpoint in zip(configs, checkpoints, strict=True):
        lines = comparable.differences_from_paper(config, checkpoint, data, release)
        differences |= dict.fromkeys(lines if len(configs) == 1 else (f"{config.run}: {line}" for line in lines))
    return {"release": release, "comparable": any(rows.values()), "differs_from_paper": list(differences)}, rows
