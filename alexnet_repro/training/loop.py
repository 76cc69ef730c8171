"""Training, step by step and epoch by epoch."""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from alexnet_repro import runtime
from alexnet_repro.config import TrainConfig
from alexnet_repro.data import (
    Batch,
    ColumnInputs,
    LoaderError,
    PreparedData,
    ResidentSplit,
    draw_epoch,
    epoch_batches,
    on_devices,
    refuse_larger_than_memory,
    shuffled,
    views_of,
    whole_images,
)
from alexnet_repro.data.loader import loading_for, with_progress
from alexnet_repro.evaluation.inference import forward_for, predict
from alexnet_repro.evaluation.metrics import label_ranks, log_loss
from alexnet_repro.model import AlexNet
from alexnet_repro.paper import numbers as paper_numbers
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import BEST, RunFolder
from alexnet_repro.training.background import Background
from alexnet_repro.training.health import DeadUnits
from alexnet_repro.training.optimisers import buffers_of, optimiser_for, restore, set_rates
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.saver import Saver
from alexnet_repro.training.schedule import Phase, layers_with_own_rates, phase_after
from alexnet_repro.training.step import Outcome, Stepper, Within, largest_activations
from alexnet_repro.training.stop import StopRequest
from alexnet_repro.training.watch import Watch
from data_prep.common.errors import RequestError, RunError
from data_prep.reader import SplitReader

_READ_AT_ONCE = 128  # pictures on their way to the device; 25 MB in shared memory if they have 256 pixels


def refuse_small_pictures(config: TrainConfig, data: PreparedData) -> None:
    if config.model.input_size > data.image_size:
        raise RequestError(
            f"model.input_size={config.model.input_size}: larger than the {data.image_size} pixels of "
            f"{data.folder}; prepare the data with a larger image_size"
        )


class Stopped(Exception):
    """The run was asked to stop, and has saved all it did."""


@dataclass
class _Given:
    """A step that was given to the devices, and may not be done yet."""

    outcome: Outcome
    batches: Mapping[torch.device, Batch]
    noise: bool


class Trainer:
    """A run between two steps. Everything that follows is a function of the configuration, `history`, and the position:
    `epoch` and `step`, both counting what is done, and what is `within` the epoch under way.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: PreparedData,
        model: AlexNet,
        folder: RunFolder,
        ranks: Ranks | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        """RequestError if the network does not fit the pictures, or the batch not the ranks."""
        self.config, self.data, self.model, self.folder = config, data, model, folder
        self.ranks = Ranks() if ranks is None else ranks
        self.stop = StopRequest() if stop is None else stop  # which is false until it is asked
        self.epoch, self.step, self.within = 0, 0, Within()
        self.history: list[dict[str, float]] = []
        self.init_from: dict[str, Any] | None = None  # what the weights of `model` were taken from
        refuse_small_pictures(config, data)
        if config.optim.batch_size < self.ranks.size:
            raise RequestError(f"optim.batch_size={config.optim.batch_size}: must be {self.ranks.size} or more, one "
                               "picture for each process")  # fmt: skip
        self.devices = model.column_devices()
        self.rule = data.input_rule(config.augment, config.model.input_size)
        self.noise = data.colour_noise(config.augment)
        self.inputs = ColumnInputs(self.rule, self.devices, config.runtime.channels_last, self.noise)
        self.loading = loading_for(config.runtime, self.inputs.use_gpu, self.ranks.local_size, lambda: bool(self.stop))
        train, val = data.split("train"), data.split("val")
        if config.runtime.data_on_gpu:
            refuse_larger_than_memory([train, val], self.devices[0])
        self.train_split: SplitReader | ResidentSplit = train
        self.val_split: SplitReader | ResidentSplit = val
        self.optimiser = optimiser_for(config.optim, model, layers_with_own_rates(config.schedule))

    def resume(self, checkpoint: Checkpoint) -> None:
        if checkpoint.data["plan"] != self.data.identity()["plan"]:
            raise RequestError(
                f"{self.folder.path}: was begun on {checkpoint.data['description']}, and {self.data.folder} is another "
                "data set; choose another run=NAME"
            )
        self.epoch, self.step, self.history = checkpoint.epoch, checkpoint.step, checkpoint.history
        self.within, self.init_from = Within(**checkpoint.within), checkpoint.init_from
        restore(checkpoint, self.model, self.optimiser)

    def agree(self) -> None:
        """RunError unless all ranks go on from the same step: one may read another checkpoint, or none."""
        if not self.ranks.same_everywhere(torch.tensor([self.epoch, self.step], device=self.devices[0])):
            raise RunError(
                f"{self.folder.path}: process {self.ranks.rank} goes on from step {self.step}, and the first one from "
                "another; all machines must see the same runs_dir"
            )
        begun = self.init_from["step"] if self.init_from else 0
        if not self.ranks.same_everywhere(torch.tensor([begun], device=self.devices[0])):
            raise RunError(
                f"init_from={self.config.init_from}: process {self.ranks.rank} took its weights of step {begun}, and "
                "the first one those of another; wait until that run has ended, or name an init_checkpoint that stays"
            )

    def phase(self) -> Phase:
        return phase_after(self.config.schedule, self.history)

    def run(self) -> None:
        """Until the schedule ends it. Stopped if it was asked to stop before; RunError if it cannot go on."""
        self.stepper = self._stepper()
        self.forward = forward_for(self.model, self.inputs, self.config.runtime, self.ranks.size)
        self.background = Background()
        self.saver = Saver(self.folder, self.config.save_minutes, self.background)
        self.watch = self._watch() if self.ranks.first else None
        try:
            while not (phase := self.phase()).finished:
                try:
                    self._train_epoch(phase)
                except LoaderError:  # the disk hangs, say, and the steps are done as far as there was data
                    if not self.stop or self.ranks.size > 1:
                        raise
                    self._save_and_leave()
                if self._any_asked_to_stop():
                    self._save_and_leave()
                errors, dead_units = self._validate()
                self.epoch += 1
                self.history.append({"epoch": self.epoch, "step": self.step, **self._row(phase), **errors})
                self.within = Within()
                if self.watch:
                    self.watch.epoch(self.history[-1], dead_units)
                self._save(self._names_for_good())
                if self._any_asked_to_stop():
                    self._leave()
            if self.ranks.first and not self.saver.finish(lambda: bool(self.stop)):
                raise RunError(f"{self.folder.checkpoints}: the last checkpoint could not be written; free some space "
                               "and start again to continue")  # fmt: skip
            if self.watch:
                self.watch.finish()
        finally:
            try:
                if self.watch:
                    self.watch.close()
            finally:
                self.background.close()

    def _stepper(self) -> Stepper:
        config = self.config
        parts = self.model, self.optimiser, self.inputs, config.seed, self.ranks, config.runtime.precision
        if not runtime.fast_form(config.runtime, config.model, self.devices, self.ranks.size):
            return Stepper(*parts)
        from alexnet_repro.training.fast_step import FastStepper  # needs Triton

        return FastStepper(*parts, self.noise, config.optim.batch_size)

    def _watch(self) -> Watch:
        # Of one network with ten views. The curves are of the centre patch: 1.5 and 1.3 points more in section 6.
        row = paper_numbers.row(self.data.whole_release(), None, 10, 1, self.config.model.conv6 is not None)
        paper = (row.top1, row.top5) if row and row.top1 and row.top5 else None
        return Watch(
            self.config, self.folder, self.model, self.optimiser, self.rule, self.step, self.history, paper,
            self.background,
        )  # fmt: skip

    def _train_epoch(self, phase: Phase) -> None:
        """The batches of the epoch that are not done yet."""
        if self.config.runtime.data_on_gpu:
            self.train_split = self._resident(self.train_split, "training pictures")
            self.val_split = self._resident(self.val_split, "validation pictures")
        set_rates(self.optimiser, phase)
        self.model.train()
        noise = phase.colour_noise and self.config.augment.colour_noise > 0
        given: deque[_Given] = deque()
        lag = 1 if self.inputs.use_gpu else 0  # steps that the host runs ahead of the devices
        if self.watch:
            self.watch.epoch_begins(len(self.train_split), self.within)
        told = False
        counted = asked = time.perf_counter()  # up to where the seconds are counted; when data was asked for
        for batches in on_devices(self._batches(), self.devices):
            self.within.waited += time.perf_counter() - asked
            outcome = self.stepper(batches, self.step + len(given), noise, bool(self.stop))
            given.append(_Given(outcome, batches, noise))
            now = time.perf_counter()
            self.within.seconds, counted = self.within.seconds + now - counted, now
            # All ranks leave after the same step, one after that of which they were told to: `told` may come early, by
            # the settling before a save, which the first rank alone does.
            stop = self._settle(given, lag) or told
            told = False
            stop = stop if self.ranks.size > 1 else bool(self.stop)
            if stop or (self.ranks.first and self.saver.due()):
                told = self._settle(given, 0)
                self._save()
            if stop:
                self._leave()
            asked = time.perf_counter()
        self._settle(given, 0)

    def _resident(self, split: SplitReader | ResidentSplit, what: str) -> ResidentSplit:
        """The split on the first column's device, where it is read once. Every rank reads and holds all of it."""
        if isinstance(split, ResidentSplit):
            return split
        batches = whole_images(split, self.data.image_size, _READ_AT_ONCE, self.loading)
        shown = with_progress(batches, len(split), f"{what} to {self.devices[0]}") if self.ranks.first else batches
        return ResidentSplit(split, self._unless_stopped(shown), self.devices[0])

    def _unless_stopped(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.stop and self.ranks.size == 1:  # several stop together, after the first step
                self._leave()
            yield batch

    def _batches(self) -> Iterator[Batch]:
        config, count = self.config, len(self.train_split)
        order = shuffled(config.seed, self.epoch if config.optim.reshuffle else 0, count)
        draws = draw_epoch(config.augment, config.seed, self.epoch, count, self.rule.margin, self.data.channels)
        return epoch_batches(
            self.train_split, order, draws, self.rule.size, config.optim.batch_size, self.loading,
            first=self.within.batch, rank=self.ranks.rank, ranks=self.ranks.size,
        )  # fmt: skip

    def _settle(self, given: deque[_Given], most: int) -> bool:
        """Counts the steps that are done, until at most so many are not; whether one of them was told to stop."""
        stop = False
        while len(given) > most:
            done = given.popleft()
            numbers = done.outcome.read()
            if not math.isfinite(numbers.loss):
                raise RunError(self._diverged(done, numbers.loss))
            images = done.outcome.total
            self.step += 1
            self.within.batch += 1
            self.within.images += images
            self.within.loss_sum += numbers.loss * images
            self.within.correct += numbers.correct
            self.within.among_five += numbers.among_five
            stop = stop or numbers.stop
            if self.watch:
                if self.within.batch == 1:
                    self.watch.batch(self.step, self.inputs.of_batches(done.batches, done.noise)[0])
                self.watch.step(self.step, numbers.loss, self.within)
        return stop

    def _diverged(self, done: _Given, loss: float) -> str:
        columns = self.stepper.columns(done.batches, self.step, done.noise)
        largest = largest_activations(self.model, columns)
        return (
            f"step {self.step + 1}: the loss is {loss}; stopped before the update. Largest activations: {largest}. "
            "Checkpoints of earlier steps are good; try another run=NAME with a lower optim.learning_rate"
        )

    def _row(self, phase: Phase) -> dict[str, float]:
        within, optim = self.within, self.config.optim
        return {
            "learning_rate": optim.learning_rate * phase.weights,
            "bias_learning_rate": optim.learning_rate * optim.bias_rate_times * phase.biases,
            "chance_loss": math.log(len(self.data.classes)),
            "train_loss": within.loss_sum / within.images,
            "train_top1_error": 1 - within.correct / within.images,
            "train_top5_error": 1 - within.among_five / within.images,
            "images_per_second": within.images / within.seconds,
            "data_wait": within.waited / within.seconds,
            "seconds": within.seconds,
        }

    def _validate(self) -> tuple[dict[str, float], dict[str, float]]:
        """Loss and errors of the centre patch of every validation image, in test mode, each on one rank; and the share
        of ReLUs that none of them wakes.
        """
        at_once = self.config.optim.batch_size
        batches = whole_images(
            self.val_split, self.data.image_size, at_once, self.loading, rank=self.ranks.rank, ranks=self.ranks.size
        )
        votes = len(self.val_split) // self.ranks.size // at_once  # batches that every rank has
        view = views_of(1, self.rule.margin)
        sums = torch.zeros(4, dtype=torch.float64)  # images, log-losses, errors at 1 and at 5 guesses
        with DeadUnits(self.model) as dead:
            shown = self.watch.validation(batches, len(self.val_split)) if self.watch else batches
            for number, batch in enumerate(shown):
                if number < votes and self._any_asked_to_stop():
                    self._save_and_leave()
                judged = predict(self.forward, [batch], view, dead.note)
                labels = judged.labels
                ranks = label_ranks(judged.centre, labels)
                loss = log_loss(judged.centre, labels) * len(labels)
                sums += torch.tensor([len(labels), loss, (ranks >= 1).sum(), (ranks >= 5).sum()], dtype=torch.float64)
        shares = dead.shares()
        images, loss, top1, top5 = self.ranks.add_up(sums.to(self.devices[0])).tolist()
        if not math.isfinite(loss):
            raise RunError(
                f"step {self.step}: the validation loss is {loss}; stopped; checkpoints of earlier "
                "epochs are good. Try another run=NAME with a lower optim.learning_rate"
            )
        errors = {"val_loss": loss / images, "val_top1_error": top1 / images, "val_top5_error": top5 / images}
        return errors, shares

    def _names_for_good(self) -> list[str]:
        names = []
        if min(self.history, key=lambda row: row["val_top1_error"]) is self.history[-1]:
            names.append(BEST)
        if self.epoch % self.config.keep_every == 0:
            names.append(f"epoch-{self.epoch:04d}")
        return names

    def _save(self, also: list[str] | None = None) -> None:
        if not self.ranks.first:
            return
        checkpoint = self._checkpoint()
        if not checkpoint.finite():
            raise RunError(f"step {self.step}: some weights are no numbers any more; not saved, and the checkpoint "
                           "before is good. Try another run=NAME with a lower optim.learning_rate")  # fmt: skip
        if self.watch:
            self.watch.flush()
        self.saver.save(checkpoint, also or [])

    def _any_asked_to_stop(self) -> bool:
        """Whether any rank was; the same answer on all."""
        if self.ranks.size == 1:
            return bool(self.stop)
        asked = torch.tensor(float(bool(self.stop)), device=self.devices[0])
        return self.ranks.add_up(asked).item() > 0

    def _save_and_leave(self) -> None:
        self._save()
        self._leave()

    def _leave(self) -> None:
        if self.ranks.first and self.saver.owes():
            raise RunError(f"{self.folder.checkpoints}: the checkpoint of step {self.step} could not be written; what "
                           "came after the last one that was is lost. Free some space, and start again")  # fmt: skip
        raise Stopped

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            epoch=self.epoch,
            step=self.step,
            within=asdict(self.within) if self.within.batch else {},
            weights=dict(self.model.state_dict()),
            **buffers_of(self.model, self.optimiser),
            history=self.history,
            classes=[info.wnid for info in self.data.manifest.classes],
            words=self.data.classes,
            data=self.data.identity(),
            mean_image=torch.from_numpy(self.data.mean_image),
            inputs={"mean": self.rule.mean, "scale": self.rule.scale},
            model=asdict(self.config.model),
            init_from=self.init_from,
        )
