"""Training, epoch by epoch."""

import math
import time
from dataclasses import asdict, dataclass

import torch

from alexnet_repro import runtime
from alexnet_repro.config import TrainConfig
from alexnet_repro.data import (
    Batch,
    ColumnInputs,
    PreparedData,
    draw_epoch,
    epoch_batches,
    shuffled,
    views_of,
    whole_images,
)
from alexnet_repro.evaluation.metrics import log_loss, top_k_error
from alexnet_repro.evaluation.predict import predict
from alexnet_repro.model import AlexNet
from alexnet_repro.reporting.figures import kernel_grid
from alexnet_repro.reporting.health import DeadUnits, gpu_memory, learning_rates, norms
from alexnet_repro.reporting.progress import TrainingBar, epoch_line, with_progress
from alexnet_repro.reporting.tensorboard import Dashboard, hyper_parameters, paper_reference
from alexnet_repro.run_folder import BEST, LAST, RunFolder
from alexnet_repro.training.checkpoint import Checkpoint, momentum_of, restore, weights_of
from alexnet_repro.training.schedule import Phase, next_phase
from alexnet_repro.training.sgd import PaperSGD
from alexnet_repro.training.step import train_step
from data_prep.command import RequestError, RunError


@dataclass
class Trainer:
    """A run between two epochs. Everything that follows is a function of the configuration and `history`."""

    config: TrainConfig
    data: PreparedData
    model: AlexNet
    folder: RunFolder
    epoch: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        config, data = self.config, self.data
        self.side = config.model.input_size
        self.margin = data.image_size - self.side
        if self.margin < 0:
            raise RequestError(
                f"model.input_size={self.side}: larger than the {data.image_size} pixels of {data.folder}; "
                "prepare the data with a larger image_size"
            )
        self.devices = self.model.column_devices()
        self.inputs = ColumnInputs(
            data.mean_image, data.colour_components(), self.side, self.devices, config.runtime.channels_last
        )
        self.pin = self.inputs.use_gpu
        self.workers = runtime.loader_workers(config.runtime)
        self.train_split, self.val_split = data.split("train"), data.split("val")
        self.history: list[dict[str, float]] = []
        o = config.optim
        self.optimiser = PaperSGD(self.model.parameters(), o.learning_rate, o.momentum, o.weight_decay)

    def resume(self, checkpoint: Checkpoint) -> None:
        if checkpoint.data["plan"] != self.data.identity()["plan"]:
            raise RequestError(
                f"{self.folder.path}: was begun on {checkpoint.data['description']}, and {self.data.folder} is another "
                "data set; choose another run=NAME"
            )
        self.epoch, self.step, self.history = checkpoint.epoch, checkpoint.step, checkpoint.history
        restore(checkpoint, self.model, self.optimiser)

    @property
    def wnids(self) -> list[str]:
        return [info.wnid for info in self.data.manifest.classes]

    def phase(self) -> Phase:
        errors = [row["val_top1_error"] for row in self.history]
        return next_phase(self.config.schedule, self.config.optim.learning_rate, errors)

    def run(self) -> None:
        """Until the schedule ends it. The folder is in order after every epoch."""
        dashboard = Dashboard(self.folder.tensorboard, self.step, paper_reference(self.data))
        dashboard.start(self.folder.configuration_text(), hyper_parameters(self.config))
        try:
            while not (phase := self.phase()).finished:
                numbers = self._train_epoch(phase, dashboard)
                with DeadUnits(self.model) as dead:
                    numbers |= self._validate()
                self.epoch += 1
                self.history.append({"epoch": self.epoch, "step": self.step, **numbers})
                health = norms(self.model, self.optimiser) | dead.shares() | gpu_memory(self.model)
                kernels = kernel_grid(self.model) if self.data.channels == 3 else None
                dashboard.epoch(self.step, self.history[-1], health, kernels)
                self._keep()
                print(epoch_line(self.history[-1], self.config.schedule.epochs), flush=True)
            dashboard.finish()
        finally:
            dashboard.close()

    def _train_epoch(self, phase: Phase, dashboard: Dashboard) -> dict[str, float]:
        config, count = self.config, len(self.train_split)
        for group in self.optimiser.param_groups:
            group["lr"] = phase.learning_rate
        self.model.train()
        order = shuffled(config.seed, self.epoch, count)
        draws = draw_epoch(config.augment, config.seed, self.epoch, count, self.margin, self.data.channels)
        batches = epoch_batches(
            self.train_split, order, draws, self.side, config.optim.batch_size, self.workers, self.pin
        )
        started = previous = time.perf_counter()
        loss_sum, waited = 0.0, 0.0
        correct = torch.zeros((), dtype=torch.int64, device=self.devices[0])
        with TrainingBar(
            epoch=self.epoch + 1,
            epochs=config.schedule.epochs,
            images=count,
            fixed_end=config.schedule.patience is None,
            last=self.history[-1] if self.history else None,
        ) as bar:
            seen = 0
            for batch in batches:
                wait = time.perf_counter() - previous
                waited += wait
                if seen == 0:
                    self._show(batch, dashboard)
                result = train_step(self.model, self.optimiser, batch, self.inputs, config.seed, self.step)
                self.step += 1
                images = len(batch.labels)
                seen += images
                loss_sum += result.loss * images
                correct += result.correct
                rates = learning_rates(self.optimiser)
                bar.update(
                    images,
                    wait,
                    self.step,
                    loss=result.loss,
                    learning_rate=phase.learning_rate,
                    train_top1_error=1 - correct.item() / seen,
                )
                now = time.perf_counter()
                speed = {"images_per_second": images / (now - previous), "data_wait": wait / (now - previous)}
                dashboard.train(self.step, {"loss": result.loss, **rates, **speed})
                previous = now
        seconds = time.perf_counter() - started
        return {
            "learning_rate": phase.learning_rate,
            "train_loss": loss_sum / count,
            "train_top1_error": 1 - correct.item() / count,
            "images_per_second": count / seconds,
            "data_wait": waited / seconds,
            "seconds": seconds,
        }

    def _show(self, batch: Batch, dashboard: Dashboard) -> None:
        patches = self.inputs.spread(batch.images)
        images = self.inputs(patches, batch.top, batch.left, batch.mirror, batch.colour)[0]
        edge = self.margin // 2
        centre = self.data.mean_image[edge : edge + self.side, edge : edge + self.side]
        dashboard.batch(self.step + 1, images, torch.from_numpy(centre).permute(2, 0, 1))

    def _validate(self) -> dict[str, float]:
        """The centre patch of every validation image, in test mode."""
        size = self.config.optim.batch_size
        batches = whole_images(self.val_split, self.data.image_size, size, self.workers, self.pin)
        shown = with_progress(batches, len(self.val_split), f"epoch {self.epoch + 1}, validation")
        predictions = predict(self.model, shown, views_of(1, self.margin), self.inputs)
        loss = log_loss(predictions.centre, predictions.labels)
        if not math.isfinite(loss):
            raise RunError(
                f"step {self.step}: the validation loss is {loss}; stopped; checkpoints of earlier "
                "epochs are good. Try another run=NAME with a lower optim.learning_rate"
            )
        return {
            "val_loss": loss,
            "val_top1_error": top_k_error(predictions.centre, predictions.labels, 1),
            "val_top5_error": top_k_error(predictions.centre, predictions.labels, 5),
        }

    def _keep(self) -> None:
        """Metrics first: the checkpoint is what a continued run starts from, and it has them all."""
        checkpoint = self._checkpoint()
        self.folder.write_metrics(self.history)
        best = min(self.history, key=lambda row: row["val_top1_error"])
        if best is self.history[-1]:
            checkpoint.save(self.folder.checkpoint_path(BEST))
        if self.epoch % self.config.keep_every == 0:
            checkpoint.save(self.folder.checkpoint_path(f"epoch-{self.epoch:04d}"))
        checkpoint.save(self.folder.checkpoint_path(LAST))

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            epoch=self.epoch,
            step=self.step,
            weights=weights_of(self.model),
            momentum=momentum_of(self.model, self.optimiser),
            momentum_rate=self.optimiser.param_groups[0]["buffer_rate"],
            history=self.history,
            classes=self.wnids,
            words=self.data.classes,
            data=self.data.identity(),
            mean_image=torch.from_numpy(self.data.mean_image),
            colour_components=torch.from_numpy(self.data.colour_components()),
            model=asdict(self.config.model),
        )
