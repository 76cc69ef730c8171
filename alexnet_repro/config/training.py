"""What a run computes, on what data, and where: conf/train.yaml and its groups."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_repro.config.model import LAYERS, ModelConfig
from data_prep.common.errors import require, require_one_of


@dataclass
class DataConfig:
    path: str


@dataclass
class AugmentConfig:
    """Section 4.1, and how the mean image is subtracted (section 2).

    `colour_noise` is the standard deviation of a_i; 0 switches the noise off. `shared_by` images in a row share one
    patch position and one mirroring. `mean`: each pixel's own (at_patch), or the mean image's central patch (centre).
    """

    name: str
    random_crop: bool
    mirror: bool
    shared_by: int
    mean: str
    colour_noise: float
    colour_scale: str
    colour_divisor: float
    input_scale: float

    def __post_init__(self) -> None:
        require(self.shared_by >= 1, "augment.shared_by", self.shared_by, "1 or more")
        require_one_of("augment.mean", self.mean, ("at_patch", "centre"))
        require(0 <= self.colour_noise < math.inf, "augment.colour_noise", self.colour_noise, "0 or more, and finite")
        require_one_of("augment.colour_scale", self.colour_scale, ("eigenvalues", "standard_deviations"))
        require(
            0 < self.colour_divisor < math.inf, "augment.colour_divisor", self.colour_divisor, "positive, and finite"
        )
        require(0 < self.input_scale < math.inf, "augment.input_scale", self.input_scale, "positive, and finite")


@dataclass
class OptimConfig:
    """`rule`: sgd is section 5's; adam is Kingma and Ba's, whose beta_1 is `momentum` and whose beta_2 is
    `second_momentum`. `layer_decay`: layers whose weights have a decay of their own.
    """

    name: str
    rule: str
    batch_size: int
    learning_rate: float
    bias_rate_times: float
    momentum: float
    second_momentum: float
    weight_decay: float
    layer_decay: dict[str, float]
    decay_biases: bool
    reshuffle: bool

    def __post_init__(self) -> None:
        require_one_of("optim.rule", self.rule, ("sgd", "adam"))
        require(self.batch_size >= 1, "optim.batch_size", self.batch_size, "1 or more")
        require(0 <= self.learning_rate < math.inf, "optim.learning_rate", self.learning_rate, "0 or more, and finite")
        times = self.bias_rate_times
        require(0 <= times < math.inf, "optim.bias_rate_times", times, "0 or more, and finite")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "0 or more and less than 1")
        second = self.second_momentum
        require(0 <= second < 1, "optim.second_momentum", second, "0 or more and less than 1")
        for layer, decay in {"": self.weight_decay, **self.layer_decay}.items():
            key = f"optim.layer_decay.{layer}" if layer else "optim.weight_decay"
            require(layer in ("", *LAYERS), key, decay, "for a layer, one of " + ", ".join(LAYERS))
            require(0 <= decay < math.inf, key, decay, "0 or more, and finite")


@dataclass
class ChangeConfig:
    """What changes once `after` epochs are done, or {epoch: E, batches: B}: B batches into the epoch that follows the
    first E. Rates are multiples of the first ones; what is left out stays.

    `layers`: weights with a rate of their own, from here on; 0 freezes the layer, biases and all; null ends it.
    """

    after: Any
    weights: float | None = None
    biases: float | None = None
    layers: dict[str, float | None] | None = None
    colour_noise: bool | None = None

    def __post_init__(self) -> None:
        whole = all(isinstance(number, int) and number >= 0 for number in self.position)
        known = isinstance(self.after, int) or (
            isinstance(self.after, dict) and set(self.after) == {"epoch", "batches"}
        )
        constraint = "a number of epochs, 0 or more, or {epoch: E, batches: B}"
        require(known and whole, "schedule.changes, after", self.after, constraint)

    @property
    def position(self) -> tuple[int, int]:
        """Epochs done, and batches done of the epoch after them."""
        if isinstance(self.after, dict):
            return self.after.get("epoch", 0), self.after.get("batches", 0)
        return self.after, 0


@dataclass
class ScheduleConfig:
    """The learning rate is divided by `divide_by` each time the validation error has not improved by `min_improvement`
    (a fraction) in `patience` epochs, `divisions` times; the next plateau, or `epochs`, ends the training. No
    plateau is counted before an epoch with a mean training loss below `counts_once_loss_below` times ln(classes).
    With patience null: `changes` come after fixed epochs, counted in a run of `recorded_epochs` where that is given.
    `until_train_error`: the training ends with the first epoch whose training error is no higher (a fraction).
    """

    name: str
    epochs: int
    divisions: int
    divide_by: float
    patience: int | None
    min_improvement: float
    until_train_error: float | None
    changes: list[ChangeConfig]
    counts_once_loss_below: float | None = 0.99  # as in conf/: the configurations of older runs lack both
    recorded_epochs: int | None = None

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "schedule.epochs", self.epochs, "1 or more")
        require(self.divisions >= 0, "schedule.divisions", self.divisions, "0 or more")
        require(1 < self.divide_by < math.inf, "schedule.divide_by", self.divide_by, "more than 1, and finite")
        require(self.patience is None or self.patience >= 1, "schedule.patience", self.patience, "1 or more, or null")
        require(0 <= self.min_improvement < 1, "schedule.min_improvement", self.min_improvement, "a fraction below 1")
        until = self.until_train_error
        require(until is None or 0 <= until < 1, "schedule.until_train_error", until, "a fraction below 1, or null")
        below = self.counts_once_loss_below
        constraint = "a fraction, more than 0, at most 1, or null"
        require(below is None or 0 < below <= 1, "schedule.counts_once_loss_below", below, constraint)
        recorded = self.recorded_epochs
        require(recorded is None or recorded >= 1, "schedule.recorded_epochs", recorded, "1 or more, or null")
        after = [change.after for change in self.changes]
        require(self.patience is None or not after, "schedule.changes", after, "empty, or schedule.patience=null")
        positions = [change.position for change in self.changes]
        increasing = positions == sorted(set(positions))
        require(increasing, "schedule.changes", after, "in the order of `after`, each once")
        for change in self.changes:
            rates = {"weights": change.weights, "biases": change.biases, **(change.layers or {})}
            for name, rate in rates.items():
                key = f"schedule.changes, after {change.after}, {name}"
                require(name in ("weights", "biases", *LAYERS), key, rate, "for a layer, one of " + ", ".join(LAYERS))
                require(rate is None or 0 <= rate < math.inf, key, rate, "0 or more, and finite")


@dataclass
class RuntimeConfig:
    """What changes speed and rounding only. `workers` null: one less than the cores, at most 16; `channels_last` null:
    on the CPU; `fast` null: with all columns on one GPU that it is made for. `data_on_gpu`: a training reads its
    images once, into the memory of the first column's device.
    """

    workers: int | None
    loader_timeout: float
    precision: str
    channels_last: bool | None
    keep_freed_memory: bool
    # The configurations of older runs lack these.
    fast: bool | None = None
    deterministic: bool = False
    data_on_gpu: bool = False

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 0, "runtime.workers", self.workers, "0 or more, or null")
        require(self.loader_timeout >= 0, "runtime.loader_timeout", self.loader_timeout, "0 or more seconds")
        require_one_of("runtime.precision", self.precision, ("fp32", "tf32", "bf16"))


@dataclass
class RunReference:
    """Names a run: the folder runs_dir/run."""

    run: str
    runs_dir: str

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"[^\W_][\w.-]*", self.run) is not None and len(self.run.encode()) <= 100
        several = "; --multirun takes several" if "," in self.run else ""
        require(plain, "run", repr(self.run), "a plain folder name: letters, digits, dots, dashes, underscores, at "
                f"most 100 bytes{several}")  # fmt: skip

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
    save_minutes: float
    log_every: int
    allow_changes: list[str]
    init_from: str | None = None  # the configurations of older runs lack these
    init_checkpoint: str | None = None
    init_layers: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2^63 - 1")
        require(self.keep_every >= 1, "keep_every", self.keep_every, "1 or more")
        require(self.save_minutes > 0, "save_minutes", self.save_minutes, "more than 0")
        require(self.log_every >= 1, "log_every", self.log_every, "1 or more")
        source, name = self.source_folder, self.init_checkpoint
        require(name is None or source is not None, "init_checkpoint", name, "given with init_from=RUN")
        layers, possible = self.init_layers, LAYERS[:-1]
        require(layers is None or source is not None, "init_layers", layers, "given with init_from=RUN")
        known = layers is None or (bool(layers) and len(set(layers)) == len(layers) and set(layers) <= set(possible))
        require(known, "init_layers", layers, f"one or more of {', '.join(possible)}, each once (fc8's units are the "
                "classes)")  # fmt: skip
        itself = source is not None and source.resolve() == self.folder.resolve()
        require(not itself, "init_from", self.init_from, "another run than the one that begins")

    @property
    def source_folder(self) -> Path | None:
        """The folder of the run that `init_from` names, in runs_dir or by a path."""
        if self.init_from is None:
            return None
        return Path(self.init_from) if "/" in self.init_from else Path(self.runs_dir) / self.init_from
