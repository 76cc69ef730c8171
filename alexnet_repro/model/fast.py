"""The network of alexnet.py in its fast form, for GPUs: the same function of the same parameters, in fewer and larger
kernels.

- Columns that share a device are computed as one where they read the same: one convolution or dense layer with the
  weights of both. Where each reads its own maps, each is computed by itself, and its maps lie by themselves.
- What follows a convolution is one kernel (fused.py; fused_same_map.py).
- conv1 reads an image folded by its stride: 4 x 4 places of 3 channels are one place of 48, and 11 x 11 kernels of
  stride 4 are 3 x 3 kernels of stride 1 (zeros in the twelfth row and column), which the matrix units read whole.
- Maps are channels-last, and in bfloat16 where the precision is bf16; weights stay float32, rounded in each step.
"""

import gc
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_repro.config import POOLS
from alexnet_repro.model import exchange
from alexnet_repro.model.alexnet import AlexNet, Layer, LayerObserver, Part
from alexnet_repro.model.fast_weights import ConvolutionBothWays, InputLayout, folded, joined
from alexnet_repro.model.fused import LARGEST, WIDEST_POOL, WINDOWS, after_conv
from alexnet_repro.model.fused_same_map import same_map_norm
from alexnet_repro.model.layers import LocalConv2d, pooling
from alexnet_repro.model.response_norm import ResponseNorm

Masks = Mapping[str, Sequence[Tensor]]  # of a layer's columns, [N, units] each, as Dropout.draw fills them
Kernel = dict[str, Any]  # which steps one kernel does, as arguments of after_conv
Graphed = Callable[..., list[Tensor]]  # a segment on one device, replayed


@dataclass(frozen=True)
class _FastLayer:
    """A layer of the network as FastNetwork needs it."""

    name: str
    config: Any  # ConvConfig, DenseConfig or OutputConfig
    parts: Sequence[Part]  # column by column
    steps: Sequence[Kernel | str]  # what follows the weights
    apart: bool  # whether the next layer reads each column by itself
    columns: Sequence[list[int]]  # on each device those that are computed there


class FastNetwork:
    """`model` as a function. It holds no parameters of its own."""

    def __init__(
        self, model: AlexNet, precision: str, placed: Sequence[tuple[torch.device, list[int]]] | None = None
    ) -> None:
        """`precision` as in RuntimeConfig. `placed`: devices, and which columns are computed on each; by default those
        whose weights lie there.
        """
        self.model, self.precision = model, precision
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.layout = InputLayout.of(model.config, model.conv1.parts()[0].weight.shape[1])
        if placed is None:
            own = model.column_devices()
            placed = [(device, [i for i, other in enumerate(own) if other == device]) for device in dict.fromkeys(own)]
        self.devices = [device for device, _ in placed]
        self._columns = [columns for _, columns in placed]
        self.together = len(placed) == 1
        configs = {name: getattr(model.config, name) for name in model.layers()}
        next_reads = [config.reads for config in list(configs.values())[1:]] + ["both"]
        self._segments: list[list[_FastLayer]] = []  # runs of layers without an exchange between them
        for (name, layer), reads in zip(model.layers().items(), next_reads, strict=True):
            columns = [[0]] if name == "fc8" else self._columns  # all classes lie on the first device
            made = _FastLayer(
                name, configs[name], layer.parts(), self._plan_steps(name, layer), reads == "own", columns
            )
            if made.config.reads == "both" or not self._segments:
                self._segments.append([])
            self._segments[-1].append(made)
        self._graphs: list[list[Graphed]] = []  # by segment and device; empty before `capture`
        self._masks: Masks | None = None  # of the capture
        largest = max(math.prod(layer.map_shape) * len(self._columns[0]) for layer in model.layers().values())
        self.most_images = (LARGEST - 1) // max(largest, self.layout.blocks**2 * self.layout.channels)  # at a time

    def __call__(
        self, images: Sequence[Tensor], masks: Masks | None = None, observe: LayerObserver | None = None
    ) -> Tensor:
        """Images on each device, laid out as `layout` says -> logits [N, classes] on the first device.

        `masks`: of the dropout in training; None is test mode. `observe`: see LayerObserver.
        """
        if self._graphs:
            assert masks is self._masks and observe is None, "graphs read the masks of the capture, and show no maps"
            exchange.wait_for_copies(self.devices)  # from memory that the graphs are about to write
        maps = [[image] for image in images]  # on each device: of all its columns in one tensor, or one of each
        for number, layers in enumerate(self._segments):
            maps = self._exchange(layers[0], maps)
            if self._graphs:
                maps = [graph(*here) for graph, here in zip(self._graphs[number], maps, strict=True)]
            else:
                maps = self._compute(layers, maps, masks, observe)
        return maps[0][0]

    def capture(self, images: Sequence[Tensor], masks: Masks) -> None:
        """For columns on GPUs of their own: captures each column's share of a segment as two CUDA graphs, forward and
        backward, which all later calls replay. The exchanges between them stay as they are. The host waits meanwhile.

        From then on calls must have images of these shapes, and these masks, which are read where they lie. What a call
        returns, and the gradients of the parameters, which must be None before each backward pass, are the graphs'
        memory, and last until the next call. Nothing may hold an autograd graph of the parameters during the capture.
        """
        samples: list[list[list[Tensor]]] = []
        maps = [[image] for image in images]
        # With gradients, the AccumulateGrad nodes of this pass, made on the current stream, could outlive it; a capture
        # that met them would wait for that stream, and fail.
        with torch.no_grad():
            for layers in self._segments:
                maps = self._exchange(layers[0], maps)
                learns = len(samples) > 0  # whose gradients are wanted: the maps of the segment before
                samples.append([[x.detach().requires_grad_(learns) for x in here] for here in maps])
                maps = self._compute(layers, maps, masks)
        graphs: list[list[Graphed]] = [[] for _ in self._segments]
        # The graphs keep AccumulateGrad nodes, made on the stream of the capture. Autograd synchronises it with that of
        # the step, and warns that they differ; from here on not in this process.
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
        gc.collect()  # what is freed during a capture, such as another run's graphs, would end it
        try:
            for place, device in enumerate(self.devices):
                own = [number for number, layers in enumerate(self._segments) if place < len(layers[0].columns)]
                segments = tuple(_Segment(self, self._segments[number], place, masks) for number in own)
                # In PyTorch's default mode a CUDA call of another thread would end the capture; none of ours makes one.
                with torch.cuda.device(device):
                    torch.cuda.graph.default_capture_stream = torch.cuda.Stream()  # PyTorch < 2.14 captures there
                    captured: Any = torch.cuda.make_graphed_callables(
                        segments, tuple(tuple(samples[number][place]) for number in own)
                    )
                for number, segment in zip(own, captured, strict=True):
                    graphs[number].append(segment)
        finally:
            torch.cuda.graph.default_capture_stream = None  # whoever captures next may do so on another GPU
        self._graphs, self._masks = graphs, masks

    @property
    def captured(self) -> bool:
        return bool(self._graphs)

    def _exchange(self, layer: _FastLayer, maps: list[list[Tensor]]) -> list[list[Tensor]]:
        """What a layer reads on each device that computes it, from the maps of the layer before it."""
        if layer.config.reads == "own":
            return maps
        whole = [here[0] if len(here) == 1 else torch.cat(here, 1) for here in maps]
        readers = self.devices[: len(layer.columns)]
        return [[x] for x in (whole if self.together else exchange.gather(whole, readers))]

    def _compute(
        self, layers: Sequence[_FastLayer], maps: list[list[Tensor]], masks: Masks | None,
        observe: LayerObserver | None = None,
    ) -> list[list[Tensor]]:  # fmt: skip
        """A segment, layer by layer on all devices."""
        for layer in layers:
            maps = [self._layer(layer, columns, here, masks) for columns, here in zip(layer.columns, maps, strict=True)]
            if observe is not None:
                count = len(layer.columns[0])
                observe(layer.name, [part for here in maps for x in here for part in x.chunk(count // len(here), 1)])
        return maps

    def _layer(self, layer: _FastLayer, columns: list[int], inputs: list[Tensor], masks: Masks | None) -> list[Tensor]:
        """Computes this device's `columns` of a layer. `inputs` and the result: one tensor for all these columns, with
        their maps side by side, or one a column.
        """
        if isinstance(layer.parts[0], nn.Linear):
            inputs = [x.flatten(1) for x in inputs]
        sets = [columns]  # of columns that are computed as one
        if layer.config.reads == "own" and layer.name != "conv1":  # conv1's columns read the same image
            sets = [[column] for column in columns]
            inputs = inputs if len(inputs) == len(sets) else list(inputs[0].chunk(len(sets), 1))
        outputs = []
        for chosen, x in zip(sets, inputs, strict=True):
            outputs += self._apply_steps(layer, chosen, *self._apply_weights(layer, chosen, x), masks)
        return outputs

    def _apply_weights(self, layer: _FastLayer, columns: list[int], x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights of `columns`, as of one layer, applied to x; and the bias, where it is still to be added."""
        parts: list[Any] = [layer.parts[column] for column in columns]
        if isinstance(parts[0], nn.Linear):
            return self._linear(x, parts), None
        if isinstance(parts[0], LocalConv2d):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                return torch.cat([part(x) for part in parts], 1), None
        weights, stride = [part.weight for part in parts], layer.config.stride
        if layer.name == "conv1":
            weights = [folded(weight, self.layout) for weight in weights]
            stride = 1 if self.layout.fold > 1 else stride
        weight, padding = joined(weights, self.dtype), layer.config.padding
        if self.precision == "fp32" and stride == 1 and x.requires_grad:
            x = ConvolutionBothWays.apply(x, weight, padding)
        else:
            x = F.conv2d(x, weight, None, stride, padding)
        return x, torch.cat([part.bias for part in parts])

    def _linear(self, x: Tensor, parts: Sequence[Any]) -> Tensor:
        weight, bias = (joined([getattr(part, key) for part in parts], self.dtype) for key in ("weight", "bias"))
        return F.linear(x, weight, bias)

    def _apply_steps(
        self, layer: _FastLayer, columns: list[int], x: Tensor, bias: Tensor | None, masks: Masks | None
    ) -> list[Tensor]:
        """What follows the weights of `columns`, whose maps lie side by side in x. The first kernel adds the bias, and
        writes each column's maps apart if the next layer reads them so; from then on there is one piece a column.
        """
        pieces = [x]
        for step in layer.steps:
            each = len(columns) // len(pieces)  # columns in a piece
            if isinstance(step, str):
                pieces = [
                    self._apply_step(layer, step, columns[i * each : (i + 1) * each], piece, masks)
                    for i, piece in enumerate(pieces)
                ]
            else:
                cut = len(columns) if layer.apart and len(pieces) == 1 else 1
                pieces = [out for piece in pieces for out in after_conv(piece, bias, each, cut, **step)]
                bias = None
        return pieces

    def _plan_steps(self, name: str, layer: Layer) -> list[Kernel | str]:
        """What follows the weights of a layer, in order: as many steps together as one kernel can do, or one alone. A
        convolution's bias needs a kernel, be it for the bias alone.
        """
        if name == "fc8":
            return []
        part, rest = layer.parts()[0], list(getattr(self.model.config, name).then)
        bias = isinstance(part, nn.Conv2d)
        steps: list[Kernel | str] = []
        while rest or (bias and not steps):
            kernel = {} if isinstance(part, nn.Linear) else self._take_kernel(rest)
            steps.append(kernel if kernel or (bias and not steps) else rest.pop(0))
        return steps

    def _take_kernel(self, steps: list[str]) -> Kernel:
        """Takes from `steps` what one kernel does."""
        config = self.model.config
        relu = config.activation == "relu"
        kernel: Kernel = {}
        if steps[:1] == ["activation"] and relu:
            steps.pop(0)
            kernel["relu"] = True
        if steps[:1] == ["norm"] and config.norm.size in WINDOWS:
            steps.pop(0)
            kernel["norm"] = config.norm
        if steps[:1] == ["pool"] and config.pool.size <= WIDEST_POOL:
            steps.pop(0)
            kernel["pool"] = (config.pool.size, config.pool.stride)
            if steps[:1] == ["activation"] and relu and config.pool.size > 1:
                steps.pop(0)
                kernel["relu_last"] = True
        return kernel

    def _apply_step(self, layer: _FastLayer, step: str, columns: list[int], x: Tensor, masks: Masks | None) -> Tensor:
        """A step that is no part of a kernel."""
        config = self.model.config
        if step == "activation":
            return x.relu() if config.activation == "relu" else x.tanh()
        if step == "dropout":
            if masks is None:
                return self.model.dropouts[0].at_test(x)  # all of a network are alike
            return x * torch.cat([masks[layer.name][column] for column in columns], 1)
        if step == "same_map_norm":
            assert config.same_map_norm is not None
            return same_map_norm(x, config.same_map_norm)
        if step in POOLS:
            return pooling(step, config.pool)(x)
        assert step == "norm"  # of a window that the kernel does not have
        return torch.cat([ResponseNorm(config.norm)(maps) for maps in x.chunk(len(columns), 1)], 1)


class _Segment(nn.Module):
    """The layers of a segment on one device, as a module: make_graphed_callables takes the gradients of a module's
    parameters.
    """

    def __init__(self, network: FastNetwork, layers: Sequence[_FastLayer], place: int, masks: Masks) -> None:
        super().__init__()
        self.parts = nn.ModuleList(layer.parts[column] for layer in layers for column in layer.columns[place])
        self._network, self._layers, self._place, self._masks = network, layers, place, masks

    def forward(self, *maps: Tensor) -> list[Tensor]:
        here = list(maps)
        for layer in self._layers:
            here = self._network._layer(layer, layer.columns[self._place], here, self._masks)
        return here
