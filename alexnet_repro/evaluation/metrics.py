"""Error rates, as pure functions of probabilities and labels."""

from dataclasses import dataclass

import numpy as np

TOP_K = (1, 5)  # section 2: it is customary to report two error rates, top-1 and top-5
_ROWS = 4096  # at a time, which bounds the memory of the comparisons


def label_ranks(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the right one: float [N, K], int [N] -> int64 [N], 0 if it is the first guess.

    Among equal probabilities the class with the lower index comes first. What is not a number is never right.
    """
    ranks = np.empty(len(labels), np.int64)
    columns = np.arange(probabilities.shape[1])
    for start in range(0, len(labels), _ROWS):
        p, own_labels = probabilities[start : start + _ROWS], np.asarray(labels[start : start + _ROWS])
        own = p[np.arange(len(own_labels)), own_labels][:, None]
        earlier = columns < own_labels[:, None]
        not_before = (p < own) | ((p == own) & ~earlier)
        ranks[start : start + _ROWS] = (~not_before).sum(axis=1)
    return ranks


def top_k_error(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The fraction of images whose label is not among the k most probable classes (section 2 of the paper)."""
    return float((label_ranks(probabilities, labels) >= k).mean())


def label_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the network gave the right class: float [N, K], int [N] -> float [N]."""
    own: np.ndarray = probabilities[np.arange(len(labels)), labels]
    return own


def losses(own: np.ndarray) -> np.ndarray:
    """-log p(label) of each picture, in nats; probabilities below the smallest float32 count as that. float64 [N]."""
    nats: np.ndarray = -np.log(np.maximum(own.astype(np.float64), np.finfo(np.float32).tiny))
    return nats


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p(label), in nats."""
    return float(losses(label_probabilities(probabilities, labels)).mean())


@dataclass(frozen=True)
class ClassErrors:
    label: int
    images: int
    top1_error: float  # fractions of the class's pictures
    top5_error: float


@dataclass(frozen=True)
class Confusion:
    label: int  # the right class
    guess: int  # what its pictures were taken for
    count: int
    images: int  # of the right class


def class_errors(ranks: np.ndarray, labels: np.ndarray, classes: int) -> list[ClassErrors]:
    """From `metrics.label_ranks`: int [N], int [N] -> one entry for each class that has pictures, in label order."""
    images = np.bincount(labels, minlength=classes)
    wrong = [np.bincount(labels[ranks >= k], minlength=classes) for k in TOP_K]
    return [
        ClassErrors(label, int(n), float(wrong[0][label] / n), float(wrong[1][label] / n))
        for label, n in enumerate(images)
        if n
    ]


def confusions(first_guesses: np.ndarray, labels: np.ndarray, classes: int, most: int) -> list[Confusion]:
    """The `most` frequent pairs of a class and what it was taken for, most frequent first: int [N], int [N]."""
    wrong = first_guesses != labels
    pairs, counts = np.unique(labels[wrong].astype(np.int64) * classes + first_guesses[wrong], return_counts=True)
    images = np.bincount(labels, minlength=classes)
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        Confusion(int(pairs[i] // classes), int(pairs[i] % classes), int(counts[i]), int(images[pairs[i] // classes]))
        for i in order
    ]


def most_confused(found: list[Confusion], most: int) -> list[int]:
    """The classes of the most frequent confusions, in the order in which they come up; at most `most`."""
    labels: dict[int, None] = {}
    for confusion in found:
        labels |= dict.fromkeys((confusion.label, confusion.guess))
    return list(labels)[:most]


def confusion_matrix(first_guesses: np.ndarray, labels: np.ndarray, chosen: list[int]) -> np.ndarray:
    """int64 [C, C + 1]: how many pictures of chosen class i were taken for class j of them; last, for any other."""
    place = {label: i for i, label in enumerate(chosen)}
    counts = np.zeros((len(chosen), len(chosen) + 1), np.int64)
    for label, guess in zip(labels.tolist(), first_guesses.tolist(), strict=True):
        if label in place:
            counts[place[label], place.get(guess, len(chosen))] += 1
    return counts
