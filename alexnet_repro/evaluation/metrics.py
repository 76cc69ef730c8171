"""Error rates, as pure functions of probabilities and labels."""

import numpy as np


def label_ranks(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the right one: float [N, K], int [N] -> int64 [N], 0 if it is the first guess.

    Among equal probabilities the class with the lower index comes first. What is not a number is never right.
    """
    own = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1]) < np.asarray(labels)[:, None]
    not_before = (probabilities < own) | ((probabilities == own) & ~earlier)
    ranks: np.ndarray = (~not_before).sum(axis=1)
    return ranks


def top_k_error(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The fraction of images whose label is not among the k most probable classes (section 2 of the paper)."""
    return float((label_ranks(probabilities, labels) >= k).mean())


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p(label), in nats; probabilities below the smallest float32 count as that."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())
