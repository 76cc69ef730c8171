"""A run between two steps: all that a checkpoint holds and a run continues from."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.model import AlexNet
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.training.optimisers import buffers_of, optimiser_for, restore
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.schedule import Phase, layers_with_own_rates, phase_after
from alexnet_repro.training.step import StepResult
from data_prep.common.errors import RequestError, RunError

_IN_CHECKPOINTS = {"top5_correct": "among_five"}  # fields of EpochProgress that checkpoints call by another name


@dataclass
class EpochProgress:
    """Sums over the steps of the epoch under way, of all ranks."""

    batch: int = 0  # steps done, in batches of today's size
    images: int = 0
    loss_sum: float = 0.0  # in nats, over the images
    correct: int = 0  # images whose label was the first guess
    top5_correct: int = 0  # images whose label was among the first five guesses
    seconds: float = 0.0
    waited: float = 0.0  # of the seconds, those spent waiting for data
    logged: dict[str, float] = field(default_factory=dict)  # the sums at the last call of `since_last_log`

    def add(self, result: StepResult) -> None:
        self.batch += 1
        self.images += result.images
        self.loss_sum += result.loss * result.images
        self.correct += result.correct
        self.top5_correct += result.top5_correct

    def means(self) -> dict[str, float]:
        """The epoch so far, as its row of the history has it: the loss in nats, errors as fractions of the images, each
        classified before the update of its own step and with dropout, `data_wait` as a fraction of `seconds`.
        """
        return {
            "train_loss": self.loss_sum / self.images,
            "train_top1_error": 1 - self.correct / self.images,
            "train_top5_error": 1 - self.top5_correct / self.images,
            "images_per_second": self.images / self.seconds,
            "data_wait": self.waited / self.seconds,
            "seconds": self.seconds,
        }

    def since_last_log(self) -> dict[str, float]:
        """Means over the steps since the last call: `loss`, `images_per_second` and `data_wait`."""
        now = {name: getattr(self, name) for name in ("images", "loss_sum", "seconds", "waited")}
        images, loss_sum, seconds, waited = (now[name] - self.logged.get(name, 0) for name in now)
        self.logged = now
        means = {"loss": loss_sum / images}
        if seconds:  # none between the last two steps of an epoch, whose results are read at once
            means |= {"images_per_second": images / seconds, "data_wait": waited / seconds}
        return means

    def for_checkpoint(self) -> dict[str, Any]:
        """Empty between two epochs."""
        return {_IN_CHECKPOINTS.get(name, name): value for name, value in asdict(self).items()} if self.batch else {}

    @classmethod
    def from_checkpoint(cls, kept: Mapping[str, Any]) -> "EpochProgress":
        names = {old: new for new, old in _IN_CHECKPOINTS.items()}
        return cls(**{names.get(name, name): value for name, value in kept.items()})


class TrainingState:
    """A run between two steps. All that follows is a function of the configuration and of this."""

    def __init__(self, config: TrainConfig, data: PreparedData, model: AlexNet) -> None:
        """The beginning of a run. RequestError if `config.optim` names a layer that `model` lacks."""
        self.config, self.data, self.model = config, data, model
        self.optimiser = optimiser_for(config.optim, model, layers_with_own_rates(config.schedule))
        self.epoch, self.step = 0, 0  # both count what is done
        self.progress = EpochProgress()
        self.history: list[dict[str, float]] = []  # a row for each epoch done
        self.init_from: dict[str, Any] | None = None  # the run whose weights this one began with

    def __str__(self) -> str:
        within = f" and {self.progress.batch} batches" if self.progress.batch else ""
        return f"{self.epoch} epochs{within}, step {self.step}"

    def phase(self, batches: int | None = None) -> Phase:
        """What holds for the next step; or once `batches` of the epoch under way are done."""
        return phase_after(self.config.schedule, self.history, self.progress.batch if batches is None else batches)

    def end_epoch(self, errors: Mapping[str, float]) -> None:
        """Adds the epoch's row to the history, with the rates of its last step. `errors`: of validation."""
        phase, optim = self.phase(self.progress.batch - 1), self.config.optim
        self.epoch += 1
        self.history.append(
            {
                "epoch": self.epoch,
                "step": self.step,
                "learning_rate": optim.learning_rate * phase.weights,
                "bias_learning_rate": optim.learning_rate * optim.bias_rate_times * phase.biases,
                "chance_loss": math.log(len(self.data.classes)),
                **self.progress.means(),
                **errors,
            }
        )
        self.progress = EpochProgress()

    def checkpoint(self) -> Checkpoint:
        """Weights and buffers are the model's and the optimiser's own, which the next step changes."""
        return Checkpoint(
            epoch=self.epoch,
            step=self.step,
            within=self.progress.for_checkpoint(),
            weights=self.model.state_dict(),
            **buffers_of(self.model, self.optimiser),
            history=self.history,
            classes=self.data.classes,
            words=self.data.class_names,
            data=self.data.identity(),
            mean_image=torch.from_numpy(self.data.mean_image),
            inputs={"mean": self.config.augment.mean, "scale": self.config.augment.input_scale},
            model=asdict(self.config.model),
            init_from=self.init_from,
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """RequestError if it was trained on other data, by another optimiser, or is of a network of other shapes."""
        if checkpoint.data_fingerprint != self.data.fingerprint:
            raise RequestError(
                f"{self.config.folder}: was begun on {checkpoint.data['description']}, and {self.data.folder} is "
                "another data set; choose another run=NAME"
            )
        restore(checkpoint, self.model, self.optimiser)
        self.epoch, self.step, self.history = checkpoint.epoch, checkpoint.step, checkpoint.history
        self.progress = EpochProgress.from_checkpoint(checkpoint.within)
        # Where the epoch goes on, even if allow_changes has given batches another size since.
        self.progress.batch = -(-self.progress.images // self.config.optim.batch_size)
        self.init_from = checkpoint.init_from

    def refuse_disagreement(self, ranks: Ranks) -> None:
        """RunError unless all ranks start from the same step: one may have read another checkpoint, or none."""
        device = self.model.column_devices()[0]
        if not ranks.agree(torch.tensor([self.epoch, self.step], device=device)):
            raise RunError(
                f"{self.config.folder}: process {ranks.rank} continues from step {self.step}, and the first one from "
                "another; all machines must see the same runs_dir"
            )
        taken = self.init_from["step"] if self.init_from else 0
        if not ranks.agree(torch.tensor([taken], device=device)):
            raise RunError(
                f"init_from={self.config.init_from}: process {ranks.rank} took its weights of step {taken}, and the "
                "first one those of another; wait until that run has ended, or name an init_checkpoint that stays"
            )
