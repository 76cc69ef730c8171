"""What a run's numbers may be compared with, and in what its setting differs from the paper's."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.paper.numbers import TABLE_1, TABLE_2, PaperRow
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.settings import flat
from data_prep.common.cli import load
from data_prep.plan import PrepareConfig

_GROUPS = ("model", "augment", "optim", "schedule")
_PRECISION = "runtime.precision"
ROUNDING = 0.05  # points: the paper prints one digit after the point


def paper_row(release: str | None, split: str, views: int, sixth_layers: Sequence[bool]) -> PaperRow | None:
    """The row that was measured as this was: same pictures, same views, as many networks.

    `sixth_layers`: of each run, whether it has the sixth convolutional layer of CNN*.
    """
    for row in (*TABLE_1, *TABLE_2):
        same = row.data == f"{release} {split}" and row.views == views and row.networks == len(sixth_layers)
        if same and row.sixth_layer == any(sixth_layers):
            return row
    return None


def beside(row: PaperRow, errors: dict[str, float], intervals: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """`errors` and `intervals` as fractions, by top1 and top5; the answer in percent, as the paper prints them."""
    result: dict[str, Any] = {"row": f"{row.table}, {row.model}, {row.data}"}
    for key, theirs in (("top1", row.top1), ("top5", row.top5)):
        if theirs is not None:
            low, high = (100 * end for end in intervals[key])
            within = low - ROUNDING <= theirs <= high + ROUNDING
            result |= {key: theirs, f"{key}_difference": 100 * errors[key] - theirs, f"{key}_within": within}
    return result


def differences_from_paper(
    config: TrainConfig, checkpoint: Checkpoint, data: PreparedData, release: str | None
) -> list[str]:
    """Every setting of the run that the paper has otherwise: data first, then the length of training, then the rest.

    `release`: as `PreparedData.whole_release` says of the data that the run was trained on.
    """
    paper = load("train", TrainConfig)
    differences = [] if release else [f"trained on: {checkpoint.data['description']} (paper: all of ILSVRC)"]
    side, paper_side = checkpoint.mean_image.shape[0], load("prepare", PrepareConfig, ["src=-", "out=-"]).image_size
    if side != paper_side:
        differences.append(f"pictures: {side}x{side} pixels (paper: {paper_side}x{paper_side})")
    differences += _taken_from(checkpoint.init_from, config.model.conv6 is not None)
    if release and (rejected := len(data.manifest.rejected)):
        differences.append(f"pictures that preparation could not read, and left out: {rejected}")
    if checkpoint.epoch != paper.schedule.epochs:
        differences.append(f"trained for: {checkpoint.epoch} epochs (paper: about {paper.schedule.epochs})")
    ours, theirs = flat(asdict(config)), flat(asdict(paper))
    for key in sorted(ours.keys() | theirs.keys()):
        named = key.split(".")[0] in _GROUPS and not key.endswith(".name")
        if (named or key == _PRECISION) and ours.get(key) != theirs.get(key):
            differences.append(f"{key}: {ours.get(key)} (paper: {theirs.get(key)})")
    return differences


def _taken_from(init_from: dict[str, Any] | None, sixth_layer: bool) -> list[str]:
    """Where the weights come from that training began with, and theirs; only CNN* had any."""
    paper = "paper, CNN*: a run on the whole Fall-2011 release" if sixth_layer else "paper: none"
    if init_from is None:
        return [f"weights taken from: none ({paper})"] if sixth_layer else []
    lines = []
    while init_from:
        trained = f"{init_from['model']} trained on {init_from['data']['description']} for {init_from['epoch']} epochs"
        lines.append(f"weights taken from: run {init_from['run']}, {trained} ({paper})")
        init_from = init_from["init_from"]
    return lines
