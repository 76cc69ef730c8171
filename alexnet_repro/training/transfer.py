"""Starting from the weights of another run (section 6, CNN*): every layer but fc8, whose units are the classes, or the
layers that are named.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from alexnet_repro.config import ModelConfig, TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.model import AlexNet
from alexnet_repro.runs.checkpoint import Checkpoint, fingerprint
from alexnet_repro.runs.folder import LAST, RunFolder
from alexnet_repro.runs.settings import GROUP_NAMES, OF_INITIALISATION, differences
from alexnet_repro.weights.operations import joined_weights
from data_prep.common.cli import checked
from data_prep.common.errors import RequestError

_NEW_LAYER = "fc8"
_NAMED = 2  # layers of another shape that an error message names


def take_weights(
    config: TrainConfig, data: PreparedData, model: AlexNet, folder: RunFolder
) -> tuple[dict[str, Any], str] | None:
    """Loads weights and biases of run `config.init_from` into the initialised `model`: of the layers
    `config.init_layers`, or of all but fc8. The others keep their own.

    Returns where the weights come from, for the checkpoints of the run that starts from them, and the same for people,
    a line a layer. None if no run is named, or if this one has a checkpoint, from which it continues.
    RequestError if the named run or its checkpoint does not exist or does not fit.
    """
    if config.source_folder is None or folder.has_checkpoint():
        return None
    asked, checkpoint_name = f"init_from={config.init_from}", config.init_checkpoint or LAST
    try:
        source = RunFolder(config.source_folder).checkpoint(checkpoint_name)
    except RequestError as error:
        raise RequestError(f"{asked}: {error}") from None
    layers = config.init_layers or [layer for layer in model.layers() if layer != _NEW_LAYER]
    _refuse_unless_it_fits(asked, config, data, model, source, layers)
    taken = {name: tensor for name, tensor in source.weights.items() if _layer(name) in layers}
    model.load_state_dict({**model.state_dict(), **taken})
    record = {
        "run": config.init_from, "checkpoint": checkpoint_name, "epoch": source.epoch, "step": source.step,
        "model": source.model["name"], "data": source.data, "fingerprint": fingerprint(source),
        "init_from": source.init_from, "layers": config.init_layers,
    }  # fmt: skip
    return record, _summary(config, checkpoint_name, model, source, layers)


def _refuse_unless_it_fits(
    asked: str, config: TrainConfig, data: PreparedData, model: AlexNet, source: Checkpoint, layers: Sequence[str]
) -> None:
    """RequestError unless columns, channels, the shapes of `layers` and what is done to the inputs are the same, and
    both networks have those layers, or where config names none, the same ones.
    """
    theirs, their_name = source.model, source.model["name"]
    remedy = f"give model={their_name}" if their_name != config.model.name else "give the same model.* settings"
    if theirs["columns"] != config.model.columns:
        raise RequestError(f"{asked}: has model.columns={theirs['columns']}, not {config.model.columns}; {remedy}")
    if (channels := source.mean_image.shape[-1]) != data.channels:
        raise RequestError(f"{asked}: was trained on images of {channels} channels, and those of {data.folder} have "
                           f"{data.channels}; choose another data set")  # fmt: skip
    there, here = _shapes(source.weights), _shapes(model.state_dict())
    lacking = [layer for layer in layers if layer not in there or layer not in here]
    if config.init_layers and lacking:
        where = f"{asked} lacks" if lacking[0] not in there else "this network lacks"
        raise RequestError(f"init_layers: {where} {lacking[0]}; leave it out of init_layers")
    if not config.init_layers and (apart := sorted(there.keys() ^ here.keys())):
        layer = apart[0]
        which = f"has {layer}, which this network lacks" if layer in there else f"lacks {layer}, which this network has"
        raise RequestError(f"{asked}: {which}; {remedy}, or take some layers alone, init_layers=[conv1,...]")
    other = [f"{layer} is {_x(there[layer])}, not {_x(here[layer])}" for layer in layers if there[layer] != here[layer]]
    if other:
        more = f", {len(other) - _NAMED} more" if len(other) > _NAMED else ""
        raise RequestError(f"{asked}: has layers of another shape ({', '.join(other[:_NAMED])}{more}); {remedy}")
    for key, setting, ours in (
        ("mean", "augment.mean", config.augment.mean),
        ("scale", "augment.input_scale", config.augment.input_scale),
    ):
        if source.inputs[key] != ours:
            raise RequestError(f"{asked}: its weights were trained on inputs with {setting}={source.inputs[key]}, not "
                               f"{ours}; give {setting}={source.inputs[key]}")  # fmt: skip


def _summary(config: TrainConfig, checkpoint: str, model: AlexNet, source: Checkpoint, layers: Sequence[str]) -> str:
    """Origin, shape and standard deviation of each layer's weights, and a warning for each setting that differs."""
    lines = [f"weights of run {config.init_from}, checkpoint {checkpoint}, after {source.epoch} epochs on "
             f"{source.data['description']}:"]  # fmt: skip
    wide = max(6, *(len(layer) + 1 for layer in model.layers()))
    for layer, own in joined_weights(model, model.state_dict()).items():
        origin = f"from {config.init_from}" if layer in layers else f"new, drawn by seed {config.seed}"
        lines.append(f"  {layer:<{wide}}{_x(own.weight.shape):>16}  std {own.weight.std():.5f}  {origin}")
    theirs, ours = {"model": checked(OmegaConf.create(source.model), ModelConfig)}, {"model": config.model}
    changed = differences(theirs, ours, ignore=(*GROUP_NAMES, *OF_INITIALISATION))
    lines += [f"warning: {key}={here}, and {config.init_from} had {there}" for key, (there, here) in changed.items()]
    return "\n".join(lines)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's weights, the kernels or units of all columns counted together."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in weights.items():
        if name.endswith(".weight"):
            before = shapes.get(_layer(name), (0,))[0]
            shapes[_layer(name)] = (before + tensor.shape[0], *tensor.shape[1:])
    return shapes


def _layer(name: str) -> str:
    """conv3 of conv3.a.weight."""
    return name.split(".")[0]


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
