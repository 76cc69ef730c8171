"""What the terminal says of a run: the live line while an epoch is trained, and the line that closes it."""

from collections.abc import Mapping

from tqdm.std import EMA

from data_prep.common.progress import progress_bar
from data_prep.common.text import duration, percent

_SECONDS_BETWEEN_LINES = 60.0  # where stderr is no terminal
_LOSSES = 50  # the loss shown is a running mean of about so many steps


class LiveLine:
    """A progress bar over the images of an epoch. On a terminal it vanishes at the end; a file or a pipe gets a plain
    line a minute.
    """

    def __init__(
        self, epoch: int, epochs: int, images: int, done: int, fixed_end: bool, last: Mapping[str, float] | None
    ) -> None:
        """`epoch`: counted from 1. `images`: of an epoch, of which `done` were trained on before. `fixed_end`: whether
        the schedule ends after `epochs` epochs, so that the time left in the run is known. `last`: the row of the epoch
        before, for its validation errors.
        """
        self._bar = progress_bar(
            images, f"epoch {epoch}/{epochs}", done=done, stays=False, seconds=_SECONDS_BETWEEN_LINES
        )
        self._images_after = images * (epochs - epoch) if fixed_end else None
        self._last = last or {}
        self._loss = EMA(1 / _LOSSES)

    def update(self, step: int, loss: float, rate: float, done: int, means: Mapping[str, float], note: str) -> None:
        """After `step`: its loss, the learning rate, the images `done` of the epoch, the epoch's means so far (as
        EpochProgress.means), and what there is to say of the loss.
        """
        # The most needed first, for a narrow terminal cuts off the end. The bar itself shows the time left in the epoch
        # and the images per second.
        parts = [f"step {step}", f"loss {self._loss(loss):.3f}" + (f" ({note})" if note else "")]
        if self._images_after is not None:
            assert self._bar.total is not None
            left = (self._bar.total - done + self._images_after) / means["images_per_second"]
            parts.append(f"run {duration(left)} left")  # without validation
        parts += [
            f"train error {percent(means['train_top1_error'])}",
            f"top-5 {percent(means['train_top5_error'])}",
        ]
        if self._last:
            parts += [f"val {percent(self._last['val_top1_error'])}", f"top-5 {percent(self._last['val_top5_error'])}"]
        parts += [f"rate {rate:g}", f"waits for data {percent(means['data_wait'])}"]
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


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
