"""The commands on a trained run, and those on a network alone."""

from dataclasses import dataclass

from alexnet_repro.config.checks import require, require_one_of
from alexnet_repro.config.model import ModelConfig
from alexnet_repro.config.training import AugmentConfig, RunConfig, RunReference, RuntimeConfig


@dataclass
class EvaluateConfig(RunConfig):
    checkpoint: str
    split: str
    views: int
    batch_size: int
    data_path: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("split", self.split, ("val", "test"))
        require(self.views in (1, 10), "views", self.views, "1 (centre) or 10 (corners, centre and their mirrors)")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")


@dataclass
class PredictConfig(RunConfig):
    checkpoint: str
    images: list[str]
    views: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.images), "images", self.images, "one picture or more, images=[a.jpg]")
        require(self.views in (1, 10), "views", self.views, "1 or 10")


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
        require_one_of("format", self.format, ("onnx", "torchscript", "safetensors"))
        require(self.views in (1, 10), "views", self.views, "1 or 10")
        require(18 <= self.opset <= 22, "opset", self.opset, "18 to 22")
        require(self.format == "onnx" or self.opset == 18, "opset", self.opset, "left out: it is for format=onnx")
        whole = self.format != "safetensors"
        require(whole or self.views == 1, "views", self.views, "left out: safetensors holds weights alone")


@dataclass
class SummaryConfig:
    model: ModelConfig
    classes: int
    channels: int
    gpus: int | None
    devices: list[str] | None

    def __post_init__(self) -> None:
        require(1 <= self.classes <= 1 << 20, "classes", self.classes, "1 to 2^20")
        require(1 <= self.channels <= 1 << 10, "channels", self.channels, "1 to 1024")


@dataclass
class BenchmarkConfig:
    model: ModelConfig
    batch_size: int
    steps: int
    gpus: int | None
    devices: list[str] | None
    runtime: RuntimeConfig

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.steps >= 1, "steps", self.steps, "1 or more")


@dataclass
class InputBenchmarkConfig:
    src: str
    images: int
    batch_size: int
    steps: int
    model: ModelConfig
    augment: AugmentConfig
    runtime: RuntimeConfig

    def __post_init__(self) -> None:
        require(self.images >= 1, "images", self.images, "1 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
