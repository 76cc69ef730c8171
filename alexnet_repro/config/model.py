"""The network: conf/model/."""

import math
from dataclasses import dataclass

from data_prep.common.errors import require, require_one_of

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7", "bottleneck", "fc8")
STEPS = ("activation", "norm", "same_map_norm", "pool", "floor_pool", "mean_pool", "dropout")
POOLS = ("pool", "floor_pool", "mean_pool")


@dataclass
class NormConfig:
    """y = x * (k + alpha * sum of x^2 over the window)^-beta."""

    size: int
    alpha: float
    beta: float
    k: float

    @property
    def torch_alpha(self) -> float:
        """What PyTorch calls alpha: it divides it by the size."""
        return self.alpha * self.size

    def check(self, key: str) -> None:
        require(self.size > 0 and self.size % 2 == 1, f"{key}.size", self.size, "odd and positive")
        require(0 <= self.alpha < math.inf, f"{key}.alpha", self.alpha, "0 or more, and finite")
        require(0 <= self.beta < math.inf, f"{key}.beta", self.beta, "0 or more, and finite")
        require(0 < self.k < math.inf, f"{key}.k", self.k, "positive, and finite")


@dataclass
class ResponseNormConfig(NormConfig):
    """`across`: the maps that a window may reach, those of the same column or of the whole layer."""

    across: str = "column"  # the configurations of older runs lack it

    def check(self, key: str) -> None:
        super().check(key)
        require_one_of(f"{key}.across", self.across, ("column", "layer"))


@dataclass
class PoolConfig:
    size: int
    stride: int

    def check(self, key: str) -> None:
        require(self.size >= 1, f"{key}.size", self.size, "1 or more")
        require(1 <= self.stride <= self.size, f"{key}.stride", self.stride, f"1 to {key}.size={self.size}")

    def windows(self, side: int, rounded_up: bool = True) -> int:
        """The side of the maps that come of maps of `side`. Rounded up, as in 2012, the last window may pass the edge;
        it begins before it, as `stride` is no larger than `size`.
        """
        return (side - self.size + (self.stride - 1) * rounded_up) // self.stride + 1


@dataclass
class ConvConfig:
    """A convolutional layer; `kernels` counts all columns together.

    `local`: locally connected, with kernels of its own at every place (CIFAR-10 nets of 2011 and 2012, not the paper).
    """

    kernels: int
    size: int
    stride: int
    padding: int
    reads: str
    then: list[str]
    weight_std: float
    bias: float
    local: bool = False

    def check(self, key: str) -> None:
        _check_layer(self, key, "kernels", self.kernels)
        require(self.size >= 1, f"{key}.size", self.size, "1 or more")
        require(self.stride >= 1, f"{key}.stride", self.stride, "1 or more")
        require(self.stride == 1 or not self.local, f"{key}.stride", self.stride, f"1, because of {key}.local=true")
        require(0 <= self.padding < self.size, f"{key}.padding", self.padding, f"0 to {self.size - 1}, below the size")


@dataclass
class DenseConfig:
    """A hidden dense layer; `units` counts all columns together."""

    units: int
    reads: str
    then: list[str]
    weight_std: float
    bias: float

    def check(self, key: str) -> None:
        _check_layer(self, key, "units", self.units)


@dataclass
class OutputConfig:
    """The last layer: one unit a class. `split`: the classes lie in equal shares on the devices of all columns, instead
    of all on the first.
    """

    reads: str
    weight_std: float
    bias: float
    split: bool = False  # the configurations of older runs lack it

    def check(self, key: str) -> None:
        require_one_of(f"{key}.reads", self.reads, ("own", "both"))
        require(self.weight_std >= 0, f"{key}.weight_std", self.weight_std, "0 or more")


def _check_layer(layer: ConvConfig | DenseConfig, key: str, width_key: str, width: int) -> None:
    require(1 <= width <= 1 << 20, f"{key}.{width_key}", width, "1 to 2^20")
    require_one_of(f"{key}.reads", layer.reads, ("own", "both"))
    for step in layer.then:
        require_one_of(f"{key}.then", step, STEPS)
    require(len(set(layer.then)) == len(layer.then), f"{key}.then", layer.then, "a list that names each step once")
    require(sum(step in POOLS for step in layer.then) <= 1, f"{key}.then", layer.then, "one of " + ", ".join(POOLS))
    require(layer.weight_std >= 0, f"{key}.weight_std", layer.weight_std, "0 or more")


@dataclass
class ModelConfig:
    """`width` multiplies all kernels and units but fc8's, and divides the spread of the weights that read them by its
    square root, so that sums over fewer inputs keep their size.
    `dropout_rescaled`: outputs are divided by 1 - dropout in training, instead of multiplied by it at test.
    """

    name: str
    columns: int
    width: float
    input_size: int
    pad_right_bottom: int
    activation: str
    norm: ResponseNormConfig
    same_map_norm: NormConfig | None
    pool: PoolConfig
    dropout: float
    conv1: ConvConfig
    conv2: ConvConfig | None
    conv3: ConvConfig | None
    conv4: ConvConfig | None
    conv5: ConvConfig | None
    conv6: ConvConfig | None
    fc6: DenseConfig | None
    fc7: DenseConfig | None
    fc8: OutputConfig
    bottleneck: DenseConfig | None = None  # between fc7 and fc8; the configurations of older runs lack both
    dropout_rescaled: bool = False

    def __post_init__(self) -> None:
        require(1 <= self.columns <= 8, "model.columns", self.columns, "1 to 8")
        require(0 < self.width <= 16, "model.width", self.width, "more than 0, at most 16")
        require(1 <= self.input_size <= 4096, "model.input_size", self.input_size, "1 to 4096")
        require(self.pad_right_bottom >= 0, "model.pad_right_bottom", self.pad_right_bottom, "0 or more")
        require_one_of("model.activation", self.activation, ("relu", "tanh"))
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 or more and less than 1")
        for name in ("norm", "same_map_norm", "pool", *LAYERS):
            if (part := getattr(self, name)) is not None:
                part.check(f"model.{name}")
        require(
            self.pad_right_bottom < self.conv1.size, "model.pad_right_bottom", self.pad_right_bottom,
            f"less than model.conv1.size={self.conv1.size}: a window would read nothing but padding",
        )  # fmt: skip
        require(self.conv1.reads == "own", "model.conv1.reads", self.conv1.reads, "own: every column sees the image")
        require(not self.conv1.local, "model.conv1.local", True, "false: Figure 3 shows one kernel for all places")
        require(
            self.fc8.reads == "both" or self.columns == 1, "model.fc8.reads", self.fc8.reads,
            "both: a class's unit lies in one column and would otherwise drop the others",
        )  # fmt: skip
