"""The TensorBoard dashboard of a run. It shows errors and shares in percent; everywhere else they are fractions."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.tensorboard import summary

from alexnet_repro.config import LAYERS, TrainConfig
from alexnet_repro.monitor.events import EventFile

# Names of numbers in metrics.jsonl and the history, and their tags here. A name with a slash is a tag itself.
_TAGS = {
    "train_top1_error": "error_percent/train_top1",
    "train_top5_error": "error_percent/train_top5",
    "val_top1_error": "error_percent/val_top1",
    "val_top5_error": "error_percent/val_top5",
    "loss": "loss/train_step",
    "train_loss": "loss/train_epoch",
    "val_loss": "loss/val",
    "chance_loss": "loss/chance",
    "learning_rate": "learning_rate/weights",
    "bias_learning_rate": "learning_rate/biases",
    "images_per_second": "speed/images_per_second",
    "data_wait": "data_wait_percent/step",
}
_NOT_SHOWN = ("epoch", "step")  # the axes
_EPOCH_TAGS = {  # an epoch's means beside the single steps
    "images_per_second": "speed/images_per_second_epoch",
    "data_wait": "data_wait_percent/epoch",
}
_PERCENT = ("error_percent/", "data_wait_percent/", "dead_relu_percent/")
_PAPER_TAGS = ("error_percent/paper_ten_views_top1", "error_percent/paper_ten_views_top5")
_HPARAM_METRICS = ("error_percent/val_top1", "error_percent/val_top5", "error_percent/train_top1", "loss/val")


def _by_layer(tag: str) -> dict[str, str]:
    """A chart a layer with a curve a column: TensorBoard gives a colour to a run, not to a curve."""
    return {f"{layer}, by column": rf"^{tag}/{layer}\." for layer in LAYERS}


# Categories, their charts, and the tags of each chart as a regular expression. TensorBoard has one layout for all runs,
# and merges charts of several runs only if they are equal to the letter.
_LAYOUT = {
    "Errors (%)": {
        "top-1: training, validation (centre patch), paper": r"^error_percent/.*top1$",
        "top-5: training, validation (centre patch), paper": r"^error_percent/.*top5$",
    },
    "Loss and learning rate": {
        "log-loss (nats): training, validation": r"^loss/",
        "learning rate": r"^learning_rate/",
    },
    "Speed and memory": {
        "images per second": r"^speed/images",
        "waiting for data (% of the time)": r"^data_wait_percent/",
        "GPU memory, peak of an epoch (GiB)": r"^gpu_memory_gib/",
    },
    "Dead ReLUs: maps and units that are 0 on every validation image (%)": _by_layer("dead_relu_percent"),
    "Norm of the weights": _by_layer("weight_norm"),
    "Norm of the velocity": _by_layer("velocity_norm"),
}

_KERNEL_ZOOM = 4  # screen pixels for each pixel of a kernel
BATCH_IMAGES, _A_ROW = 16, 8  # of an augmented batch that are shown


class Dashboard:
    """One event file for each start of a run. No method fails or waits for a full disk: see EventFile."""

    def __init__(self, folder: Path, step: int, reference: tuple[float, float] | None = None) -> None:
        """A run that continues after `step`: TensorBoard drops what an earlier start has written beyond.

        `reference`: the paper's final top-1 and top-5 error in percent, drawn as lines, for a run on the paper's data.
        """
        self._first = step + 1  # step of this start, where the configuration and the like are written
        self._file = EventFile(folder, self._first)
        self._reference = reference
        self._seen: dict[str, int] = {}  # the curves, and the last step of each
        self._layout: dict[str, dict[str, list[str | list[str]]]] = {}  # that was written last

    def start(self, configuration: str, hyper_parameters: Mapping[str, bool | str | float | int]) -> None:
        """`configuration`: the resolved YAML. The HParams tab shows the hyper-parameters beside the latest errors: the
        final ones, once the run has ended.
        """
        code = "".join(f"    {line}\n" for line in configuration.splitlines())  # Markdown's mark for code
        self._file.add(summary.text("configuration", code), self._first)
        # PyTorch takes a bool for a number.
        shown = {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in hyper_parameters.items()
        }
        experiment, session, self._end_of_session = summary.hparams(shown, dict.fromkeys(_HPARAM_METRICS))
        self._file.add(experiment, self._first)
        self._file.add(session, self._first)
        self._draw_reference(self._first)
        self._file.flush()

    def train(self, step: int, numbers: Mapping[str, float]) -> None:
        """After step number `step`, counted from 1: loss, learning_rate/weights, images_per_second, data_wait, ..."""
        for name, value in numbers.items():
            self._scalar(_TAGS.get(name, name if "/" in name else f"train/{name}"), value, step)
        self._lay_out()

    def epoch(
        self, step: int, row: Mapping[str, float], health: Mapping[str, float], kernels: np.ndarray | None
    ) -> None:
        """`row`: the epoch's line of metrics.jsonl; `health`: of health.py; `kernels`: Figure 3, uint8 [H, W, 3]."""
        for name, value in row.items():
            if name not in _NOT_SHOWN:
                tag = {**_TAGS, **_EPOCH_TAGS}.get(name, name if "/" in name else f"epoch/{name}")
                self._scalar(tag, value, step)
        for name, value in health.items():
            self._scalar(name, value, step)
        self._draw_reference(step)
        if kernels is not None:
            zoomed = kernels.repeat(_KERNEL_ZOOM, 0).repeat(_KERNEL_ZOOM, 1)
            self._file.add(summary.image("pictures/conv1_kernels", zoomed, dataformats="HWC"), step)
        self._lay_out()
        self._file.flush()

    def batch(self, step: int, images: Tensor, mean: Tensor) -> None:
        """Some images of an augmented batch, as the network sees them but with the mean added again, so that people can
        recognise them.

        `images`: float32 [N, C, H, W] on the CPU, grey levels minus the mean; `mean`: float32 [C, H, W] too, or what
        broadcasts to it.
        """
        some = images[:BATCH_IMAGES] + mean
        pixels = some.round().clamp(0, 255).to(torch.uint8)
        if len(pixels) > _A_ROW:  # TensorBoard draws eight images a row; the empty places of the last would be black
            pixels = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, -len(pixels) % _A_ROW), value=255)
        framed = F.pad(pixels, (1, 1, 1, 1), value=255)
        self._file.add(summary.image("pictures/augmented_batch", framed.numpy(), dataformats="NCHW"), step)

    def finish(self) -> None:
        """The schedule has ended the run: HParams lists it as a success. After `start`; twice is harmless."""
        self._file.add(self._end_of_session, self._first)
        self._file.flush()

    def flush(self) -> None:
        """Writes what waits, at once."""
        self._file.flush()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        tag = tag.replace("dead_relu/", "dead_relu_percent/")
        if self._seen.get(tag) == step:  # an epoch's end repeats some numbers of its last step
            return
        self._seen[tag] = step
        self._file.add(summary.scalar(tag, 100 * value if tag.startswith(_PERCENT) else value), step)

    def _draw_reference(self, step: int) -> None:
        if self._reference is not None:
            for tag, percent in zip(_PAPER_TAGS, self._reference, strict=True):
                self._scalar(tag, percent / 100, step)

    def _lay_out(self) -> None:
        """Writes the layout again whenever a chart gets its first curve, so that no chart is ever empty."""
        layout: dict[str, dict[str, list[str | list[str]]]] = {}
        for category, charts in _LAYOUT.items():
            for title, pattern in charts.items():
                if any(re.match(pattern, tag) for tag in self._seen):
                    layout.setdefault(category, {})[title] = ["Multiline", [pattern]]
        if layout != self._layout:
            self._layout = layout
            self._file.add(summary.custom_scalars(layout), 0)


def hyper_parameters(config: TrainConfig) -> dict[str, bool | str | float | int]:
    """The settings by which the HParams tab compares runs: the plain ones of the recipe, without the layers' shapes.

    TensorBoard shows the first few in alphabetical order until asked for more, hence the names: profiles come first.
    """
    chosen: dict[str, bool | str | float | int] = {"seed": config.seed, "data": config.data.path}
    for group in ("model", "augment", "optim", "schedule"):
        for name, value in vars(getattr(config, group)).items():
            if isinstance(value, bool | str | float | int):
                chosen[group if name == "name" else f"setting {group}.{name}"] = value
    return chosen
