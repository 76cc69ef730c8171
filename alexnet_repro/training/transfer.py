"""Beginning with the weights of another run: every layer but fc8, whose units are the classes (section 6, CNN*)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from alexnet_repro.config import ModelConfig, TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.model import AlexNet
from alexnet_repro.runs.checkpoint import Checkpoint, fingerprint, weights_of
from alexnet_repro.runs.folder import LAST, RunFolder
from alexnet_repro.runs.settings import flat
from data_prep.common.cli import checked
from data_prep.common.errors import RequestError

_RENEWED = "fc8"
_NAMED = 2  # layers of another shape that a refusal names
_OF_NO_CONSEQUENCE = ("name", "weight_std", "bias")  # last parts of settings that trained weights do not depend on


@dataclass(frozen=True)
class Taken:
    facts: dict[str, Any]  # what the weights are, for the run's checkpoints
    told: str  # the same for people, layer by layer


def take_weights(config: TrainConfig, data: PreparedData, model: AlexNet, folder: RunFolder) -> Taken | None:
    """Puts the weights and biases of run `config.init_from` into `model`, which is initialised: fc8 stays as drawn.

    None if there is nothing to take: no run is named, or the run has begun, and goes on from its own checkpoint.
    RequestError if the run or its checkpoint is not there, or does not fit.
    """
    if config.source_folder is None or folder.begun():
        return None
    run, name = f"init_from={config.init_from}", config.init_checkpoint or LAST
    try:
        source = RunFolder(config.source_folder).checkpoint(name)
    except RequestError as error:
        raise RequestError(f"{run}: {error}") from None
    _refuse_what_does_not_fit(run, config, data, model, source)
    taken = {name: tensor for name, tensor in source.weights.items() if _layer(name) != _RENEWED}
    model.load_state_dict({**model.state_dict(), **taken})
    facts = {
        "run": config.init_from, "checkpoint": name, "epoch": source.epoch, "step": source.step,
        "model": source.model["name"], "data": source.data, "fingerprint": fingerprint(source),
        "init_from": source.init_from,
    }  # fmt: skip
    return Taken(facts, _told(config, name, model, source))


def _refuse_what_does_not_fit(
    run: str, config: TrainConfig, data: PreparedData, model: AlexNet, source: Checkpoint
) -> None:
    theirs, name = source.model, source.model["name"]
    remedy = f"give model={name}" if name != config.model.name else "give the same model.* settings"
    if theirs["columns"] != config.model.columns:
        raise RequestError(f"{run}: has model.columns={theirs['columns']}, not {config.model.columns}; {remedy}")
    if (channels := source.mean_image.shape[-1]) != data.channels:
        raise RequestError(f"{run}: was trained on pictures of {channels} channels, and those of {data.folder} have "
                           f"{data.channels}; choose another data set")  # fmt: skip
    there, here = _shapes(source.weights), _shapes(weights_of(model))
    if apart := sorted(there.keys() ^ here.keys()):
        layer = apart[0]
        which = f"has {layer}, which this network lacks" if layer in there else f"lacks {layer}, which this network has"
        raise RequestError(f"{run}: {which}; {remedy}")
    other = [f"{layer} is {_x(there[layer])}, not {_x(shape)}" for layer, shape in here.items()
             if layer != _RENEWED and there[layer] != shape]  # fmt: skip
    if other:
        more = f", {len(other) - _NAMED} more" if len(other) > _NAMED else ""
        raise RequestError(f"{run}: has layers of another shape ({', '.join(other[:_NAMED])}{more}); {remedy}")
    for key, setting, ours in (
        ("mean", "augment.mean", config.augment.mean),
        ("scale", "augment.input_scale", config.augment.input_scale),
    ):
        if source.inputs[key] != ours:
            raise RequestError(f"{run}: its weights were trained on inputs with {setting}={source.inputs[key]}, not "
                               f"{ours}; give {setting}={source.inputs[key]}")  # fmt: skip


def _told(config: TrainConfig, checkpoint: str, model: AlexNet, source: Checkpoint) -> str:
    lines = [f"weights of run {config.init_from}, checkpoint {checkpoint}, after {source.epoch} epochs on "
             f"{source.data['description']}:"]  # fmt: skip
    weights = weights_of(model)
    for layer, shape in _shapes(weights).items():
        std = torch.cat([tensor.flatten() for name, tensor in weights.items() if _is_weight(name, layer)]).std()
        origin = f"new, drawn by seed {config.seed}" if layer == _RENEWED else f"from {config.init_from}"
        lines.append(f"  {layer:<6}{_x(shape):>16}  std {std:.5f}  {origin}")
    theirs = flat(asdict(checked(OmegaConf.create(source.model), ModelConfig)))
    ours = flat(asdict(config.model))
    for key in sorted(theirs.keys() | ours.keys()):
        matters = key.split(".")[-1] not in _OF_NO_CONSEQUENCE
        if matters and theirs.get(key) != ours.get(key):
            lines.append(f"warning: model.{key}={ours.get(key)}, and {config.init_from} had {theirs.get(key)}")
    return "\n".join(lines)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of each layer's weights, the kernels or units of all columns together."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in weights.items():
        layer = _layer(name)
        if _is_weight(name, layer):
            shapes[layer] = (shapes.get(layer, (0,))[0] + tensor.shape[0], *tensor.shape[1:])
    return shapes


def _layer(name: str) -> str:
    return name.split(".")[0]


def _is_weight(name: str, layer: str) -> bool:
    """Whether `name` is conv3.a.weight and the like of this layer."""
    return _layer(name) == layer and name.endswith(".weight")


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
