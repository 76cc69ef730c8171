"""Whether two runs are one of the paper's ablations: the claim, and what else sets them apart."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from alexnet_repro.config import ModelConfig, SummaryConfig, TrainConfig
from alexnet_repro.model import AlexNet
from alexnet_repro.paper.numbers import ABLATIONS, Ablation
from alexnet_repro.runs.settings import flat
from data_prep.common.cli import load

_NOISE = "augment.colour_noise"
_GROUPS = ("augment", "optim", "schedule", "init_from")
_SCALE = ("width", "input_size")  # a pair in small is the same pair


@dataclass(frozen=True)
class Claim:
    ablation: Ablation
    sign: int  # 1: the second run is the one that the paper found worse; -1: the first
    otherwise: tuple[str, ...]  # settings in which the two differ besides


def claim_for(first: TrainConfig, second: TrainConfig) -> Claim | None:
    """By the networks themselves, not by what the runs are called, and whatever their scale."""
    for sign, better, worse in ((1, first, second), (-1, second, first)):
        for ablation in ABLATIONS:
            if not (_is_network(better, ablation.better) and _is_network(worse, ablation.worse)):
                continue
            others = [*_settings_apart(better, worse), *_maps_apart(better, worse, ablation)]
            if ablation.better != ablation.worse:
                return Claim(ablation, sign, tuple(others))
            if better.augment.colour_noise > 0 and worse.augment.colour_noise == 0:
                return Claim(ablation, sign, tuple(key for key in others if key != _NOISE))
    return None


def claim_facts(first: TrainConfig, second: TrainConfig) -> dict[str, Any] | None:
    """The paper's difference, second minus first, as fractions, and what else sets the two apart."""
    claim = claim_for(first, second)
    if claim is None:
        return None
    ablation = claim.ablation
    return {
        "section": ablation.section,
        "claim": ablation.claim,
        "top1_difference": claim.sign * ablation.top1 / 100,
        "top5_difference": None if ablation.top5 is None else claim.sign * ablation.top5 / 100,
        "also_different": list(claim.otherwise),
    }


def without_seed(run: str | None, seed: int) -> str | None:
    """NAME of NAME-SEED."""
    return run and run.removesuffix(f"-{seed}")


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """All settings by their dotted names; where a run begins with another of the same seed, without that seed."""
    return flat(asdict(config)) | {"init_from": without_seed(config.init_from, config.seed)}


def _is_network(config: TrainConfig, name: str) -> bool:
    return _unnamed(config.model) == _network(name)


def _maps_apart(better: TrainConfig, worse: TrainConfig, ablation: Ablation) -> list[str]:
    """In small, the two may end in maps of other sizes, though at full size they end in the same."""
    whole = [load("summary", SummaryConfig, [f"model={name}"]).model for name in (ablation.better, ablation.worse)]
    (a, b), (whole_a, whole_b) = ([_dense_input(m) for m in pair] for pair in ((better.model, worse.model), whole))
    return [] if a * whole_b == b * whole_a else ["the size of the maps that the first dense layer reads"]


def _dense_input(model: ModelConfig) -> int:
    with torch.device("meta"):
        layers = AlexNet(model, classes=10).layers()
    return next(layer.input_elements for name, layer in layers.items() if name.startswith("fc"))


@cache
def _network(name: str) -> dict[str, Any]:
    """Composing a configuration takes a moment."""
    return _unnamed(load("summary", SummaryConfig, [f"model={name}"]).model)


def _unnamed(config: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(config).items() if key not in ("name", *_SCALE)}


def _settings_apart(first: TrainConfig, second: TrainConfig) -> list[str]:
    a, b = (settings_of(config) for config in (first, second))
    groups = (key for key in a.keys() | b.keys() if key.split(".")[0] in _GROUPS and not key.endswith(".name"))
    keys = sorted([*groups, *(f"model.{key}" for key in _SCALE)])
    return [key for key in keys if a.get(key) != b.get(key)]
