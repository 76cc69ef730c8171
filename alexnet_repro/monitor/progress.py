"""What the terminal shows of a run: a live line on stderr, and the line that closes an epoch."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from data_prep.common.text import duration, percent

_SECONDS_BETWEEN_REDRAWS = 0.2
_SECONDS_BETWEEN_LINES = 60.0  # where stderr is no terminal
_SECONDS_REMEMBERED = 30.0  # by the rates
_STEPS_REMEMBERED = 50  # by the loss


class TrainingBar:
    """The live line of one epoch. On a terminal it is redrawn and vanishes at the end; into a file or a pipe goes a
    plain line a minute, without carriage returns.

    `epoch` counts from 1 and `images` are those of an epoch, of which `done` were trained before the bar began. With
    `fixed_end` the schedule ends after `epochs` epochs, and the time left in the run is estimated too; `between_epochs`
    are the seconds that validation and saving took last time. `last`: the row of the epoch before, for its validation
    errors.
    """

    def __init__(
        self,
        *,
        epoch: int,
        epochs: int,
        images: int,
        done: int = 0,
        fixed_end: bool = False,
        between_epochs: float = 0.0,
        last: Mapping[str, float] | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._epoch, self._epochs, self._images, self._done = epoch, epochs, images, done
        self._fixed_end, self._between_epochs = fixed_end, between_epochs
        self._last = last or {}
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._rate, self._waiting = _Smoothed(), _Smoothed()  # images a second; share of the time
        self._loss, self._losses = math.nan, 0
        self.note = ""  # what there is to say of the loss
        self._latest: dict[str, float] = {}
        self._before = self._shown = clock()
        self._bar: tqdm[None] | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=images,
                initial=done,
                file=self._stream,
                leave=False,
                dynamic_ncols=True,
                bar_format=f"epoch {epoch}/{epochs} " + "{percentage:3.0f} % |{bar:12}|  {desc}",
            )

    def __enter__(self) -> "TrainingBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, images: int, waited: float, step: int, **latest: float) -> None:
        """After every step: `images` more, of whose time `waited` seconds were spent waiting for data.

        `latest`: what is known anew of loss, learning_rate, and train_top1_error and train_top5_error (of this epoch so
        far). What is not passed stays, so that a step need not wait for the device only to be shown.
        """
        now = self._clock()
        seconds = max(now - self._before, 1e-9)
        self._before = now
        self._done += images
        self._rate.add(images / seconds, seconds)
        self._waiting.add(min(1.0, waited / seconds), seconds)
        self._latest |= {"step": step, **latest}
        if "loss" in latest:
            self._losses = min(self._losses + 1, _STEPS_REMEMBERED)
            before = 0.0 if self._losses == 1 else self._loss
            self._loss = before + (latest["loss"] - before) / self._losses
        if self._bar is not None:
            self._bar.n = self._done
            if now - self._shown >= _SECONDS_BETWEEN_REDRAWS:
                self._shown = now
                self._bar.set_description_str(self.text(), refresh=False)
                self._bar.refresh()
        elif now - self._shown >= _SECONDS_BETWEEN_LINES:
            self._shown = now
            share = 100 * self._done / self._images
            print(f"epoch {self._epoch}/{self._epochs} {share:.0f} %  {self.text()}", file=self._stream, flush=True)

    def text(self) -> str:
        """The most needed first: a narrow terminal cuts off the end."""
        latest, last = self._latest, self._last
        parts = [f"step {latest.get('step', 0):.0f}"]
        if self._losses:
            parts.append(f"loss {self._loss:.3f}" + (f" ({self.note})" if self.note else ""))
        if self._rate.value > 0:
            left = max(0, self._images - self._done) / self._rate.value
            parts.append(f"left {duration(left)}")
            if self._fixed_end:
                whole = self._images / self._rate.value + self._between_epochs
                parts[-1] += f" (run {duration(left + self._between_epochs + (self._epochs - self._epoch) * whole)})"
            parts.append(f"{self._rate.value:,.{0 if self._rate.value >= 100 else 1}f} images/s")
        if "train_top1_error" in latest:
            parts.append(f"train error {percent(latest['train_top1_error'])}")
        if "train_top5_error" in latest:
            parts[-1] += f", top-5 {percent(latest['train_top5_error'])}"
        if "val_top1_error" in last:
            parts.append(f"val {percent(last['val_top1_error'])}, top-5 {percent(last['val_top5_error'])}")
        if "learning_rate" in latest:
            parts.append(f"rate {latest['learning_rate']:g}")
        parts.append(f"waits for data {percent(self._waiting.value)}")
        return "  ".join(parts)


class _Smoothed:
    """A mean over time that forgets: `value` follows what was added in the last _SECONDS_REMEMBERED or so."""

    def __init__(self) -> None:
        self.value = 0.0
        self._weight = 0.0

    def add(self, value: float, seconds: float) -> None:
        kept = math.exp(-seconds / _SECONDS_REMEMBERED)
        self._weight = kept * self._weight + (1 - kept)
        self.value += (value - self.value) * (1 - kept) / self._weight


def epoch_line(row: Mapping[str, float], epochs: int) -> str:
    """What stays on the terminal of an epoch; `row` is its line of metrics.jsonl."""
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  rate {row['learning_rate']:g}  "
        f"train loss {row['train_loss']:.3f}, top-1 error {percent(row['train_top1_error'])}, "
        f"top-5 {percent(row['train_top5_error'])}  "
        f"val loss {row['val_loss']:.3f}, top-1 {percent(row['val_top1_error'])}, "
        f"top-5 {percent(row['val_top5_error'])}  {row['images_per_second']:.1f} images/s, "
        f"waited for data {percent(row['data_wait'])}, {duration(row['seconds'])}"
    )
