"""The commands on trained runs, and those on a network alone."""

import re
from dataclasses import dataclass

from alexnet_repro.config.model import ModelConfig
from alexnet_repro.config.training import AugmentConfig, RunConfig, RunReference, RuntimeConfig
from data_prep.common.errors import require, require_one_of

FIGURES = ("kernels", "curves", "labels", "neighbours", "embedding")
VIEWS = {  # the numbers of test views that there are
    1: "the centre patch",
    9: "three by three positions, no mirrors, as run in 2011 on CIFAR-10",
    10: "corners, centre, and their mirrors, as in section 4.1",
}


def check_views(views: int) -> None:
    """RequestError unless it is one of VIEWS."""
    known = ", ".join(f"{number} ({what})" for number, what in VIEWS.items())
    require(views in VIEWS, "views", views, f"one of {known}")


def check_shared(config: object) -> None:
    """Checks the keys that mean the same in every command, as far as `config` has them. RequestError names the first
    whose value makes no sense.
    """
    keys = vars(config)
    require_one_of("split", keys.get("split", "val"), ("val", "test"))
    check_views(keys.get("views", 1))
    for key, least in (("batch_size", 1), ("steps", 1), ("seed", 0)):
        require(keys.get(key, least) >= least, key, keys.get(key), f"{least} or more")


@dataclass
class EvaluateConfig:
    """One run, or several as an ensemble."""

    run: str | None
    runs: list[str] | None
    weights: list[float] | None
    runs_dir: str
    checkpoint: str
    split: str
    views: int
    batch_size: int
    keep: int | None
    classes: str | None
    others: str
    submission: str | None
    devkit: str | None
    data_path: str | None
    out: str | None
    gpus: int | None
    devices: list[str] | None
    runtime: RuntimeConfig

    def __post_init__(self) -> None:
        check_shared(self)
        require(bool(self.run) or bool(self.runs), "run", self.run, "given: run=NAME, or runs=[a,b,c] for an ensemble")
        require(self.run is None or self.runs is None, "runs", self.runs, "left out where run=NAME is given")
        names = self.names()
        require(len(set(names)) == len(names), "runs", names, "different runs")
        self.members()  # refuses what is no name
        if self.weights is not None:
            require(len(self.weights) == len(names), "weights", self.weights, f"one number a run, {len(names)}")
            require(all(0 < w < float("inf") for w in self.weights), "weights", self.weights, "positive, and finite")
        require(self.keep is None or self.keep >= 5, "keep", self.keep, "5 or more, or null for all classes")
        require_one_of("others", self.others, ("left_out", "kept"))
        needless = self.classes is None and self.others == "kept"
        require(not needless, "others", self.others, "left out, or given with classes=FILE")
        whole = self.classes is None or self.submission is None
        require(whole, "submission", self.submission, "left out with classes=FILE: the server wants every image")
        both = (self.submission is None) == (self.devkit is None)
        require(
            both, "submission", self.submission, "given with devkit=FILE, which has the ILSVRC ids, and not without"
        )

    def names(self) -> list[str]:
        return [self.run] if self.run else list(self.runs or [])

    def members(self) -> list[RunConfig]:
        return [RunConfig(name, self.runs_dir, self.gpus, self.devices, self.runtime) for name in self.names()]


@dataclass
class ClaimsConfig:
    runs_dir: str
    records: bool


@dataclass
class Figure1Config:
    """`relu`, `tanh`: runs are called NAME-SEED. `error`: a fraction."""

    runs_dir: str
    relu: str
    tanh: str
    error: float
    out: str

    def __post_init__(self) -> None:
        require(0 < self.error < 1, "error", self.error, "a fraction between 0 and 1")


@dataclass
class PredictConfig(RunConfig):
    checkpoint: str
    images: list[str]
    views: int
    batch_size: int
    json: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shared(self)
        require(bool(self.images), "images", self.images, "one image or more, images=[a.jpg], or a folder of them")


@dataclass
class FiguresConfig(RunConfig):
    checkpoint: str
    figures: list[str]
    split: str
    pictures: int
    queries: int
    neighbours: int
    embedded: int
    seed: int
    views: int
    batch_size: int
    data_path: str | None
    out: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shared(self)
        require(bool(self.figures), "figures", self.figures, "one or more of " + ", ".join(FIGURES))
        for name in self.figures:
            require_one_of("figures", name, FIGURES)
        for key, most in (("pictures", 40), ("queries", 40), ("neighbours", 20), ("embedded", 10_000)):
            require(1 <= getattr(self, key) <= most, key, getattr(self, key), f"1 to {most}")


@dataclass
class ComparisonConfig:
    """What the commands share that set runs beside each other; `resamples` and `seed` are of the bootstrap."""

    runs_dir: str
    split: str
    views: int
    resamples: int
    seed: int
    json: bool

    def __post_init__(self) -> None:
        check_shared(self)
        require(100 <= self.resamples <= 10_000_000, "resamples", self.resamples, "100 to 10,000,000")


@dataclass
class CompareConfig(ComparisonConfig):
    """Runs, or ensembles by the name of their folder (a+b), that were evaluated on the same images."""

    runs: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.runs) >= 2, "runs", self.runs, "two runs or more, runs=[a,b]")
        require(len(set(self.runs)) == len(self.runs), "runs", self.runs, "different runs")
        for name in self.runs:
            plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", name) is not None
            require(plain, "runs", repr(name), "names of folders in runs_dir")


@dataclass
class AblationsConfig(ComparisonConfig):
    """All runs of a folder, those together that differ in the seed alone, against the group `baseline`."""

    baseline: str


@dataclass
class ExportConfig(RunReference):
    checkpoint: str
    format: str
    names: str
    out: str
    views: int
    opset: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shared(self)
        require_one_of("format", self.format, ("onnx", "torchscript", "safetensors"))
        require(18 <= self.opset <= 22, "opset", self.opset, "18 to 22")
        require(self.format == "onnx" or self.opset == 18, "opset", self.opset, "left out: it is for format=onnx")
        whole = self.format != "safetensors"
        require_one_of("names", self.names, ("columns", "torchvision"))
        fits = self.names == "columns" or not whole
        require(fits, "names", self.names, "left out: it is for format=safetensors")
        require(whole or self.views == 1, "views", self.views, "left out: safetensors holds weights alone")


@dataclass
class ConvertConfig(RunReference):
    src: str
    classes: str | None
    colours: str | None
    mean_pixel: list[float]
    mean_image: str | None
    image_size: int
    input_size: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.colours is not None:
            require_one_of("colours", self.colours, ("BGR", "RGB"))
        three = len(self.mean_pixel) == 3 and all(0 <= value <= 255 for value in self.mean_pixel)
        require(three, "mean_pixel", self.mean_pixel, "three numbers, 0 to 255: red, green, blue")
        require(1 <= self.image_size <= 4096, "image_size", self.image_size, "1 to 4096")
        require(self.input_size is None or self.input_size >= 1, "input_size", self.input_size, "1 or more, or null")


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
        check_shared(self)


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
        check_shared(self)
        require(self.images >= 1, "images", self.images, "1 or more")
