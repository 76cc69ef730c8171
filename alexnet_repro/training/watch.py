"""What a person sees of a run under way: the live line, the lines that stay, TensorBoard, and metrics.jsonl."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import Batch, InputRule
from alexnet_repro.data.loader import with_progress
from alexnet_repro.model import AlexNet
from alexnet_repro.model.kernels import kernel_grid
from alexnet_repro.monitor.progress import TrainingBar, epoch_line
from alexnet_repro.monitor.tensorboard import BATCH_PICTURES, Dashboard, hyper_parameters
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.metrics_log import MetricsLog
from alexnet_repro.training.background import Background
from alexnet_repro.training.chance import Start, epochs_at_chance
from alexnet_repro.training.health import gpu_memory, learning_rates, norms
from alexnet_repro.training.optimisers import Optimiser
from alexnet_repro.training.step import Within

Row = dict[str, float]


class Watch:
    """Told of every step and every epoch, in order; nothing that it does changes the run. Encoding images and writing
    files is left to `background`.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        model: AlexNet,
        optimiser: Optimiser,
        rule: InputRule,
        step: int,
        history: Sequence[Row],
        paper: tuple[float, float] | None,
        background: Background,
    ) -> None:
        """A run that goes on after `step` and the epochs of `history`. `paper`: the errors in percent to compare with,
        for a run on what the paper used.
        """
        self._config, self._model, self._optimiser, self._rule = config, model, optimiser, rule
        self._history = history
        self._background = background
        self._metrics = MetricsLog(folder.metrics, step, len(history))
        self._dashboard = Dashboard(folder.tensorboard, step, paper)
        self._dashboard.start(folder.configuration_text(), hyper_parameters(config))
        self._bar: TrainingBar | None = None
        self._start = Start(config, model.classes, history)

    def epoch_begins(self, images: int, within: Within) -> None:
        """An epoch of `images`, of which some may be done. The optimiser has its rates."""
        schedule = self._config.schedule
        self._rates = learning_rates(self._optimiser)
        self._images, self._waited = within.images, within.waited
        self._bar = TrainingBar(
            epoch=len(self._history) + 1,
            epochs=schedule.epochs,
            images=images,
            done=within.images,
            fixed_end=schedule.patience is None,
            last=self._history[-1] if self._history else None,
        )

    def batch(self, step: int, images: Tensor) -> None:
        """The network's input at `step`, float32 [N, C, H, W]."""
        some = images[:BATCH_PICTURES].to("cpu", torch.float32, copy=True) / self._rule.scale
        mean = torch.from_numpy(self._rule.centre_mean).permute(2, 0, 1)
        self._background.submit(self._dashboard.batch, step, some, mean)

    def step(self, step: int, loss: float, within: Within) -> None:
        """After `step`: its loss, and what the epoch has come to with it. Notes in `within` how far entries go."""
        assert self._bar is not None
        errors = {
            "train_top1_error": 1 - within.correct / within.images,
            "train_top5_error": 1 - within.among_five / within.images,
        }
        self._bar.note = self._start.note
        self._bar.update(
            within.images - self._images, within.waited - self._waited, step,
            loss=loss, learning_rate=self._rates["learning_rate/weights"], **errors,
        )  # fmt: skip
        self._images, self._waited = within.images, within.waited
        if step % self._config.log_every == 0:
            names = ("images", "loss_sum", "seconds", "waited")
            since = {name: getattr(within, name) - within.logged.get(name, 0) for name in names}
            within.logged = {name: getattr(within, name) for name in names}
            numbers = {"loss": since["loss_sum"] / since["images"], **self._rates}
            if since["seconds"]:  # the last two steps of an epoch are counted at once
                numbers["images_per_second"] = since["images"] / since["seconds"]
                numbers["data_wait"] = since["waited"] / since["seconds"]
            if warning := self._start.after(step, numbers["loss"]):
                tqdm.write(f"warning: {warning}", file=sys.stderr)  # does not tear the live line
            self._background.submit(self._dashboard.train, step, numbers)
            self._background.submit(self._metrics.add, "steps", {"step": step, **numbers})

    def validation(self, batches: Iterable[Batch], images: int) -> Iterator[Batch]:
        self._end_bar()
        return with_progress(batches, images, f"epoch {len(self._history) + 1}, validation")

    def epoch(self, row: Row, dead_units: Mapping[str, float]) -> None:
        """The epoch's numbers, before they are saved: a run that dies in between does the epoch again."""
        health = norms(self._model, self._optimiser) | gpu_memory(self._model) | dict(dead_units)
        kernels = [part.weight.detach().to("cpu", copy=True) for part in self._model.conv1.parts()]
        self._background.submit(self._write_epoch, row, health, kernels)
        schedule = self._config.schedule
        waits = epochs_at_chance(schedule.counts_once_loss_below, self._history) == len(self._history)
        counted = "  counts for no plateau yet" if waits and schedule.patience is not None else ""
        print(epoch_line(row, schedule.epochs) + counted, flush=True)

    def flush(self) -> None:
        """Before a checkpoint is submitted, so that a run killed after it has no gap."""
        self._background.submit(self._dashboard.flush)

    def finish(self) -> None:
        """The schedule has ended the run."""
        self._background.submit(self._dashboard.finish)

    def close(self) -> None:
        self._end_bar()
        self._background.submit(self._dashboard.close)

    def _write_epoch(self, row: Row, health: Row, kernels: list[Tensor]) -> None:
        colours = kernels[0].shape[1] == 3
        self._dashboard.epoch(int(row["step"]), row, health, kernel_grid(kernels) if colours else None)
        self._metrics.add("epoch", {**row, **health})

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
