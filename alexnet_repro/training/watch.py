"""What is shown of a run under way: the live line, the lines that stay, TensorBoard, and metrics.jsonl."""

import sys
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from alexnet_repro.data import Batch, InputRule
from alexnet_repro.data.loader import with_progress
from alexnet_repro.model.kernels import colourfulness, kernel_grid
from alexnet_repro.monitor.live_line import LiveLine, epoch_line
from alexnet_repro.monitor.tensorboard import BATCH_IMAGES, Dashboard, hyper_parameters
from alexnet_repro.paper.numbers import paper_row
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.metrics_log import MetricsLog
from alexnet_repro.training.background import Background
from alexnet_repro.training.chance import ChanceNotice, epochs_at_chance
from alexnet_repro.training.health import dead_layers, gpu_memory, learning_rates, norms
from alexnet_repro.training.state import TrainingState

Row = dict[str, float]


class Watch:
    """Called after every step and every epoch; nothing that it does changes the run. It copies what it shows;
    `background` encodes images and writes files. The live line ends with the context.
    """

    def __init__(self, folder: RunFolder, state: TrainingState, rule: InputRule, background: Background) -> None:
        """For a run that starts, or continues, from `state`. `folder` holds its configuration."""
        config = self._config = state.config
        self.state, self._rule, self._background = state, rule, background
        self._metrics = MetricsLog(folder.metrics, state.step, state.epoch)
        # Of one network with ten views. The curves are of the centre patch: 1.5 and 1.3 points more in section 6.
        sixth = config.model.conv6 is not None
        row = paper_row(state.data.whole_release(), split=None, views=10, networks=1, sixth_layer=sixth)
        paper = (row.top1, row.top5) if row and row.top1 and row.top5 else None
        self._dashboard = Dashboard(folder.tensorboard, state.step, paper)
        self._dashboard.start(folder.configuration_text(), hyper_parameters(config))
        self._start = ChanceNotice(config, state.model.outputs, state.history)
        self._said_dead: set[str] = set()
        self._line: LiveLine | None = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._line:
            self._line.close()  # once more is harmless
        self.flush()

    def epoch_begins(self, images: int) -> None:
        """An epoch of `images`, of which some may be done."""
        state, schedule = self.state, self._config.schedule
        self._line = LiveLine(
            epoch=state.epoch + 1,
            epochs=schedule.epochs,
            images=images,
            done=state.progress.images,
            fixed_end=schedule.patience is None,
            last=state.history[-1] if state.history else None,
        )

    def batch(self, images: Tensor) -> None:
        """The network's input at the step just done, float32 [N, C, H, W]."""
        some = images[:BATCH_IMAGES].to("cpu", torch.float32, copy=True) / self._rule.scale
        mean = torch.from_numpy(self._rule.centre_mean).permute(2, 0, 1)
        self._background.submit(self._dashboard.batch, self.state.step, some, mean)

    def step(self, loss: float) -> None:
        """After a step: its loss; `state` counts it already."""
        assert self._line is not None
        step, progress = self.state.step, self.state.progress
        rates = learning_rates(self.state.optimiser)  # with a lag, those of the step after it
        rate = rates["learning_rate/weights"]
        self._line.update(step, loss, rate, progress.images, progress.means(), self._start.note)
        if step % self._config.log_every == 0:
            numbers = {**progress.since_last_log(), **rates}
            if warning := self._start.after(step, numbers["loss"]):
                _warn(warning)
            self._background.submit(self._dashboard.train, step, numbers)
            self._background.submit(self._metrics.add, "steps", {"step": step, **numbers})

    def validation(self, batches: Iterable[Batch], images: int) -> Iterator[Batch]:
        """The same batches, with a progress bar in place of the live line."""
        if self._line:
            self._line.close()
        return with_progress(batches, images, f"epoch {self.state.epoch + 1}, validation")

    def epoch(self, dead_units: Mapping[str, float]) -> None:
        """After an epoch, whose row is the last of the history, and before its checkpoint: a run that dies in between
        does the epoch again. `dead_units`: of health.DeadUnits.
        """
        state, schedule = self.state, self._config.schedule
        row = state.history[-1]
        health = {**norms(state.model, state.optimiser), **gpu_memory(state.model), **dead_units}
        if state.data.channels == 3:  # section 6.1
            health |= {f"colourfulness/conv1.{name}": mean for name, (mean, _) in colourfulness(state.model).items()}
        kernels = [part.weight.detach().to("cpu", copy=True) for part in state.model.conv1.parts()]
        self._background.submit(self._write_epoch, row, health, kernels)
        at_chance = epochs_at_chance(schedule.counts_once_loss_below, state.history) == len(state.history)
        no_plateau = at_chance and schedule.patience is not None
        print(epoch_line(row, schedule.epochs) + "  counts for no plateau yet" * no_plateau, flush=True)
        for layer in dead_layers(dead_units):
            if layer not in self._said_dead:
                _warn(
                    f"after epoch {state.epoch} hardly a unit of {layer} is alive: 99.9 % or more give 0 for every "
                    "validation image, and hand back no gradient for such images; larger initial weights may help "
                    "(model=code2012 has them)"
                )
            self._said_dead.add(layer)

    def flush(self) -> None:
        """Before a checkpoint is submitted, so that a run killed after it has no gap."""
        self._background.submit(self._dashboard.flush)

    def finish(self) -> None:
        """The schedule has ended the run."""
        self._background.submit(self._dashboard.finish)

    def _write_epoch(self, row: Row, health: Row, kernels: list[Tensor]) -> None:
        in_colour = kernels[0].shape[1] == 3
        self._dashboard.epoch(int(row["step"]), row, health, kernel_grid(kernels) if in_colour else None)
        self._metrics.add("epoch", {**row, **health})


def _warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)  # does not tear the live line
