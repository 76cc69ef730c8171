"""The loss of a step, and how many of its images are right, from logits that lie whole on one device or, with
model.fc8.split, in shares of the classes on several. Of a share three numbers an image leave its device: two
for the loss, whose gradients come back, and one for the count.
"""

from collections.abc import Sequence
from itertools import accumulate

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
    logits = _label_logits(shares, _local_labels(shares, labels))
    pairs = [torch.stack([share.logsumexp(1), logit]) for share, logit in zip(shares, logits, strict=True)]
    joined = torch.stack(exchange.to_devices(pairs, [labels.device] * len(pairs)))  # [shares, 2, N]
    return (joined[:, 0].logsumexp(0) - joined[:, 1].sum(0)).sum()


def correct_among(shares: Sequence[Tensor], labels: Tensor) -> Tensor:
    """How many images have their label first, and how many among the first five: int64 [2]; arguments as above.

    evaluation.metrics.label_ranks on the device, where a step must not wait for the host.
    """
    devices = [share.device for share in shares]
    there = [labels.device] * len(shares)
    local = _local_labels(shares, labels)
    label_logit = torch.stack(exchange.to_devices(_label_logits(shares, local), there)).sum(0)  # [N]
    before = []
    logits = exchange.to_devices([label_logit] * len(shares), devices)
    for share, label, logit in zip(shares, local, logits, strict=True):
        lower = torch.arange(share.shape[1], device=share.device) < label[:, None]
        before.append(((share > logit[:, None]) | ((share == logit[:, None]) & lower)).sum(1))
    rank = torch.stack(exchange.to_devices(before, there)).sum(0)  # the classes before the label
    return torch.stack([(rank < k).sum() for k in TOP_K])


def _local_labels(shares: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
    """For each share, on its device: the labels counted from its first class."""
    copies = exchange.to_devices([labels] * len(shares), [share.device for share in shares])
    firsts = accumulate((share.shape[1] for share in shares[:-1]), initial=0)
    return [label - first for label, first in zip(copies, firsts, strict=True)]


def _label_logits(shares: Sequence[Tensor], local: Sequence[Tensor]) -> list[Tensor]:
    """For each share, [N] on its device: the logit of the label where it is among the share's classes, else 0."""
    logits = []
    for share, label in zip(shares, local, strict=True):
        last = share.shape[1] - 1
        logit = share.gather(1, label.clamp(0, last)[:, None])[:, 0]
        logits.append(torch.where((label >= 0) & (label <= last), logit, 0.0))
    return logits
