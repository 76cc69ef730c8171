"""The learning rate, as a pure function of the past (section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_repro.config import ScheduleConfig


@dataclass(frozen=True)
class Phase:
    """What holds for the next epoch."""

    learning_rate: float
    divisions: int
    finished: bool


def next_phase(config: ScheduleConfig, initial_rate: float, val_errors: Sequence[float]) -> Phase:
    """Divides the rate "when the validation error rate stopped improving with the current learning rate" (section 5).

    `val_errors`: the validation error (a fraction) after each epoch so far. An epoch improves if its error is at least
    `min_improvement` below the best so far; `patience` epochs without improvement are a plateau. Each plateau divides
    the rate; the one after the last division, or `epochs`, ends the training.
    """
    best, waited, divisions = float("inf"), 0, 0
    for error in val_errors:
        if error <= best - config.min_improvement:
            best, waited = error, 0
            continue
        waited += 1
        if config.patience is not None and waited >= config.patience:
            divisions, waited = divisions + 1, 0
    if config.patience is None:
        done = len(val_errors)
        divisions = sum(done >= epoch for epoch in config.divide_after)
        return Phase(initial_rate / config.divide_by**divisions, divisions, done >= config.epochs)
    finished = divisions > config.divisions or len(val_errors) >= config.epochs
    divisions = min(divisions, config.divisions)
    return Phase(initial_rate / config.divide_by**divisions, divisions, finished)
