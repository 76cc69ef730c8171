"""Several runs as one: the weighted mean of their probabilities, as section 6 averages five and seven."""

from collections.abc import Sequence

import numpy as np

from alexnet_repro.evaluation.predict import Predictions


class Ensemble:
    """Takes one member after the other, so that only the sum and one member are in memory."""

    def __init__(self, weights: Sequence[float]) -> None:
        """Positive, one a member, in the order in which they will come; they need not sum to 1."""
        self._weights = [np.float32(weight / sum(weights)) for weight in weights]
        self._taken = 0
        self._sum: Predictions | None = None

    def add(self, member: Predictions) -> None:
        weight = self._weights[self._taken]
        centre, average = member.centre * weight, member.average * weight
        if self._sum is not None:
            centre += self._sum.centre
            average += self._sum.average
        self._sum = Predictions(centre, average, member.labels)
        self._taken += 1

    def mean(self) -> Predictions:
        assert self._sum is not None and self._taken == len(self._weights)
        return self._sum
