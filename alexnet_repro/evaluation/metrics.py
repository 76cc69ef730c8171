"""Error rates, as pure functions of probabilities and labels."""

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
