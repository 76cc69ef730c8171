"""What a run computes, on what data, and where: conf/train.yaml and its groups."""

import re
from dataclasses import dataclass
from pathlib import Path

from alexnet_repro.config.checks import require
from alexnet_repro.config.model import ModelConfig


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
        require(self.colour_noise >= 0, "augment.colour_noise", self.colour_noise, "0 or more")


@dataclass
class OptimConfig:
    name: str
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "optim.batch_size", self.batch_size, "1 or more")
        require(self.learning_rate >= 0, "optim.learning_rate", self.learning_rate, "0 or more")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "0 or more and less than 1")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")


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
        require(self.epochs >= 1, "schedule.epochs", self.epochs, "1 or more")
        require(self.divisions >= 0, "schedule.divisions", self.divisions, "0 or more")
        require(self.divide_by > 1, "schedule.divide_by", self.divide_by, "more than 1")
        require(self.patience is None or self.patience >= 1, "schedule.patience", self.patience, "1 or more, or null")
        require(
            self.patience is None or not self.divide_after,
            "schedule.divide_after",
            self.divide_after,
            "empty, or schedule.patience=null",
        )
        require(0 <= self.min_improvement < 1, "schedule.min_improvement", self.min_improvement, "a fraction below 1")


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
        require(self.workers is None or self.workers >= 0, "runtime.workers", self.workers, "0 or more, or null")


@dataclass
class RunReference:
    """Names a run: the folder runs_dir/run."""

    run: str
    runs_dir: str

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.run) is not None
        require(plain, "run", repr(self.run), "a plain folder name: letters, digits, dots, dashes, at most 100")

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
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2^63 - 1")
        require(self.keep_every >= 1, "keep_every", self.keep_every, "1 or more")
