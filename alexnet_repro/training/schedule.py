"""Learning rates, and whether there is colour noise, of each step: pure functions of the epochs before, and of the
batches done in this one (section 5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alexnet_repro.config import ChangeConfig, ScheduleConfig
from alexnet_repro.training.chance import epochs_at_chance


@dataclass(frozen=True)
class Phase:
    """Rates and noise from the next step on, until something changes. Rates are multiples of the first ones."""

    finished: bool
    weights: float = 1.0
    biases: float = 1.0
    # By layer, the weights' rate where it has its own; 0 freezes its biases too.
    layers: dict[str, float] = field(default_factory=dict)
    colour_noise: bool = True

    def rate(self, layer: str, bias: bool) -> float:
        """The rate of the weights or biases of `layer`, as a multiple of their first rate."""
        own = self.layers.get(layer)
        if bias:
            return 0.0 if own == 0 else self.biases
        return self.weights if own is None else own


def next_phase(
    config: ScheduleConfig,
    val_errors: Sequence[float],
    train_errors: Sequence[float] = (),
    not_counted: int = 0,
    batches: int = 0,
) -> Phase:
    """The phase by the plateau rule if `config` has a patience, else by its recorded changes.

    `val_errors`, `train_errors`: top-1, as fractions, of each epoch so far. The first `not_counted` epochs are part of
    no plateau. `batches` of the next epoch are done.
    """
    until = config.until_train_error
    if until is not None and any(error <= until for error in train_errors):
        return Phase(finished=True)
    if config.patience is None:
        return _recorded(config, len(val_errors), batches)
    ended = plateaus(config.patience, config.min_improvement, val_errors[not_counted:])
    rate = 1 / config.divide_by ** min(ended, config.divisions)
    return Phase(ended > config.divisions or len(val_errors) >= config.epochs, rate, rate)


def phase_after(config: ScheduleConfig, history: Sequence[Mapping[str, float]], batches: int = 0) -> Phase:
    """next_phase, from the rows of a run's history."""
    val_errors, train_errors = ([row[f"{split}_top1_error"] for row in history] for split in ("val", "train"))
    at_chance = epochs_at_chance(config.counts_once_loss_below, history)
    return next_phase(config, val_errors, train_errors, at_chance, batches)


def described(config: ScheduleConfig) -> str:
    """One line: how long, and after which epochs of this run something changes."""
    if config.patience is not None:
        return f"{config.name}, at most {config.epochs} epochs"
    positions = sorted({_position(config, change) for change in config.changes})
    after = [f"{epoch} and {batches} batches" if batches else str(epoch) for epoch, batches in positions]
    changes = f", changes after epoch {', '.join(after)}" if after else ""
    return f"{config.name}, {config.epochs} epochs{changes}"


def divisions_done(config: ScheduleConfig, history: Sequence[Mapping[str, float]]) -> int:
    """How often plateaus have divided the rate; 0 for a schedule without them."""
    if config.patience is None:
        return 0
    counted = history[epochs_at_chance(config.counts_once_loss_below, history) :]
    ended = plateaus(config.patience, config.min_improvement, [row["val_top1_error"] for row in counted])
    return min(ended, config.divisions)


def changes_within(config: ScheduleConfig, epochs_done: int) -> set[int]:
    """After how many batches of the next epoch something changes: empty but for a schedule that changes within one."""
    positions = [_position(config, change) for change in config.changes]
    return {batches for epoch, batches in positions if epoch == epochs_done and batches > 0}


def plateaus(patience: int, min_improvement: float, val_errors: Sequence[float]) -> int:
    """How often "the validation error rate stopped improving with the current learning rate" (section 5).

    An epoch improves if its error is at least `min_improvement` below the best so far; `patience` epochs in a row
    without improvement are a plateau.
    """
    best, waited, count = float("inf"), 0, 0
    for error in val_errors:
        if error < best and error <= best - min_improvement:
            best, waited = error, 0
            continue
        waited += 1
        if waited >= patience:
            count, waited = count + 1, 0
    return count


def _position(config: ScheduleConfig, change: ChangeConfig) -> tuple[int, int]:
    """Where a change comes in this run: its epochs are stretched with the run's, batches are not."""
    epoch, batches = change.position
    stretch = config.epochs / config.recorded_epochs if config.recorded_epochs else 1
    return round(epoch * stretch), batches


def _recorded(config: ScheduleConfig, epochs_done: int, batches: int) -> Phase:
    weights, biases, colour_noise = 1.0, 1.0, True
    layers: dict[str, float] = {}
    for change in config.changes:
        if _position(config, change) > (epochs_done, batches):
            # Not break: stretched, a change may come before one listed ahead of it (batches are not stretched). Of
            # those that have come, the last in the list counts.
            continue
        weights = weights if change.weights is None else change.weights
        biases = biases if change.biases is None else change.biases
        own = layers | (change.layers or {})
        layers = {layer: rate for layer, rate in own.items() if rate is not None}
        colour_noise = colour_noise if change.colour_noise is None else change.colour_noise
    return Phase(epochs_done >= config.epochs, weights, biases, layers, colour_noise)


def layers_with_own_rates(config: ScheduleConfig) -> set[str]:
    """The layers to which some change of the schedule gives a rate."""
    return {layer for change in config.changes for layer in change.layers or {}}
