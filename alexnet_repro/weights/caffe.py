"""A .caffemodel, and a mean image (.binaryproto), read without Caffe.

Both are messages of protocol buffers, and of caffe.proto only a few fields matter here, so they are read from the wire
format itself: a tag (number of the field, kind of value), then a varint, 4 or 8 bytes, or a length and so many bytes.
The field numbers below are those of caffe.proto, for files of both its generations (V1LayerParameter, LayerParameter).
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_repro.weights.operations import CONV, DENSE, Operation
from data_prep.common.errors import RequestError

Fields = dict[int, list[Any]]  # by number: int for varints, bytes-like for all others

_V1_TYPES = {
    1: "Accuracy", 4: "Convolution", 5: "Data", 6: "Dropout", 8: "Flatten", 12: "ImageData", 14: "InnerProduct",
    15: "LRN", 16: "MultinomialLogisticLoss", 17: "Pooling", 18: "ReLU", 20: "Softmax", 21: "SoftmaxWithLoss",
    22: "Split", 23: "TanH", 29: "MemoryData", 32: "DummyData", 36: "Silence",
}  # fmt: skip
_IGNORED = {
    "Accuracy", "Data", "Flatten", "ImageData", "MultinomialLogisticLoss", "Softmax", "SoftmaxWithLoss", "Split",
    "MemoryData", "DummyData", "Silence", "Input", "HDF5Data",
}  # fmt: skip
# Where a layer has its name, type, blobs and parameters: in NetParameter.layer (100) and in NetParameter.layers (2).
_NEW = {"name": 1, "type": 2, "blobs": 7, "transform": 100, "conv": 106, "dropout": 108, "dense": 117, "lrn": 118,
        "pooling": 121, "relu": 123}  # fmt: skip
_V1 = {"name": 4, "type": 5, "blobs": 6, "transform": 36, "conv": 10, "dropout": 12, "dense": 17, "lrn": 18,
       "pooling": 19, "relu": 30}  # fmt: skip


def read_caffemodel(data: bytes) -> tuple[list[Operation], int | None]:
    """Operations, and the side of the input where the file says it. RequestError if it is no such file, or has a layer
    that is none of an AlexNet's.
    """
    net = _message(memoryview(data))
    layers = [(_NEW, _message(layer)) for layer in net.get(100, [])] + [(_V1, _message(v1)) for v1 in net.get(2, [])]
    if not layers:
        raise RequestError("holds no layers; give a .caffemodel with weights")
    operations, side = [], None
    for numbers, layer in layers:
        name = bytes(layer.get(numbers["name"], [b"?"])[0]).decode(errors="replace")
        kind = layer.get(numbers["type"], [b""])[0]
        kind = _V1_TYPES.get(kind, f"of type {kind}") if isinstance(kind, int) else bytes(kind).decode(errors="replace")
        crop = _message(layer.get(numbers["transform"], [b""])[0]).get(3)
        side = int(crop[0]) if crop and crop[0] else side
        if kind not in _IGNORED:
            operations.append(_operation(name, kind, layer, numbers))
    dims = [number for entry in net.get(4, []) for number in _integers(entry)]  # input_dim of a deploy file
    return operations, dims[3] if len(dims) == 4 else side


def read_mean(data: bytes) -> Tensor:
    """A mean image (imagenet_mean.binaryproto): float32 [channels, height, width], colours in the file's order."""
    blob = _blob(_message(memoryview(data)))
    return blob[0] if blob.dim() == 4 else blob


def _operation(name: str, kind: str, layer: Fields, numbers: dict[str, int]) -> Operation:
    def parameters(key: str) -> Fields:
        return _message(layer.get(numbers[key], [b""])[0])

    blobs = [_blob(_message(blob)) for blob in layer.get(numbers["blobs"], [])]
    if kind in ("Convolution", "InnerProduct") and not blobs:
        raise RequestError(f"{name}: has no weights; give the trained .caffemodel, not its definition")
    bias = blobs[1].flatten() if len(blobs) > 1 else None
    if kind == "Convolution":
        p = parameters("conv")
        settings = {
            "size": _square(name, p, 4, (11, 12)), "stride": _square(name, p, 6, (13, 14), 1),
            "padding": _square(name, p, 3, (9, 10), 0), "group": _first(p, 5, 1),
        }  # fmt: skip
        if any(dilation != 1 for entry in p.get(18, []) for dilation in _integers(entry)):
            raise RequestError(f"{name}: is dilated, and no layer of an AlexNet is")
        return Operation(name, CONV, settings, blobs[0], bias)
    if kind == "InnerProduct":
        if _first(parameters("dense"), 6, 0):
            raise RequestError(f"{name}: has transposed weights, which are not read")
        return Operation(name, DENSE, {}, blobs[0].reshape(blobs[0].shape[-2:]), bias)
    if kind == "ReLU":
        if _number(parameters("relu"), 1, 0.0):
            raise RequestError(f"{name}: lets negative values pass; a ReLU of an AlexNet does not")
        return Operation(name, "activation")
    if kind == "LRN":
        p = parameters("lrn")
        if _first(p, 4, 0):
            raise RequestError(f"{name}: normalises within a map; must be across maps")
        return Operation(name, "norm", {"size": _first(p, 1, 5), "alpha": _number(p, 2, 1.0),
                                        "beta": _number(p, 3, 0.75), "k": _number(p, 5, 1.0)})  # fmt: skip
    if kind == "Pooling":
        p = parameters("pooling")
        if _first(p, 1, 0) or _square(name, p, 4, (9, 10), 0) or _first(p, 12, 0):
            raise RequestError(f"{name}: must be max pooling, without padding and not over the whole map")
        settings = {"size": _square(name, p, 2, (5, 6)), "stride": _square(name, p, 3, (7, 8), 1)}
        return Operation(name, "pool", {**settings, "ceil": _first(p, 13, 0) == 0})
    if kind == "Dropout":
        return Operation(name, "dropout", {"p": round(_number(parameters("dropout"), 1, 0.5), 6)})
    raise RequestError(f"{name}: a layer {kind}, which no AlexNet has")


def _blob(blob: Fields) -> Tensor:
    """float32 of its shape; old files have four sizes, num to width, in place of a shape."""
    if 8 in blob:
        raise RequestError("holds double precision numbers, which are not read")
    numbers = np.concatenate([np.frombuffer(part, "<f4") for part in blob.get(5, [])] or [np.zeros(0, np.float32)])
    if 7 in blob:
        shape = [size for entry in _message(blob[7][0]).get(1, []) for size in _integers(entry)]
    else:
        shape = [_first(blob, number, 1) for number in (1, 2, 3, 4)]
    if int(np.prod(shape)) != len(numbers):
        raise RequestError(f"holds {len(numbers)} numbers where its shape is {shape}; it is damaged")
    return torch.from_numpy(numbers.reshape(shape))


def _square(name: str, fields: Fields, both: int, apart: tuple[int, int], default: int | None = None) -> int:
    """A size that is given for both directions, or for each."""
    found = {number for entry in fields.get(both, []) for number in _integers(entry)}
    found |= {_first(fields, number, 0) for number in apart if number in fields}
    if len(found) > 1 or (not found and default is None):
        raise RequestError(f"{name}: is not square: {sorted(found)}")
    return int(found.pop()) if found else int(default or 0)


def _first(fields: Fields, number: int, default: int) -> int:
    return int(fields[number][-1]) if number in fields else default


def _number(fields: Fields, number: int, default: float) -> float:
    return float(struct.unpack("<f", fields[number][-1])[0]) if number in fields else default


def _integers(entry: int | memoryview) -> Sequence[int]:
    """The numbers of an entry: one varint, or many packed."""
    if isinstance(entry, int):
        return [entry]
    numbers, place = [], 0
    while place < len(entry):
        number, place = _varint(entry, place)
        numbers.append(number)
    return numbers


def _message(data: memoryview | bytes) -> Fields:
    """RequestError if these bytes are no message."""
    fields: Fields = {}
    data, place = memoryview(data), 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(data, place)
            fields.setdefault(tag >> 3, []).append(value)
            continue
        if kind == 2:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise RequestError("is no message of protocol buffers, or damaged")
        if place + length > len(data):
            raise RequestError("ends too early; copy the file again")
        fields.setdefault(tag >> 3, []).append(data[place : place + length])
        place += length
    return fields


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and the place after it."""
    number = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise RequestError("ends too early; copy the file again")
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
