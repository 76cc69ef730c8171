"""The start of a run: as long as the network guesses, its loss is ln(classes). The text's recipe stays there for some
time, with more classes for longer; docs/claims.md has what was measured.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from omegaconf import DictConfig, OmegaConf

from alexnet_repro.config import TrainConfig
from data_prep.common.cli import checked, conf_folder

# Classes: the step at which the loss left ln(classes) by the rule of `step_that_left`, entries every 10 steps, with the
# text's network, inputs and rule to the last setting (in bf16, one seed).
MEASURED = {10: 80, 50: 240, 200: 1030}
LEFT = 0.97  # of ln(classes): below, the network does more than guess

# Our choice: when to warn. Where nothing was measured, after so many steps a class: the slowest seen, a network of a
# quarter of the width, took 11.
_TIMES_MEASURED, _STEPS_A_CLASS, _AT_LEAST = 3, 20, 500


def epochs_at_chance(below: float | None, history: Sequence[Mapping[str, float]]) -> int:
    """How many epochs came before the first whose mean training loss is below that share of ln(classes), which is its
    `chance_loss`; None: 0. An epoch without one, of a run that began before it was noted, counts as such a first one.
    """
    if below is None:
        return 0
    for number, row in enumerate(history):
        chance = row.get("chance_loss", math.inf)
        if row["train_loss"] < below * chance or chance == 0:  # of a single class there is nothing to guess
            return number
    return len(history)


def steps_expected(classes: int) -> float | None:
    """At which step the text's recipe leaves ln(classes): on a straight line between the logarithms of what was
    measured, and None beyond.
    """
    known = sorted(MEASURED.items())
    for (few, early), (many, late) in pairwise(known):
        if few <= classes <= many:
            share = math.log(classes / few) / math.log(many / few)
            return early * (late / early) ** share
    return None


def step_that_left(entries: Sequence[Mapping[str, float]], classes: int, together: int = 3) -> int | None:
    """Of metrics.jsonl's entries of kind steps: the first step where the mean loss of so many in a row is below LEFT
    times ln(classes); None if there is none.
    """
    for end in range(together, len(entries) + 1):
        few = entries[end - together : end]
        if sum(entry["loss"] for entry in few) / together < LEFT * math.log(classes):
            return int(few[-1]["step"])
    return None


class Start:
    """What to say of a run of `config` that goes on after the epochs of `history`, until its loss has left ln(classes).

    `note` is for the live line, and empty once it has.
    """

    def __init__(self, config: TrainConfig, classes: int, history: Sequence[Mapping[str, float]] = ()) -> None:
        self.note = ""
        self._config, self._classes, self._chance = config, classes, math.log(classes)
        self._over = classes == 1 or any(row["train_loss"] < LEFT * self._chance for row in history)
        self._expected = steps_expected(classes) if _is_the_text(config) else None
        self._late: float = max(_AT_LEAST, _STEPS_A_CLASS * classes)
        if self._expected is not None:
            self._late = _TIMES_MEASURED * self._expected

    def after(self, step: int, loss: float) -> str:
        """`loss`: the mean of the last few steps. A warning, once, if it should have left long ago; else empty."""
        self._over = self._over or loss < LEFT * self._chance
        where = "still at" if loss < 1.05 * self._chance else "above"
        chance = f"{where} ln({self._classes}) = {self._chance:.2f}"
        law = ""
        if self._expected is not None:
            law = f", which the text's recipe leaves after about step {round(self._expected, -1):.0f}"
        self.note = "" if self._over else chance + law
        if self._over or step < self._late:
            return ""
        self._late = math.inf
        rate, scale = self._config.optim.learning_rate, self._config.augment.input_scale
        return (
            f"step {step}: the loss is {self.note}. Likeliest causes: the rate (optim.learning_rate={rate:g}); inputs "
            f"that are divided (augment.input_scale={scale:g}, the paper: 1); biases of 1 beside small weights, most "
            "of all in a narrow network (model=code2012 has larger weights and leaves it sooner); wrong labels"
        )


def _is_the_text(config: TrainConfig) -> bool:
    """Whether network, inputs and rule are those of conf/*/paper.yaml, and the weights drawn."""
    parts = {"model": config.model, "augment": config.augment, "optim": config.optim}
    for group, part in parts.items():
        text = OmegaConf.load(conf_folder() / group / "paper.yaml")
        assert isinstance(text, DictConfig)
        if checked(text, type(part)) != part:
            return False
    return config.init_from is None
