"""Validation during training: loss and errors of the centre patch of every image."""

from collections.abc import Iterable

import torch
from torch import Tensor

from alexnet_repro.data import Batch, View
from alexnet_repro.evaluation.inference import Forward, predict_batches
from alexnet_repro.evaluation.metrics import TOP_K, label_probabilities, label_ranks, losses, wrong
from alexnet_repro.model import ReluObserver


def validation_sums(
    forward: Forward, batches: Iterable[Batch], centre: View, observe: ReluObserver | None = None
) -> Tensor:
    """float64 [4]: the number of images, the sum of their log-losses in nats, top-1 errors, top-5 errors.

    Sums, so that ranks may add theirs up. `observe`: as in `forward`.
    """
    sums = torch.zeros(2 + len(TOP_K), dtype=torch.float64)
    for part in predict_batches(forward, batches, [centre], observe):
        images, ranks = len(part.labels), label_ranks(part.centre, part.labels)
        loss = losses(label_probabilities(part.centre, part.labels)).sum()
        sums += torch.tensor([images, loss, *(wrong(ranks, k).sum() for k in TOP_K)], dtype=torch.float64)
    return sums


def validation_errors(sums: Tensor) -> dict[str, float]:
    """Mean loss in nats and errors as fractions, by the names of a run's history."""
    images, loss, top1, top5 = sums.tolist()
    return {"val_loss": loss / images, "val_top1_error": top1 / images, "val_top5_error": top5 / images}
