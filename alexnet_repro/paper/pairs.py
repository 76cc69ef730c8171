"""Whether two runs are a pair of the paper or of the logs of 2012: its claim, and in what else the two differ."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from alexnet_repro.config import ModelConfig, TrainConfig
from alexnet_repro.model.alexnet import AlexNet, model_config
from alexnet_repro.paper.numbers import ABLATIONS, Ablation
from alexnet_repro.runs.settings import GROUP_NAMES, OF_AN_ABLATION, SCALE, differences, without_seed

_NOISE = "augment.colour_noise"
_network = cache(model_config)  # composing a configuration takes a moment


@dataclass(frozen=True)
class PaperPair:
    ablation: Ablation
    sign: int  # 1: the second run is the one that was found worse; -1: the first
    also_different: tuple[str, ...]  # what sets the two apart besides

    def facts(self) -> dict[str, Any]:
        """The paper's difference of errors and that of the logs of 2012, second run minus first, as fractions, or None;
        plain values for a report.
        """
        ablation, recorded = self.ablation, self.ablation.recorded()
        return {
            "section": ablation.section,
            "claim": ablation.claim,
            **self._differences((ablation.top1, ablation.top5)),
            "recorded": recorded and {
                "nets": list(ablation.nets or ()), "data": ablation.recorded_on, **self._differences(recorded),
            },
            "also_different": list(self.also_different),
        }  # fmt: skip

    def _differences(self, errors: tuple[float | None, float | None]) -> dict[str, float | None]:
        """`errors`: of the worse network minus those of the better, in points."""
        keys = ("top1_difference", "top5_difference")
        return {
            key: None if error is None else self.sign * error / 100 for key, error in zip(keys, errors, strict=True)
        }


def pair_for(first: TrainConfig, second: TrainConfig) -> PaperPair | None:
    """Recognises an ablation by the networks themselves, whatever the runs are called and whatever their scale."""
    for sign, better, worse in ((1, first, second), (-1, second, first)):
        for ablation in ABLATIONS:
            if not (_is_network(better, ablation.better) and _is_network(worse, ablation.worse)):
                continue
            settings = without_seed(better), without_seed(worse)
            others = list(differences(*settings, only=OF_AN_ABLATION, ignore=GROUP_NAMES))
            if not _maps_in_proportion(better, worse, ablation):
                others.append("the size of the maps that the first dense layer reads")
            if ablation.better != ablation.worse:
                return PaperPair(ablation, sign, tuple(others))
            if better.augment.colour_noise > 0 and worse.augment.colour_noise == 0:
                return PaperPair(ablation, sign, tuple(key for key in others if key != _NOISE))
    return None


def _is_network(config: TrainConfig, name: str) -> bool:
    """Whether it is the network of conf/model/<name>.yaml, at whatever scale."""
    return not differences({"model": config.model}, {"model": _network(name)}, ignore=(*GROUP_NAMES, *SCALE))


def _maps_in_proportion(better: TrainConfig, worse: TrainConfig, ablation: Ablation) -> bool:
    """Whether the inputs of the two first dense layers are in proportion as they are at full size. At a small scale,
    rounding may leave one network with larger maps than the other.
    """
    a, b = _dense_inputs(better.model), _dense_inputs(worse.model)
    return a * _dense_inputs(_network(ablation.worse)) == b * _dense_inputs(_network(ablation.better))


def _dense_inputs(model: ModelConfig) -> int:
    with torch.device("meta"):
        layers = AlexNet(model, classes=10).layers()
    return next(layer.input_elements for name, layer in layers.items() if name.startswith("fc"))
