"""A network as other programs write it, a list of operations, as settings of conf/model/ and weights by layer.

What sets such a network apart from the paper's (groups, padding, the order of pooling and normalisation) is in its
operations, and becomes settings. Nothing here knows any one of these networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alexnet_repro.model import AlexNet
from data_prep.common.errors import RequestError

CONV, DENSE = "conv", "dense"


@dataclass
class Operation:
    """One layer of a file. `kind`: conv, dense, or a step that follows weights: activation, norm, pool, dropout.

    `settings`, by kind: conv size, stride, padding, group; norm size, alpha (of the mean over the window, as Caffe and
    ONNX have it), beta, k; pool size, stride, ceil (whether a last window that runs past the edge counts); dropout p.
    """

    name: str  # in the file
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    weight: Tensor | None = None  # [kernels, channels / group, size, size] or [units, inputs]
    bias: Tensor | None = None


@dataclass
class LayerWeights:
    name: str  # in the file
    weight: Tensor  # of all columns, column a first
    bias: Tensor


@dataclass
class ForeignNetwork:
    settings: dict[str, Any]  # of ModelConfig: all that a file determines
    layers: dict[str, LayerWeights]  # by the paper's names


def network_of_operations(operations: Sequence[Operation], input_size: int) -> ForeignNetwork:
    """`operations`: in the order in which they are computed, without softmax and loss; `input_size`: pixels.

    RequestError, with the name in the file, for what is no network of conv1 to conv6 and fc6 to fc8 in columns.
    """
    weighted = [op for op in operations if op.kind in (CONV, DENSE)]
    convolutions = [op for op in weighted if op.kind == CONV]
    dense = [op for op in weighted if op.kind == DENSE]
    if weighted != convolutions + dense or not 1 <= len(convolutions) <= 6 or not 1 <= len(dense) <= 3:
        raise RequestError(
            f"{len(convolutions)} convolutions and {len(dense)} dense layers: an AlexNet has 1 to 6, then 1 to 3"
        )
    names = [f"conv{i + 1}" for i in range(len(convolutions))] + [*("fc6", "fc7")[: len(dense) - 1], "fc8"]
    if operations[0] is not convolutions[0] or operations[-1] is not dense[-1]:
        odd = operations[0] if operations[0] is not convolutions[0] else operations[-1]
        raise RequestError(f"{odd.name}: a network begins with a convolution and ends with a dense layer")
    columns = max(op.settings["group"] for op in convolutions)
    settings: dict[str, Any] = {
        "columns": columns, "input_size": input_size, "pad_right_bottom": 0, "dropout_rescaled": True,
        **{name: None for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7")},
    }  # fmt: skip
    layers: dict[str, LayerWeights] = {}
    names_left = iter(names)
    side, layer = input_size, ""  # of the maps so far; the layer that steps belong to
    for op in operations:
        if op.kind in (CONV, DENSE):
            layer = next(names_left)
            layers[layer] = _weights(op)
        if op.kind == CONV:
            settings[layer] = _convolution(op, columns, first=layer == "conv1")
            side = (side + 2 * op.settings["padding"] - op.settings["size"]) // op.settings["stride"] + 1
        elif op.kind == DENSE:
            settings[layer] = {"reads": "both"}
            if layer != "fc8":
                settings[layer] |= {"units": len(layers[layer].weight), "then": []}
        else:
            step = op.kind
            if op.kind == "norm":
                _same(settings, "norm", _norm(op, columns), op)
            elif op.kind == "pool":
                size, stride = op.settings["size"], op.settings["stride"]
                _same(settings, "pool", {"size": size, "stride": stride}, op)
                over = (side - size) % stride != 0
                step = "floor_pool" if over and not op.settings["ceil"] else "pool"
                side = (side - size) // stride + 1 + (over and op.settings["ceil"])
            elif op.kind == "dropout":
                _same(settings, "dropout", op.settings["p"], op)
            settings[layer]["then"].append(step)
    return ForeignNetwork(settings, layers)


def _convolution(op: Operation, columns: int, first: bool) -> dict[str, Any]:
    group = op.settings["group"]
    if group not in (1, columns) or (first and group != 1):
        allowed = "1: every column sees the image" if first else f"1 or {columns}"
        raise RequestError(f"{op.name}: {group} groups; must be {allowed}")
    assert op.weight is not None
    kept = {key: op.settings[key] for key in ("size", "stride", "padding")}
    reads = "own" if first or group == columns else "both"
    return {"kernels": len(op.weight), **kept, "reads": reads, "then": []}


def _norm(op: Operation, columns: int) -> dict[str, Any]:
    """Their alpha is divided by the size of the window, and the window runs over all maps of the layer."""
    size, alpha, beta, k = (op.settings[key] for key in ("size", "alpha", "beta", "k"))
    norm = {"size": size, "alpha": _short(alpha / size), "beta": _short(beta), "k": _short(k)}
    return norm if columns == 1 else {**norm, "across": "layer"}


def _short(number: float) -> float:
    """The decimal that a float32 of a file was written as: 9.9999997e-05 is 1e-4."""
    return float(f"{number:.6g}")


def _same(settings: dict[str, Any], key: str, value: Any, op: Operation) -> None:
    if settings.setdefault(key, value) != value:
        raise RequestError(f"{op.name}: {key} is {value}, and {settings[key]} before; there is one for all layers")


def _weights(op: Operation) -> LayerWeights:
    assert op.weight is not None
    bias = op.weight.new_zeros(len(op.weight)) if op.bias is None else op.bias
    return LayerWeights(op.name, op.weight, bias)


def column_weights(model: AlexNet, layers: Mapping[str, LayerWeights]) -> dict[str, Tensor]:
    """`layers` cut into columns, as a state dict of `model`; column a has the first maps and units.

    RequestError, with the name in the file, for a layer of another shape.
    """
    state = {}
    for layer, module in model.layers().items():
        if layer not in layers:
            raise RequestError(f"{layer}: is not in the file, and the network has it")
        parts, own = module.parts(), layers[layer]
        for key, whole in (("weight", own.weight), ("bias", own.bias)):
            shape = getattr(parts[0], key).shape
            wanted = (shape[0] * len(parts), *shape[1:])
            if whole.shape != wanted:
                found, needed = ("x".join(map(str, sizes)) for sizes in (whole.shape, wanted))
                raise RequestError(f"{own.name}: {layer}'s {key} is {found} in the file, the network needs {needed}")
            for column, piece in zip(module.column_names, whole.chunk(len(parts)), strict=True):
                state[f"{layer}.{column}.{key}"] = piece.float().clone()
    if more := sorted(layers.keys() - model.layers().keys()):
        raise RequestError(f"{layers[more[0]].name}: {more[0]} is in the file, and the network has none")
    return state


def joined_weights(model: AlexNet, state: Mapping[str, Tensor]) -> dict[str, LayerWeights]:
    """The way back: a state dict of `model` as the weights of whole layers."""

    def joined(layer: str, key: str) -> Tensor:
        return torch.cat([state[f"{layer}.{column}.{key}"] for column in model.layers()[layer].column_names])

    return {layer: LayerWeights(layer, joined(layer, "weight"), joined(layer, "bias")) for layer in model.layers()}
