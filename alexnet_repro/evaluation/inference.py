"""Probabilities over the views of section 4.1; and what validation during training makes of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_repro import runtime
from alexnet_repro.config import RuntimeConfig
from alexnet_repro.data import Batch, ColumnInputs, View, views_of, whole_images
from alexnet_repro.data.loader import loading_for
from alexnet_repro.evaluation.metrics import GUESSES, TOP_K, label_probabilities, label_ranks, losses, wrong
from alexnet_repro.model import AlexNet, LayerObserver
from alexnet_repro.runs.trained import TrainedModel
from data_prep.reader import SplitReader


@dataclass
class Probabilities:
    """float32 [N, K] each; rows sum to 1."""

    centre: np.ndarray  # the centre patch
    average: np.ndarray  # the mean of the softmax outputs over all views asked for
    labels: np.ndarray  # int64 [N]

    @classmethod
    def joined(cls, parts: Iterable["Probabilities"]) -> "Probabilities":
        columns = zip(*((p.centre, p.average, p.labels) for p in parts), strict=True)
        return cls(*(np.concatenate(arrays) for arrays in columns))


Forward = Callable[[Batch, list[View], LayerObserver | None], tuple[Tensor, Tensor]]
"""From a batch of whole images to the probabilities for the first view, and their mean over all views, float32 [N, K]
each; in test mode."""


def forward_for(model: AlexNet, inputs: ColumnInputs, config: RuntimeConfig, processes: int = 1) -> Forward:
    """The Forward of `model` on its devices, in its fast form where `config` has it."""
    if runtime.fast_form(config, model.config, inputs.devices, processes):
        from alexnet_repro.evaluation.fast_views import FastViews  # needs Triton

        return FastViews(model, inputs.rule, config.precision)

    def forward(batch: Batch, views: list[View], observe: LayerObserver | None) -> tuple[Tensor, Tensor]:
        with model.observed(observe) if observe else nullcontext():
            return view_by_view(model, batch, views, inputs, config.precision)

    return forward


def predict(forward: Forward, batches: Iterable[Batch], views: list[View]) -> Probabilities:
    """`batches` of whole images; views[0] is the centre patch."""
    return Probabilities.joined(predict_batches(forward, batches, views))


def predict_batches(
    forward: Forward, batches: Iterable[Batch], views: list[View], observe: LayerObserver | None = None
) -> Iterator[Probabilities]:
    """The same, batch by batch."""
    for batch in batches:
        centre, average = forward(batch, views, observe)
        labels = batch.labels.cpu().numpy().copy()  # these are kept, and the batch should not be
        yield Probabilities(centre.cpu().numpy(), average.cpu().numpy(), labels)


def validation_sums(forward: Forward, batches: Iterable[Batch], centre: View, observe: LayerObserver) -> Tensor:
    """The sums of validation during training, float64 [4]: images, their log-losses in nats, top-1 errors, top-5
    errors, all of the centre patch. Ranks may add theirs up.
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


@torch.inference_mode()
def view_by_view(
    model: AlexNet, batch: Batch, views: list[View], inputs: ColumnInputs, precision: str
) -> tuple[Tensor, Tensor]:
    """What a Forward returns, one view after the other."""
    model.eval()
    images = inputs.spread(batch.images)
    with runtime.autocast(precision, inputs.devices):
        probabilities = torch.stack([model(inputs.of_view(images, view)).float().softmax(1) for view in views])
    return probabilities[0], probabilities.mean(0)


def most_probable(
    probabilities: np.ndarray, classes: Sequence[str], class_names: Sequence[str], count: int = GUESSES
) -> list[dict[str, Any]]:
    """The `count` most probable classes of an image, most probable first, as wnid, words and probability.

    probabilities: float [K]. Of equals the lower label comes first.
    """
    top = np.argsort(-probabilities, kind="stable")[:count]
    return [{"wnid": classes[i], "words": class_names[i], "probability": float(probabilities[i])} for i in top]


def add_member(total: Probabilities | None, member: Probabilities, share: float) -> Probabilities:
    """The weighted mean of an ensemble, added up one by one, so that only the sum and one member are in memory: `total`
    (None before the first) and `share` times `member`. The shares of all members sum to 1.
    """
    centre, average = member.centre * np.float32(share), member.average * np.float32(share)
    if total is not None:
        centre += total.centre
        average += total.average
    return Probabilities(centre, average, member.labels)


def last_hidden(trained: TrainedModel, split: SplitReader, batch_size: int) -> Iterator[np.ndarray]:
    """What the output layer reads for the centre patch of every image, batch by batch: float32 [n, 4096] in the paper,
    column a first. In test mode.
    """
    model, inputs = trained.model.eval(), trained.inputs
    (centre,) = views_of(1, trained.inputs.rule.margin)
    loading = loading_for(trained.runtime, inputs.use_gpu)
    for batch in whole_images(split, trained.image_size, batch_size, loading):
        with torch.inference_mode(), runtime.autocast(trained.runtime.precision, inputs.devices):
            columns = model.hidden(inputs.of_view(inputs.spread(batch.images), centre))
            features = torch.cat([column.float().cpu() for column in columns], dim=1)
        yield features.numpy()
