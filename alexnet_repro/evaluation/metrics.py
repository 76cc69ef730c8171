"""Error rates and log-loss, as pure functions of probabilities and labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_repro.evaluation.intervals import mean_interval, proportion_interval

TOP_K = (1, 5)  # section 2: it is customary to report two error rates, top-1 and top-5
GUESSES = max(TOP_K)  # labels that are shown and submitted for an image
_ROWS = 4096  # at a time, which bounds the memory of the comparisons


def label_ranks(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes are more probable than the right one: float [N, K], int [N] -> int64 [N], 0 for the first guess.

    Of equally probable classes the one with the lower index comes first; the code of 2012 gave each its share of a
    point, which matters only where a network gives many images the same answer. A label whose probability is NaN comes
    last.
    """
    ranks = np.empty(len(labels), np.int64)
    columns = np.arange(probabilities.shape[1])
    for start in range(0, len(labels), _ROWS):
        p, label = probabilities[start : start + _ROWS], np.asarray(labels[start : start + _ROWS])[:, None]
        of_label = np.take_along_axis(p, label, axis=1)
        not_before = (p < of_label) | ((p == of_label) & (columns >= label))
        ranks[start : start + _ROWS] = (~not_before).sum(axis=1)
    return ranks


def wrong(ranks: np.ndarray, k: int) -> np.ndarray:
    """Whether the label is not among the k most probable classes (section 2): ranks as `label_ranks` -> bool [N].

    The mean over images is the top-k error.
    """
    return ranks >= k


def label_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probability of the right class: float [N, K], int [N] -> float [N]."""
    return np.take_along_axis(probabilities, np.asarray(labels)[:, None], axis=1)[:, 0]


def losses(label_probability: np.ndarray) -> np.ndarray:
    """-log p(label) of each image, in nats; probabilities below the smallest float32 count as that. float64 [N]."""
    return -np.log(np.maximum(label_probability.astype(np.float64), np.finfo(np.float32).tiny))


def error_rates(ranks: np.ndarray, label_probability: np.ndarray) -> dict[str, Any]:
    """Top-1 and top-5 error (fractions) and log-loss (nats), each with its 95 % interval: int [N], float [N]. The
    interval of the log-loss of a single image is None.
    """
    images = len(ranks)
    result: dict[str, Any] = {}
    for k in TOP_K:
        errors = int(wrong(ranks, k).sum())
        result[f"top{k}_error"] = errors / images
        result[f"top{k}_interval"] = proportion_interval(errors, images)
    nats = losses(label_probability)
    interval = mean_interval(nats) if images > 1 else None
    return {**result, "log_loss": float(nats.mean()), "log_loss_interval": interval}


@dataclass(frozen=True)
class ClassErrors:
    label: int
    images: int
    top1_error: float  # fractions of the class's images
    top5_error: float


@dataclass(frozen=True)
class Confusion:
    label: int  # the right class
    guess: int  # the class that was predicted
    count: int  # how often
    images: int  # of the right class


def class_errors(ranks: np.ndarray, labels: np.ndarray, classes: int) -> list[ClassErrors]:
    """Ranks and labels, int [N] each -> one entry for each class that has images, in label order."""
    images = np.bincount(labels, minlength=classes)
    errors = [np.bincount(labels[wrong(ranks, k)], minlength=classes) for k in TOP_K]
    return [
        ClassErrors(label, int(n), float(errors[0][label] / n), float(errors[1][label] / n))
        for label, n in enumerate(images)
        if n
    ]


def confusions(first_guesses: np.ndarray, labels: np.ndarray, classes: int, most: int) -> list[Confusion]:
    """The `most` frequent pairs of a class and the class predicted instead, most frequent first: int [N], int [N]."""
    errors = first_guesses != labels
    pairs, counts = np.unique(labels[errors].astype(np.int64) * classes + first_guesses[errors], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    label, guess = np.divmod(pairs[order], classes)
    columns = label, guess, counts[order], np.bincount(labels)[label]
    return [Confusion(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def most_confused(found: list[Confusion], most: int) -> list[int]:
    """The classes of the most frequent confusions, in order of appearance; at most `most`."""
    labels = dict.fromkeys(label for pair in found for label in (pair.label, pair.guess))
    return list(labels)[:most]


def confusion_matrix(first_guesses: np.ndarray, labels: np.ndarray, chosen: list[int]) -> np.ndarray:
    """int64 [C, C + 1]: how many images of chosen class i were predicted as chosen class j; last, as any other."""
    place = {label: i for i, label in enumerate(chosen)}
    counts = np.zeros((len(chosen), len(chosen) + 1), np.int64)
    for label, guess in zip(labels.tolist(), first_guesses.tolist(), strict=True):
        if label in place:
            counts[place[label], place.get(guess, len(chosen))] += 1
    return counts
