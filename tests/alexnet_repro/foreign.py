"""Caffe's networks as others write them, of the layers that BVLC published, with random weights: .caffemodel files by
protobuf with the field numbers of caffe.proto, and ONNX graphs by onnx.helper.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from onnx import TensorProto, helper, numpy_helper

# models/bvlc_alexnet and models/bvlc_reference_caffenet of BVLC/caffe, deploy.prototxt; kernels and units to be cut.
CONVOLUTIONS = [("conv1", 96, 11, 4, 0, 1), ("conv2", 256, 5, 1, 2, 2), ("conv3", 384, 3, 1, 1, 1),
                ("conv4", 384, 3, 1, 1, 2), ("conv5", 256, 3, 1, 1, 2)]  # fmt: skip
DENSE = [("fc6", 4096), ("fc7", 4096), ("fc8", 1000)]
LRN = {"local_size": 5, "alpha": 0.0001, "beta": 0.75}

_F = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {  # name: {field: (number, kind, repeated, message)}; of caffe.proto, those fields that are used here
    "BlobShape": {"dim": (1, _F.TYPE_INT64, True, None)},
    "BlobProto": {
        "num": (1, _F.TYPE_INT32, False, None), "channels": (2, _F.TYPE_INT32, False, None),
        "height": (3, _F.TYPE_INT32, False, None), "width": (4, _F.TYPE_INT32, False, None),
        "data": (5, _F.TYPE_FLOAT, True, None), "shape": (7, _F.TYPE_MESSAGE, False, "BlobShape"),
    },
    "ConvolutionParameter": {
        "num_output": (1, _F.TYPE_UINT32, False, None), "pad": (3, _F.TYPE_UINT32, True, None),
        "kernel_size": (4, _F.TYPE_UINT32, True, None), "group": (5, _F.TYPE_UINT32, False, None),
        "stride": (6, _F.TYPE_UINT32, True, None),
    },
    "InnerProductParameter": {"num_output": (1, _F.TYPE_UINT32, False, None)},
    "LRNParameter": {
        "local_size": (1, _F.TYPE_UINT32, False, None), "alpha": (2, _F.TYPE_FLOAT, False, None),
        "beta": (3, _F.TYPE_FLOAT, False, None), "norm_region": (4, _F.TYPE_INT32, False, None),
    },
    "PoolingParameter": {
        "pool": (1, _F.TYPE_INT32, False, None), "kernel_size": (2, _F.TYPE_UINT32, False, None),
        "stride": (3, _F.TYPE_UINT32, False, None), "pad": (4, _F.TYPE_UINT32, False, None),
    },
    "DropoutParameter": {"dropout_ratio": (1, _F.TYPE_FLOAT, False, None)},
    "TransformationParameter": {"crop_size": (3, _F.TYPE_UINT32, False, None)},
    "LayerParameter": {
        "name": (1, _F.TYPE_STRING, False, None), "type": (2, _F.TYPE_STRING, False, None),
        "bottom": (3, _F.TYPE_STRING, True, None), "top": (4, _F.TYPE_STRING, True, None),
        "phase": (10, _F.TYPE_INT32, False, None), "blobs": (7, _F.TYPE_MESSAGE, True, "BlobProto"),
        "transform_param": (100, _F.TYPE_MESSAGE, False, "TransformationParameter"),
        "convolution_param": (106, _F.TYPE_MESSAGE, False, "ConvolutionParameter"),
        "dropout_param": (108, _F.TYPE_MESSAGE, False, "DropoutParameter"),
        "inner_product_param": (117, _F.TYPE_MESSAGE, False, "InnerProductParameter"),
        "lrn_param": (118, _F.TYPE_MESSAGE, False, "LRNParameter"),
        "pooling_param": (121, _F.TYPE_MESSAGE, False, "PoolingParameter"),
    },
    "V1LayerParameter": {
        "bottom": (2, _F.TYPE_STRING, True, None), "top": (3, _F.TYPE_STRING, True, None),
        "name": (4, _F.TYPE_STRING, False, None), "type": (5, _F.TYPE_INT32, False, None),
        "blobs": (6, _F.TYPE_MESSAGE, True, "BlobProto"), "blobs_lr": (7, _F.TYPE_FLOAT, True, None),
        "transform_param": (36, _F.TYPE_MESSAGE, False, "TransformationParameter"),
        "convolution_param": (10, _F.TYPE_MESSAGE, False, "ConvolutionParameter"),
        "dropout_param": (12, _F.TYPE_MESSAGE, False, "DropoutParameter"),
        "inner_product_param": (17, _F.TYPE_MESSAGE, False, "InnerProductParameter"),
        "lrn_param": (18, _F.TYPE_MESSAGE, False, "LRNParameter"),
        "pooling_param": (19, _F.TYPE_MESSAGE, False, "PoolingParameter"),
    },
    "NetParameter": {
        "name": (1, _F.TYPE_STRING, False, None), "layers": (2, _F.TYPE_MESSAGE, True, "V1LayerParameter"),
        "layer": (100, _F.TYPE_MESSAGE, True, "LayerParameter"),
    },
}  # fmt: skip
_V1_NUMBERS = {"Convolution": 4, "Data": 5, "Dropout": 6, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18,
               "SoftmaxWithLoss": 21, "Softmax": 20}  # fmt: skip


def _message_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="caffe_for_tests.proto", package="caffe_for_tests", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated, of) in fields.items():
            label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            entry = message.field.add(name=field, number=number, type=kind, label=label)
            if of:
                entry.type_name = f".caffe_for_tests.{of}"
            if (name, field) in (("BlobProto", "data"), ("BlobShape", "dim")):
                entry.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe_for_tests.{name}"))
        for name in _MESSAGES
    }


CAFFE = _message_classes()


@dataclass
class Layer:
    name: str
    kind: str  # as Caffe calls it
    parameters: dict[str, Any]
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None


def caffe_layers(caffenet: bool = False, norm: bool = True, width: float = 1.0, side: int = 227, groups: int = 2,
                 classes: int = 1000) -> list[Layer]:  # fmt: skip
    """The published layers in order, with weights by which every pixel counts: N(0, 2 / inputs), and of the first a
    sixtieth, about the spread of pixels.
    """
    rng = np.random.default_rng(0)
    layers, channels = [], 3

    def weights(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        drawn = rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        return drawn.astype(np.float32), (0.1 * rng.standard_normal(shape[0])).astype(np.float32)

    for number, (name, kernels, size, stride, pad, group) in enumerate(CONVOLUTIONS, start=1):
        kernels, group = round(kernels * width), min(group, groups)
        parameters = {"num_output": kernels, "kernel_size": size, "stride": stride, "pad": pad, "group": group}
        drawn, bias = weights((kernels, channels // group, size, size))
        layers.append(Layer(name, "Convolution", parameters, drawn / np.float32(60 if number == 1 else 1), bias))
        layers.append(Layer(f"relu{number}", "ReLU", {}))
        side, channels = (side + 2 * pad - size) // stride + 1, kernels
        after = []
        if number in (1, 2) and norm:
            after.append(Layer(f"norm{number}", "LRN", dict(LRN)))
        if number in (1, 2, 5):
            after.append(Layer(f"pool{number}", "Pooling", {"pool": 0, "kernel_size": 3, "stride": 2}))
            side = -((3 - side) // 2) + 1
        layers += reversed(after) if caffenet else after
    inputs = channels * side**2
    for name, units in DENSE:
        units = classes if name == "fc8" else round(units * width)
        layers.append(Layer(name, "InnerProduct", {"num_output": units}, *weights((units, inputs))))
        if name != "fc8":
            layers.append(Layer(name.replace("fc", "relu"), "ReLU", {}))
            layers.append(Layer(name.replace("fc", "drop"), "Dropout", {"dropout_ratio": 0.5}))
        inputs = units
    return layers


def caffemodel(layers: list[Layer], v1: bool = False, crop: int | None = None) -> bytes:
    """As Caffe's snapshots: data and loss among the layers. `v1`: of the generation of the published files, whose blobs
    have four sizes. `crop`: of the data layer.
    """
    net = CAFFE["NetParameter"](name="AlexNet")
    add = net.layers.add if v1 else net.layer.add
    ends = [Layer("data", "Data", {}), Layer("loss", "SoftmaxWithLoss", {})]
    for layer in [ends[0], *layers, ends[1]]:
        kind = _V1_NUMBERS[layer.kind] if v1 else layer.kind
        entry = add(name=layer.name, type=kind, bottom=["x"], top=["x"])
        if layer.kind == "Data" and crop:
            entry.transform_param.crop_size = crop
        key = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param", "LRN": "lrn_param",
               "Pooling": "pooling_param", "Dropout": "dropout_param"}.get(layer.kind)  # fmt: skip
        for name, value in layer.parameters.items():
            parameters = getattr(entry, str(key))
            if isinstance(value, int) and name in ("kernel_size", "stride", "pad") and layer.kind == "Convolution":
                getattr(parameters, name).append(value)
            else:
                setattr(parameters, name, value)
        for array in (layer.weight, layer.bias):
            if array is None:
                continue
            blob = entry.blobs.add()
            blob.data.extend(array.flatten().tolist())
            if v1:
                shape = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = shape
            else:
                blob.shape.dim.extend(array.shape)
    return bytes(net.SerializeToString())


def onnx_model(layers: list[Layer], side: int, every: bool = False, opset: int = 17) -> onnx.ModelProto:
    """The same layers as an ONNX graph, data_0 to prob_1. `every`: what each layer with weights passes on, after its
    steps, is an output as well, named after it.
    """
    nodes, initializers, flowing, ends = [], [], "data_0", []
    flattened = False
    for layer in layers:
        out, inputs = f"{layer.name}_out", [flowing]
        if layer.kind == "InnerProduct" and not flattened:
            nodes.append(helper.make_node("Flatten", [flowing], ["flat"]))
            inputs, flattened = ["flat"], True
        for array, ending in ((layer.weight, "w_0"), (layer.bias, "b_0")):
            if array is not None:
                initializers.append(numpy_helper.from_array(array, f"{layer.name}_{ending}"))
                inputs.append(f"{layer.name}_{ending}")
        p = layer.parameters
        if layer.kind in ("Convolution", "InnerProduct") and ends:
            ends[-1] = (ends[-1][0], flowing)
        if layer.kind == "Convolution":
            node = helper.make_node("Conv", inputs, [out], kernel_shape=[p["kernel_size"]] * 2, group=p["group"],
                                    strides=[p["stride"]] * 2, pads=[p["pad"]] * 4)  # fmt: skip
        elif layer.kind == "InnerProduct":
            node = helper.make_node("Gemm", inputs, [out], transB=1)
        elif layer.kind == "ReLU":
            node = helper.make_node("Relu", inputs, [out])
        elif layer.kind == "LRN":
            node = helper.make_node(
                "LRN", inputs, [out], size=p["local_size"], alpha=p["alpha"], beta=p["beta"], bias=1.0
            )
        elif layer.kind == "Pooling":
            node = helper.make_node("MaxPool", inputs, [out], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
        else:
            node = helper.make_node("Identity" if every else "Dropout", inputs, [out])
        nodes.append(node)
        flowing = out
        if layer.weight is not None:
            ends.append((layer.name, out))
    nodes.append(helper.make_node("Softmax", [flowing], ["prob_1"], axis=1))
    images = helper.make_tensor_value_info("data_0", TensorProto.FLOAT, ["n" if every else 1, 3, side, side])
    outputs = ["prob_1"]
    if every:
        ends[-1] = (ends[-1][0], flowing)
        nodes += [helper.make_node("Identity", [tensor], [name]) for name, tensor in ends]
        outputs += [name for name, _ in ends]
    graph = helper.make_graph(
        nodes, "net", [images],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * (4 if name.startswith("conv") else 2))
         for name in outputs], initializers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model
