"""An ONNX file of a convolutional network, by the package onnx of the project's extra `export`."""

from typing import Any

import torch
from torch import Tensor

from alexnet_repro.weights.operations import CONV, DENSE, Operation
from data_prep.common.errors import RequestError
from data_prep.common.text import one_line

_IGNORED = {"Reshape", "Flatten", "Softmax", "Identity", "Constant"}


def read_onnx(data: bytes) -> tuple[list[Operation], int | None]:
    """Operations, and the side of the input where the file says it. RequestError if it is no such file, or has a node
    that is none of an AlexNet's.
    """
    import onnx  # of the extra `export`
    from onnx import numpy_helper

    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # protobuf's own DecodeError, and others
        raise RequestError(f"cannot be read as ONNX ({one_line(error)[:100]})") from None
    tensors = {entry.name: entry for entry in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in tensors]
    tensors |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}

    def tensor(name: str, node: str) -> Tensor:
        if name not in tensors:
            raise RequestError(f"{node}: its weights {name!r} are computed within the graph, or missing")
        return torch.from_numpy(numpy_helper.to_array(tensors[name]).copy()).float()

    images = inputs[0]
    sizes = [dim.dim_value for dim in images.type.tensor_type.shape.dim]
    operations, flowing = [], images.name
    for number, node in enumerate(graph.node):
        if node.op_type == "Constant":
            continue
        name = node.name or f"node {number} ({node.op_type})"
        if node.input[0] != flowing:
            raise RequestError(f"{name}: reads {node.input[0]!r}; the operations of an AlexNet follow one another")
        flowing = node.output[0]
        settings = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type in _IGNORED:
            continue
        operation = _operation(name, node.op_type, settings)
        if operation.kind in (CONV, DENSE):
            weight, *bias = (tensor(entry, name) for entry in node.input[1:3])
            if operation.kind == DENSE and not settings.get("transB", 0):
                weight = weight.T.contiguous()
            operation.weight, operation.bias = weight, bias[0].flatten() if bias else None
            operation.name = node.input[1].removesuffix("_w_0").removesuffix(".weight") or name
            if operation.kind == CONV:
                operation.settings["size"] = _one(name, "kernel", list(weight.shape[2:]))
        operations.append(operation)
    return operations, sizes[2] if len(sizes) == 4 and sizes[2] == sizes[3] and sizes[2] else None


def _operation(name: str, kind: str, settings: dict[str, Any]) -> Operation:
    plain = settings.get("auto_pad", b"NOTSET") == b"NOTSET" and set(settings.get("dilations", [1])) == {1}
    if kind in ("Conv", "MaxPool") and not plain:
        raise RequestError(f"{name}: has auto_pad or dilations, which are not read")
    if kind == "Conv":
        pads = settings.get("pads", [0, 0, 0, 0])
        stride, padding = _one(name, "stride", settings.get("strides", [1, 1])), _one(name, "padding", pads)
        return Operation(name, CONV, {"stride": stride, "padding": padding, "group": settings.get("group", 1)})
    if kind == "Gemm":
        if settings.get("alpha", 1.0) != 1 or settings.get("beta", 1.0) != 1 or settings.get("transA", 0):
            raise RequestError(f"{name}: a Gemm with alpha, beta or transA, which are not read")
        return Operation(name, DENSE)
    if kind == "Relu":
        return Operation(name, "activation")
    if kind == "LRN":
        defaults = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
        alpha, beta, k = (settings.get(key, default) for key, default in defaults.items())
        return Operation(name, "norm", {"size": settings["size"], "alpha": alpha, "beta": beta, "k": k})
    if kind == "MaxPool":
        size = _one(name, "kernel", settings["kernel_shape"])
        stride = _one(name, "stride", settings.get("strides", [1, 1]))
        top, left, bottom, right = settings.get("pads", [0, 0, 0, 0])
        past_the_edge = stride > 1 and (bottom, right) == (stride - 1, stride - 1)  # for a last window
        if (top, left) != (0, 0) or not (past_the_edge or (bottom, right) == (0, 0)):
            raise RequestError(f"{name}: pads its maps by {[top, left, bottom, right]}, which is not read")
        return Operation(
            name, "pool", {"size": size, "stride": stride, "ceil": past_the_edge or bool(settings.get("ceil_mode", 0))}
        )
    if kind == "Dropout":
        return Operation(name, "dropout", {"p": round(settings.get("ratio", 0.5), 6)})
    raise RequestError(f"{name}: a layer {kind}, which no AlexNet has")


def _one(name: str, what: str, sizes: list[int]) -> int:
    """The one size that a square has in all directions."""
    if len(set(sizes)) != 1:
        raise RequestError(f"{name}: its {what} is not the same in all directions: {sizes}")
    return int(sizes[0])
