"""The start of a run: while the network guesses, its loss is ln(classes). With the text's recipe that lasts some time,
longer with more classes; docs/claims.md has the measurements.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from alexnet_repro.config import TrainConfig
from alexnet_repro.runs.settings import differences
from data_prep.common.cli import load

# Classes: the step at which the loss left ln(classes) by the rule of `step_that_left` (tests/benchmarks/
# start_of_training.py), with log_every=10 and the text's network, inputs and rule to the last setting (in bf16, one
# seed).
MEASURED = {10: 80, 50: 240, 200: 1030}
# Of ln(classes): below it, the network does more than guess. It is lower than `schedule.counts_once_loss_below`, since
# means of tens of steps vary more than that of an epoch.
LEFT = 0.97

# Our choice: when to warn. After _TIMES_MEASURED times the expected step; where nothing was measured, after
# _STEPS_A_CLASS steps for each class, but not before _AT_LEAST. (The slowest start seen, at a quarter of the width,
# took 17 steps a class.)
_TIMES_MEASURED, _STEPS_A_CLASS, _AT_LEAST = 3, 20, 500


def epochs_at_chance(below: float | None, history: Sequence[Mapping[str, float]]) -> int:
    """The number of epochs before the first whose mean training loss is below `below` times its `chance_loss`, which is
    ln(classes); 0 if `below` is None. An epoch of an older run, without a `chance_loss`, counts as below.
    """
    if below is None:
        return 0
    for number, row in enumerate(history):
        chance = row.get("chance_loss", math.inf)
        if row["train_loss"] < below * chance or chance == 0:  # of a single class there is nothing to guess
            return number
    return len(history)


def steps_expected(classes: int) -> float | None:
    """The step at which the text's recipe leaves ln(classes): interpolated between the measurements, linearly in the
    logarithms of both; None outside them.
    """
    known = sorted(MEASURED.items())
    for (few, early), (many, late) in pairwise(known):
        if few <= classes <= many:
            share = math.log(classes / few) / math.log(many / few)
            return early * (late / early) ** share
    return None


class ChanceNotice:
    """What to say of the loss of a run until it leaves ln(classes). The run continues after the epochs of `history`.

    `note` is for the live line, and empty once the loss has left.
    """

    def __init__(self, config: TrainConfig, classes: int, history: Sequence[Mapping[str, float]] = ()) -> None:
        self.note = ""
        self._config, self._classes, self._chance = config, classes, math.log(classes)
        self._left = classes == 1 or any(row["train_loss"] < LEFT * self._chance for row in history)
        # Measured with conf/train.yaml as it stands: the paper's network, inputs and rule, and weights that were drawn.
        other = differences(config, load("train", TrainConfig), only=("model", "augment", "optim", "init_from"))
        self._expected = None if other else steps_expected(classes)
        self._warn_from: float = max(_AT_LEAST, _STEPS_A_CLASS * classes)
        if self._expected is not None:
            self._warn_from = _TIMES_MEASURED * self._expected

    def after(self, step: int, loss: float) -> str:
        """A warning, once, if the loss should have left long before `step`; else empty. `loss`: mean of some steps."""
        self._left = self._left or loss < LEFT * self._chance
        if self._left:
            self.note = ""
            return ""
        where = "still at" if loss < 1.05 * self._chance else "above"
        self.note = f"{where} ln({self._classes}) = {self._chance:.2f}"
        if self._expected is not None:
            self.note += f", which the text's recipe leaves after about step {round(self._expected, -1):.0f}"
        if step < self._warn_from:
            return ""
        self._warn_from = math.inf
        rate, scale = self._config.optim.learning_rate, self._config.augment.input_scale
        return (
            f"step {step}: the loss is {self.note}. Likeliest causes: the rate (optim.learning_rate={rate:g}); inputs "
            f"that are divided (augment.input_scale={scale:g}, the paper: 1); biases of 1 beside small weights, most "
            "of all in a narrow network (model=code2012 has larger weights and leaves it sooner); wrong labels"
        )
