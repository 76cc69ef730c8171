"""The typed schema of conf/, with every check that needs no data. Numbers live in conf/, beside their section.

Unknown keys and wrong types fail before any work; a value that makes no sense raises RequestError, which names the key.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.command import RequestError

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7", "fc8")
STEPS = ("activation", "norm", "same_map_norm", "pool", "dropout")


def _require(condition: bool, key: str, value: Any, constraint: str) -> None:
    if not condition:
        raise RequestError(f"{key}={value}: must be {constraint}")


def _require_one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, key, value, "one of " + ", ".join(choices))


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
        _require(self.size > 0 and self.size % 2 == 1, f"{key}.size", self.size, "odd and positive")
        _require(0 <= self.alpha < math.inf, f"{key}.alpha", self.alpha, "0 or more, and finite")
        _require(0 <= self.beta < math.inf, f"{key}.beta", self.beta, "0 or more, and finite")
        _require(0 < self.k < math.inf, f"{key}.k", self.k, "positive, and finite")


@dataclass
class PoolConfig:
    size: int
    stride: int

    def check(self, key: str) -> None:
        _require(self.size >= 1, f"{key}.size", self.size, "1 or more")
        _require(1 <= self.stride <= self.size, f"{key}.stride", self.stride, f"1 to {key}.size={self.size}")


@dataclass
class ConvConfig:
    """A convolutional layer; `kernels` counts all columns together."""

    kernels: int
    size: int
    stride: int
    padding: int
    reads: str
    then: list[str]
    weight_std: float
    bias: float

    def check(self, key: str) -> None:
        _check_layer(self, key, "kernels", self.kernels)
        _require(self.size >= 1, f"{key}.size", self.size, "1 or more")
        _require(self.stride >= 1, f"{key}.stride", self.stride, "1 or more")
        _require(0 <= self.padding < self.size, f"{key}.padding", self.padding, f"0 to {self.size - 1}, below the size")


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
    """The last layer: one unit a class."""

    reads: str
    weight_std: float
    bias: float

    def check(self, key: str) -> None:
        _require_one_of(f"{key}.reads", self.reads, ("own", "both"))
        _require(self.weight_std >= 0, f"{key}.weight_std", self.weight_std, "0 or more")


def _check_layer(layer: ConvConfig | DenseConfig, key: str, width_key: str, width: int) -> None:
    _require(1 <= width <= 1 << 20, f"{key}.{width_key}", width, "1 to 2^20")
    _require_one_of(f"{key}.reads", layer.reads, ("own", "both"))
    for step in layer.then:
        _require_one_of(f"{key}.then", step, STEPS)
    _require(len(set(layer.then)) == len(layer.then), f"{key}.then", layer.then, "a list that names each step once")
    _require(layer.weight_std >= 0, f"{key}.weight_std", layer.weight_std, "0 or more")


@dataclass
class ModelConfig:
    name: str
    columns: int
    input_size: int
    pad_right_bottom: int
    activation: str
    norm: NormConfig
    same_map_norm: NormConfig | None
    pool: PoolConfig
    dropout: float
    conv1: ConvConfig
    conv2: ConvConfig
    conv3: ConvConfig | None
    conv4: ConvConfig | None
    conv5: ConvConfig | None
    conv6: ConvConfig | None
    fc6: DenseConfig | None
    fc7: DenseConfig | None
    fc8: OutputConfig

    def __post_init__(self) -> None:
        _require(1 <= self.columns <= 8, "model.columns", self.columns, "1 to 8")
        _require(1 <= self.input_size <= 4096, "model.input_size", self.input_size, "1 to 4096")
        _require(self.pad_right_bottom >= 0, "model.pad_right_bottom", self.pad_right_bottom, "0 or more")
        _require_one_of("model.activation", self.activation, ("relu", "tanh"))
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 or more and less than 1")
        for name in ("norm", "same_map_norm", "pool", *LAYERS):
            if (part := getattr(self, name)) is not None:
                part.check(f"model.{name}")
        _require(
            self.pad_right_bottom < self.conv1.size, "model.pad_right_bottom", self.pad_right_bottom,
            f"less than model.conv1.size={self.conv1.size}: a window would read nothing but padding",
        )  # fmt: skip
        _require(self.conv1.reads == "own", "model.conv1.reads", self.conv1.reads, "own: every column sees the image")
        _require(
            self.fc8.reads == "both" or self.columns == 1, "model.fc8.reads", self.fc8.reads,
            "both: fc8 lives on the first device and would otherwise drop the other columns",
        )  # fmt: skip


@dataclass
class DataConfig:
    path: str


@dataclass
class AugmentConfig:
    """Section 4.1. `colour_noise` is the standard deviation of a_i; 0 switches the noise off."""

    name: str
    random_crop: bool
    mirror: bool
    colour_noise: float

    def __post_init__(self) -> None:
        _require(self.colour_noise >= 0, "augment.colour_noise", self.colour_noise, "0 or more")


@dataclass
class OptimConfig:
    name: str
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "optim.batch_size", self.batch_size, "1 or more")
        _require(self.learning_rate >= 0, "optim.learning_rate", self.learning_rate, "0 or more")
        _require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "0 or more and less than 1")
        _require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")


@dataclass
class ScheduleConfig:
    """The learning rate is divided by `divide_by` each time the validation error has not improved by `min_improvement`
    (a fraction) in `patience` epochs, `divisions` times; the next plateau, or `epochs`, ends the training.
    With patience null: divided after the epochs `divide_after`, whatever the error.
    """

    name: str
    epochs: int
    divisions: int
    divide_by: float
    patience: int | None
    min_improvement: float
    divide_after: list[int]

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "schedule.epochs", self.epochs, "1 or more")
        _require(self.divisions >= 0, "schedule.divisions", self.divisions, "0 or more")
        _require(self.divide_by > 1, "schedule.divide_by", self.divide_by, "more than 1")
        _require(self.patience is None or self.patience >= 1, "schedule.patience", self.patience, "1 or more, or null")
        _require(
            self.patience is None or not self.divide_after,
            "schedule.divide_after",
            self.divide_after,
            "empty, or schedule.patience=null",
        )
        _require(0 <= self.min_improvement < 1, "schedule.min_improvement", self.min_improvement, "a fraction below 1")


@dataclass
class RuntimeConfig:
    """What changes speed and rounding only. `workers` null: one less than the cores, at most 16; `channels_last` null:
    on the CPU.
    """

    workers: int | None
    tf32: bool
    channels_last: bool | None
    keep_freed_memory: bool

    def __post_init__(self) -> None:
        _require(self.workers is None or self.workers >= 0, "runtime.workers", self.workers, "0 or more, or null")


@dataclass
class RunReference:
    """Names a run: the folder runs_dir/run."""

    run: str
    runs_dir: str

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.run) is not None
        _require(plain, "run", repr(self.run), "a plain folder name: letters, digits, dots, dashes, at most 100")

    @property
    def folder(self) -> Path:
        return Path(self.runs_dir) / self.run


@dataclass
class RunConfig(RunReference):
    """What the commands that compute on a run share: its name, and where."""

    gpus: int | None
    devices: list[str] | None
    runtime: RuntimeConfig


@dataclass
class TrainConfig(RunConfig):
    seed: int
    data: DataConfig
    model: ModelConfig
    augment: AugmentConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    keep_every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2^63 - 1")
        _require(self.keep_every >= 1, "keep_every", self.keep_every, "1 or more")


@dataclass
class EvaluateConfig(RunConfig):
    checkpoint: str
    split: str
    views: int
    batch_size: int
    data_path: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_one_of("split", self.split, ("val", "test"))
        _require(self.views in (1, 10), "views", self.views, "1 (centre) or 10 (corners, centre and their mirrors)")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")


@dataclass
class PredictConfig(RunConfig):
    checkpoint: str
    images: list[str]
    views: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.images), "images", self.images, "one picture or more, images=[a.jpg]")
        _require(self.views in (1, 10), "views", self.views, "1 or 10")


@dataclass
class FiguresConfig(RunConfig):
    checkpoint: str


@dataclass
class ExportConfig(RunReference):
    checkpoint: str
    format: str
    out: str
    views: int
    opset: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_one_of("format", self.format, ("onnx", "torchscript", "safetensors"))
        _require(self.views in (1, 10), "views", self.views, "1 or 10")
        _require(18 <= self.opset <= 22, "opset", self.opset, "18 to 22")
        _require(self.format == "onnx" or self.opset == 18, "opset", self.opset, "left out: it is for format=onnx")
        whole = self.format != "safetensors"
        _require(whole or self.views == 1, "views", self.views, "left out: safetensors holds weights alone")


@dataclass
class SummaryConfig:
    model: ModelConfig
    classes: int
    channels: int
    gpus: int | None
    devices: list[str] | None

    def __post_init__(self) -> None:
        _require(1 <= self.classes <= 1 << 20, "classes", self.classes, "1 to 2^20")
        _require(1 <= self.channels <= 1 << 10, "channels", self.channels, "1 to 1024")


@dataclass
class BenchmarkConfig:
    model: ModelConfig
    batch_size: int
    steps: int
    gpus: int | None
    devices: list[str] | None
    runtime: RuntimeConfig

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        _require(self.steps >= 1, "steps", self.steps, "1 or more")
