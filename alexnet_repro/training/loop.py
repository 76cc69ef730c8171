"""Training (section 5): epochs of steps, each epoch followed by validation and a checkpoint, until the schedule ends.

The lag. On GPUs the host submits step n + 1 before it reads the result of step n, so that the GPUs never wait for it.
On the CPU there is no lag.

How a run stops. A signal (endings.STOP_SIGNALS, Ctrl-C among them) sets `stop.asked` in one process, at any moment
(stop.py); the run ends between two steps, saved. A single process looks at it after each step that it has
submitted. Several processes (ranks) must leave after the same step: with each step they add up how many of them are
asked to stop (step.py), and if the result of step n says that some process is, all leave after step n + lag, the one
that each has just submitted when it reads this. Before, within and after validation they ask each other. A stop
interrupts the reading of data, which may hang; it waits for the end of a step, of a validation batch, and of the
writing of a checkpoint.
"""

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch

from alexnet_repro.data import Batch, LoaderError, views_of
from alexnet_repro.evaluation.inference import Forward, validation_errors, validation_sums
from alexnet_repro.runs.folder import BEST
from alexnet_repro.runtime import exact_dtype
from alexnet_repro.training.batches import Batches
from alexnet_repro.training.health import DeadUnits
from alexnet_repro.training.optimisers import set_rates
from alexnet_repro.training.saver import Saver
from alexnet_repro.training.schedule import Phase, changes_within
from alexnet_repro.training.state import TrainingState
from alexnet_repro.training.step import PendingResult, Stepper, largest_activations
from alexnet_repro.training.stop import Stopped, StopRequest
from alexnet_repro.training.watch import Watch
from data_prep.common.errors import RunError

_REMEDY = "Checkpoints of earlier steps are good; try another run=NAME with a lower optim.learning_rate"


@dataclass
class _Submitted:
    """A step that was submitted to the devices, and may not be done yet."""

    pending: PendingResult
    batch_on: Mapping[torch.device, Batch]
    with_noise: bool


class Trainer:
    """Trains from `state` on. All parts belong to this process; only the first of several ranks has a `watch`."""

    def __init__(
        self,
        state: TrainingState,
        batches: Batches,
        stepper: Stepper,
        forward: Forward,
        saver: Saver,
        watch: Watch | None,
        stop: StopRequest,
    ) -> None:
        self.config, self.ranks = state.config, stepper.ranks
        self.state, self.batches, self.stepper, self.forward = state, batches, stepper, forward
        self.saver, self.watch, self.stop = saver, watch, stop
        self._submitted: deque[_Submitted] = deque()
        self._lag = 1 if stepper.inputs.use_gpu else 0  # steps that the host runs ahead of the devices
        self._last_step: int | None = None  # after which all ranks leave, once one is asked to stop

    def run(self) -> None:
        """Trains until the schedule ends it. Stopped if it was asked to stop before; RunError if it cannot go on."""
        state = self.state
        while not (phase := state.phase()).finished:
            try:
                self._train_epoch(phase)
                self._stop_if_asked()
                errors, dead_units = self._validate()
            except LoaderError:  # a disk that hangs must not keep a run that is asked to stop from saving its steps
                if not self.stop.asked or self.ranks.size > 1:
                    raise
                self._leave()
            state.end_epoch(errors)
            if self.watch:
                self.watch.epoch(dead_units)
            self._save(self._further_names())
            self._stop_if_asked(save=False)
        if self.ranks.first:
            self.saver.finish(lambda: self.stop.asked)
        if self.watch:
            self.watch.finish()

    def _train_epoch(self, phase: Phase) -> None:
        """The batches of the epoch that are not done yet."""
        state, progress = self.state, self.state.progress
        self.batches.load()
        state.model.train()
        with_noise = self._enter(phase)
        changes = changes_within(self.config.schedule, state.epoch)  # as schedule=log146_ilsvrc2012 has some
        if self.watch:
            self.watch.epoch_begins(self.batches.train_images)
        counted = asked = time.perf_counter()  # up to when `seconds` are counted; when the next batch was asked for
        for batch_on in self.batches.training(state.epoch, progress.batch):
            progress.waited += time.perf_counter() - asked
            if (submitted := progress.batch + len(self._submitted)) in changes:
                with_noise = self._enter(state.phase(submitted))
            pending = self.stepper(batch_on, state.step + len(self._submitted), with_noise, self.stop.asked)
            self._submitted.append(_Submitted(pending, batch_on, with_noise))
            now = time.perf_counter()
            progress.seconds, counted = progress.seconds + now - counted, now
            self._read_results(self._lag)
            if self._last_step_submitted():
                self._leave()
            if self.ranks.first and self.saver.due():
                self._save()
            asked = time.perf_counter()
        self._read_results()

    def _enter(self, phase: Phase) -> bool:
        """Sets the rates of `phase`; whether its steps have colour noise."""
        set_rates(self.state.optimiser, phase)
        return phase.colour_noise and self.config.augment.colour_noise > 0

    def _read_results(self, lag: int = 0) -> None:
        """Reads the results of the steps submitted, in order and waiting for them, until at most `lag` are left."""
        state = self.state
        while len(self._submitted) > lag:
            done = self._submitted.popleft()
            result = done.pending.read()
            if not math.isfinite(result.loss):
                columns = self.stepper.prepare(done.batch_on, state.step, done.with_noise)
                raise RunError(
                    f"step {state.step + 1}: the loss is {result.loss}; stopped before the update. Largest "
                    f"activations: {largest_activations(state.model, columns)}. {_REMEDY}"
                )
            state.step += 1
            state.progress.add(result)
            if result.stop and self._last_step is None:
                self._last_step = state.step + self._lag
            if self.watch:
                if state.progress.batch == 1:
                    self.watch.batch(self.stepper.inputs.of_batch(done.batch_on, done.with_noise)[0])
                self.watch.step(result.loss)

    def _validate(self) -> tuple[dict[str, float], dict[str, float]]:
        """Loss and errors of the centre patch of every validation image, each on one rank; and the share of ReLUs that
        none of these images wakes.
        """
        batches = self.batches.validation(self.state.epoch, self._stop_if_asked)
        if self.watch:
            batches = self.watch.validation(batches, -(-self.batches.val_images // self.ranks.size))  # the first rank's
        (centre,) = views_of(1, self.stepper.inputs.rule.margin)
        dead = DeadUnits(self.state.model)
        sums = validation_sums(self.forward, batches, centre, dead.note)
        dead_units = dead.shares(self.ranks)
        device = self.stepper.inputs.devices[0]
        errors = validation_errors(self.ranks.all_reduce(sums.to(device, exact_dtype(device))))
        if not math.isfinite(errors["val_loss"]):
            raise RunError(f"step {self.state.step}: the validation loss is {errors['val_loss']}; stopped. {_REMEDY}")
        return errors, dead_units

    def _further_names(self) -> list[str]:
        """The names, besides `last`, of the checkpoint that ends an epoch."""
        history, names = self.state.history, []
        if min(history, key=lambda row: row["val_top1_error"]) is history[-1]:
            names.append(BEST)
        if self.state.epoch % self.config.keep_every == 0:
            names.append(f"epoch-{self.state.epoch:04d}")
        return names

    def _save(self, also: list[str] | None = None) -> None:
        """A checkpoint under the name `last` and the names `also`. Only the first rank writes it."""
        self._read_results()  # a checkpoint is a run between two steps: none may be under way
        if not self.ranks.first:
            return
        checkpoint = self.state.checkpoint()
        if not checkpoint.finite():
            raise RunError(f"step {self.state.step}: some weights are not finite; not saved. {_REMEDY}")
        if self.watch:
            self.watch.flush()
        self.saver.save(checkpoint, also or [])

    # How a run stops: see the top of this file.

    def _last_step_submitted(self) -> bool:
        """Whether the step submitted last is the one after which to leave."""
        if self.ranks.size == 1:
            return self.stop.asked
        # Not as soon as a result says so: before a save, the first rank reads results earlier than the others do.
        return self._last_step is not None and self.state.step + len(self._submitted) >= self._last_step

    def _stop_if_asked(self, save: bool = True) -> None:
        """Leaves if any rank is asked to stop. All ranks must call it, and get the same answer."""
        if self.ranks.any(self.stop.asked, self.stepper.inputs.devices[0]):
            self._leave(save)

    def _leave(self, save: bool = True) -> NoReturn:
        if save:
            self._save()
        if self.ranks.first:
            self.saver.raise_if_unsaved(self.state.step)
        raise Stopped
