"""The network of Figure 2 (section 3.5), column by column: `AlexNet.hidden` is the figure from left to right.

Names: conv1 ... conv5, fc6 ... fc8 are the paper's layers; column a is the upper half of Figure 2 (the first GPU), b
the lower. Parameters are `conv3.a.weight` and so on, whatever devices the columns live on.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from alexnet_repro.config import POOLS, ConvConfig, DenseConfig, ModelConfig, SummaryConfig
from alexnet_repro.model import exchange
from alexnet_repro.model.layers import Dropout, LocalConv2d, pooling
from alexnet_repro.model.response_norm import ResponseNorm, SameMapNorm, norm_across_columns
from data_prep.common.cli import checked, load
from data_prep.common.errors import RequestError

COLUMN_NAMES = "abcdefgh"

Part = nn.Conv2d | nn.Linear | LocalConv2d
LayerObserver = Callable[[str, list[Tensor]], None]
"""Called with a layer's name and what each of its columns passes on."""


class Layer(nn.Module):
    """One layer of Figure 2: in each column its share of the weights, then what follows them."""

    def __init__(
        self,
        parts: Sequence[nn.Module],
        then: Sequence[nn.Module],
        reads: str,
        input_elements: int,
        map_shape: tuple[int, ...],
        seam_elements: int = 0,
    ) -> None:
        """`input_elements`: what one part reads of one image; `map_shape`: one part's output, before `then`;
        `seam_elements`: what the normalisation reads of a neighbouring column.
        """
        super().__init__()
        self.column_names = COLUMN_NAMES[: len(parts)]
        for name, part in zip(self.column_names, parts, strict=True):
            self.add_module(name, part)
        self.then = nn.ModuleList(then)
        self.reads = reads
        self.input_elements = input_elements
        self.map_shape = map_shape
        self.seam_elements = seam_elements

    def parts(self) -> list[Part]:
        """The weights, column by column."""
        return [cast(Part, self.get_submodule(name)) for name in self.column_names]

    def forward(self, columns: list[Tensor]) -> list[Tensor]:
        parts = self.parts()
        if self.reads == "both":
            columns = exchange.gather(columns, [part.weight.device for part in parts])
        if not self.seam_elements:
            return [then(part(x)) for part, then, x in zip(parts, self.then, columns, strict=True)]
        columns = [part(x) for part, x in zip(parts, columns, strict=True)]
        for step in zip(*self.then, strict=True):  # one step of all columns at a time, as a normalisation reads both
            if isinstance(step[0], ResponseNorm):
                columns = norm_across_columns(step, columns)
            else:
                columns = [own(x) for own, x in zip(step, columns, strict=True)]
        return columns


class AlexNet(nn.Module):
    """Images to logits: float [N, channels, size, size] (0..255 minus the mean) -> [N, classes].

    `images`: one batch for all columns, or one a column; each is moved to its column's device. Weights are PyTorch's
    default until `initialise`; `place` moves the columns.
    """

    def __init__(self, config: ModelConfig, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.outputs = classes
        build = _Builder(config, channels)
        self.conv1 = cast(Layer, build.conv("conv1"))  # never absent
        self.conv2 = build.conv("conv2")
        self.conv3 = build.conv("conv3")
        self.conv4 = build.conv("conv4")
        self.conv5 = build.conv("conv5")
        self.conv6 = build.conv("conv6")
        self.fc6 = build.dense("fc6")
        self.fc7 = build.dense("fc7")
        self.bottleneck = build.dense("bottleneck")
        self.fc8 = build.output(classes)
        self.dropouts = [module for module in self.modules() if isinstance(module, Dropout)]  # by layer, then column

    @classmethod
    def from_config(cls, model: str = "paper", classes: int = 1000, channels: int = 3, **overrides: Any) -> "AlexNet":
        """The network of conf/model/`model`.yaml, with PyTorch's default weights until `initialise`.

        `overrides`: settings that differ, by their names there: input_size=227, conv1={"kernels": 64}. RequestError, a
        ValueError, for a name or a value that is refused.
        """
        return cls(model_config(model, overrides), classes, channels)

    def hidden(self, images: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The last hidden layer with ReLUs (fc7), a tensor a column: the feature of Figure 4, right."""
        x = exchange.spread(images, self.column_devices())  # [N, 3, 224, 224] in each column
        x = _padded(x, self.config.pad_right_bottom)  # [N, 3, 227, 227]
        # Beside each layer: what it reads (3.2), and its maps in one column. In the paper all have ReLUs (3.1), and fc6
        # and fc7 dropout (4.2).
        x = self.conv1(x)  # the image    48 x 55 x 55, normalised (3.3) and pooled (3.4) to 48 x 27 x 27
        x = self.conv2(x)  # own column   128 x 27 x 27, normalised and pooled to 128 x 13 x 13
        x = self.conv3(x)  # both columns 192 x 13 x 13
        x = self.conv4(x)  # own column   192 x 13 x 13
        x = self.conv5(x)  # own column   128 x 13 x 13, pooled to 128 x 6 x 6
        x = self.conv6(x)  # only in CNN* (section 6)
        x = [maps.flatten(1) for maps in x]  # 4608
        x = self.fc6(x)  # both columns   2048
        x = self.fc7(x)  # both columns   2048
        return x

    def forward(self, images: Tensor | Sequence[Tensor], joined: bool = True) -> Tensor | list[Tensor]:
        """The logits of all classes on the first device, or, not `joined`, as they lie: one tensor there, or with
        model.fc8.split one a column with its share of the classes, in their order.
        """
        x = self.bottleneck(self.hidden(images))  # no layer, but in the pretraining of CNN*
        shares: list[Tensor] = self.fc8(x)  # both columns -> [N, 1000]
        return exchange.gather(shares, [shares[0].device])[0] if joined else shares

    def features(self, images: Tensor | Sequence[Tensor], layer: str) -> Tensor:
        """What `layer` (conv1, fc7) passes on, after all steps that follow its weights: [N, 256, 6, 6] for the paper's
        conv5, [N, 4096] for fc7, the columns joined, column a first, on its device.

        With gradients, unless within torch.no_grad(). ValueError if there is no such layer.
        """
        if layer not in (layers := self.layers()):
            raise ValueError(f"layer={layer!r}: there is none of this name; there are {', '.join(layers)}")
        columns: list[Tensor] = []
        with layers[layer].register_forward_hook(lambda _module, _inputs, outputs: columns.extend(outputs)):
            self(images)
        return exchange.gather(columns, [columns[0].device])[0]

    @contextmanager
    def observed(self, observe: LayerObserver) -> Iterator[None]:
        """Within it, `observe` is called for every layer that is computed."""
        with ExitStack() as hooks:
            for name, layer in self.layers().items():
                hook = layer.register_forward_hook(lambda _layer, _inputs, columns, name=name: observe(name, columns))
                hooks.enter_context(hook)
            yield

    def layers(self) -> dict[str, Layer]:
        """The layers present, by the paper's names, first to last."""
        return {name: child for name, child in self.named_children() if isinstance(child, Layer)}

    def column_devices(self) -> list[torch.device]:
        return [part.weight.device for part in self.conv1.parts()]

    def seed_dropout(self, seed: int, step: int, rank: int = 0) -> None:
        """Fixes the dropout masks of the next forward pass as a function of (seed, step, layer, column, rank)."""
        for index, module in enumerate(self.dropouts):
            words = [seed, step, index] + [rank] * (rank > 0)
            state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
            module.reseed(int(state) >> 1)


def _padded(columns: list[Tensor], pad: int) -> list[Tensor]:
    """The images with `pad` rows and columns of zeros below and to the right. Columns that share theirs still do."""
    distinct = {id(images): images for images in columns}
    padded = {key: F.pad(images, (0, pad, 0, pad)) for key, images in distinct.items()}
    return [padded[id(images)] for images in columns]


def model_config(name: str, settings: Mapping[str, Any] | None = None) -> ModelConfig:
    """conf/model/`name`.yaml with `settings` over it. RequestError for a name or a value that is refused."""
    composed = asdict(load("summary", SummaryConfig, [f"model={name}"]).model)
    return checked(cast(DictConfig, OmegaConf.merge(composed, dict(settings or {}))), ModelConfig)


class _Builder:
    """Builds the layers first to last, keeping the shape of one column's maps. RequestError for what does not fit."""

    def __init__(self, config: ModelConfig, channels: int) -> None:
        self.config = config
        self.columns = config.columns
        self.maps = channels  # maps (or units) in one column
        self.spatial: int | None = config.input_size + config.pad_right_bottom  # None once flattened

    def conv(self, name: str) -> Layer | nn.Identity:
        config: ConvConfig | None = getattr(self.config, name)
        if config is None:
            return nn.Identity()
        assert self.spatial is not None
        share = self._share(name, "kernels", config.kernels)
        if self.spatial + 2 * config.padding < config.size:
            raise RequestError(
                f"model.{name}.size={config.size}: larger than its input of {self.spatial} plus padding "
                f"{config.padding} on each side; shrink the kernel, or stride less before it"
            )
        incoming = self._incoming(config.reads)
        read = incoming * self.spatial**2
        self.spatial = (self.spatial + 2 * config.padding - config.size) // config.stride + 1
        parts: list[nn.Module] = [
            LocalConv2d(incoming, share, config.size, config.padding, self.spatial)
            if config.local
            else nn.Conv2d(incoming, share, config.size, stride=config.stride, padding=config.padding)
            for _ in range(self.columns)
        ]
        self.maps = share
        map_shape = (share, self.spatial, self.spatial)
        then, seam = self._then(name, config.then)
        return Layer(parts, then, config.reads, read, map_shape, seam)

    def dense(self, name: str) -> Layer | nn.Identity:
        config: DenseConfig | None = getattr(self.config, name)
        if config is None:
            return nn.Identity()
        self._flatten()
        share = self._share(name, "units", config.units)
        incoming = self._incoming(config.reads)
        parts = [nn.Linear(incoming, share) for _ in range(self.columns)]
        self.maps = share
        return Layer(parts, self._then(name, config.then)[0], config.reads, incoming, (share,))

    def output(self, classes: int) -> Layer:
        self._flatten()
        reads = self.config.fc8.reads
        incoming = self._incoming(reads)
        columns = self.columns if self.config.fc8.split else 1
        if classes < columns:
            raise RequestError(f"model.fc8.split=true: {classes} class(es) for {columns} columns; give split=false")
        ends = [classes * i // columns for i in range(columns + 1)]
        parts = [nn.Linear(incoming, end - start) for start, end in pairwise(ends)]
        return Layer(parts, [nn.Sequential() for _ in parts], reads, incoming, (parts[0].out_features,))

    def _incoming(self, reads: str) -> int:
        return self.maps * self.columns if reads == "both" else self.maps

    def _share(self, name: str, key: str, count: int) -> int:
        width = self.config.width
        total = round(count * width)
        if total % self.columns or not math.isclose(total, count * width) or total == 0:
            times = "" if width == 1 else f" times model.width={width:g} is {count * width:g}"
            raise RequestError(
                f"model.{name}.{key}={count}{times}: must be a multiple of model.columns={self.columns}, an equal "
                "share each"
            )
        return total // self.columns

    def _flatten(self) -> None:
        if self.spatial is not None:
            self.maps *= self.spatial**2
            self.spatial = None

    def _then(self, name: str, steps: Sequence[str]) -> tuple[list[nn.Sequential], int]:
        """One sequence a column, since each column draws its own dropout masks; and Layer's `seam_elements`."""
        sequences = [nn.Sequential(*(self._step(name, step) for step in steps)) for _ in range(self.columns)]
        seam = 0
        for step in steps:
            if step in POOLS:
                self._pooled(name, step)
            if step == "norm" and self.config.norm.across == "layer" and self.columns > 1:
                seam = self._seam(name)
        return sequences, seam

    def _seam(self, name: str) -> int:
        """Elements of the maps that a column's normalisation reads of its neighbour."""
        assert self.spatial is not None
        beyond = self.config.norm.size // 2
        if self.maps < beyond:
            raise RequestError(
                f"model.norm.across=layer: {name} has {self.maps} map(s) a column, and a window of "
                f"model.norm.size={self.config.norm.size} reads {beyond} of the neighbour; widen the layer, or shrink "
                "the window"
            )
        return beyond * self.spatial**2

    def _step(self, name: str, step: str) -> nn.Module:
        config = self.config
        if self.spatial is None and step in ("norm", "same_map_norm", *POOLS):
            raise RequestError(f"model.{name}.then: {step!r} needs maps, and a dense layer has none; remove it")
        if step == "activation":
            return nn.ReLU(inplace=True) if config.activation == "relu" else nn.Tanh()
        if step == "norm":
            return ResponseNorm(config.norm)
        if step == "same_map_norm":
            if config.same_map_norm is None:
                raise RequestError(f"model.{name}.then: 'same_map_norm' needs model.same_map_norm, which is null")
            return SameMapNorm(config.same_map_norm)
        if step in POOLS:
            return pooling(step, config.pool)
        return Dropout(config.dropout, config.dropout_rescaled)

    def _pooled(self, name: str, step: str) -> None:
        pool = self.config.pool
        assert self.spatial is not None
        if self.spatial < pool.size:
            raise RequestError(
                f"model.{name}.then: {step!r} of size {pool.size} over maps of {self.spatial}x{self.spatial}; "
                "use a larger model.input_size, or pool less before it"
            )
        self.spatial = pool.windows(self.spatial, rounded_up=step != "floor_pool")
