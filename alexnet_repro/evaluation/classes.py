"""Where the errors are: class by class, and which classes are taken for which."""

from dataclasses import dataclass

import numpy as np

from alexnet_repro.evaluation.metrics import TOP_K


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
