"""The loss of a step, and how many of its images are right, from logits that lie whole on one device or, with
model.fc8.split, in shares of the classes on several. Of a share three numbers an image leave its device: two
for the loss, whose gradients come back, and one for the count.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_repro.evaluation.metrics import TOP_K
from alexnet_repro.model import exchange


def log_loss_sum(shares: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The sum over the images of -log p(label), in nats: a scalar on the first device.

    `shares`: the logits [N, classes], or one tensor a device with its share of the classes, in their order. `labels`:
    int64 [N], on the first device.
    """
    if len(shares) == 1:
        return F.cross_entropy(shares[0], labels, reduction="sum")
    of_labels = _of_labels(shares, _within(shares, labels))
    pairs = [torch.stack([share.logsumexp(1), own]) for share, own in zip(shares, of_labels, strict=True)]
    joined = torch.stack(exchange.to_devices(pairs, [labels.device] * len(pairs)))  # [shares, 2, N]
    return (joined[:, 0].logsumexp(0) - joined[:, 1].sum(0)).sum()


def correct_among(shares: Sequence[Tensor], labels: Tensor) -> Tensor:
    """How many images have their label first, and how many among the first five: int64 [2]; arguments as above.

    evaluation.metrics.label_ranks on the device, where a step must not wait for the host.
    """
    devices = [share.device for share in shares]
    there = [labels.device] * len(shares)
    within = _within(shares, labels)
    of_label = torch.stack(exchange.to_devices(_of_labels(shares, within), there)).sum(0)  # [N]
    before = []
    compared = exchange.to_devices([of_label] * len(shares), devices)
    for share, own, (label, _) in zip(shares, compared, within, strict=True):
        lower = torch.arange(share.shape[1], device=share.device) < label[:, None]
        before.append(((share > own[:, None]) | ((share == own[:, None]) & lower)).sum(1))
    rank = torch.stack(exchange.to_devices(before, there)).sum(0)  # the classes before the label
    return torch.stack([(rank < k).sum() for k in TOP_K])


def _within(shares: Sequence[Tensor], labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each share, on its device: the labels counted from its first class, and whether they are among its own."""
    result, first = [], 0
    for share, label in zip(
        shares, exchange.to_devices([labels] * len(shares), [s.device for s in shares]), strict=True
    ):
        own = label - first
        result.append((own, (own >= 0) & (own < share.shape[1])))
        first += share.shape[1]
    return result


def _of_labels(shares: Sequence[Tensor], within: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """For each share, [N] on its device: the logit of the label where it is among its classes, else 0."""
    return [
        torch.where(among, share.gather(1, own.clamp(0, share.shape[1] - 1)[:, None])[:, 0], 0.0)
        for share, (own, among) in zip(shares, within, strict=True)
    ]
