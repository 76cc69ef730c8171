"""Probabilities over the views of section 4.1."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet_repro.data import Batch, ColumnInputs, View
from alexnet_repro.model import AlexNet
from alexnet_repro.runtime import autocast


@dataclass
class Predictions:
    """float32 [N, K] each; rows sum to 1."""

    centre: np.ndarray  # the centre patch
    average: np.ndarray  # the mean of the softmax outputs over all views asked for
    labels: np.ndarray  # int64 [N]

    @classmethod
    def joined(cls, parts: Iterable["Predictions"]) -> "Predictions":
        columns = zip(*((p.centre, p.average, p.labels) for p in parts), strict=True)
        return cls(*(np.concatenate(arrays) for arrays in columns))


def predict(
    model: AlexNet, batches: Iterable[Batch], views: list[View], inputs: ColumnInputs, precision: str = "fp32"
) -> Predictions:
    """`batches` of whole images; views[0] is the centre patch; `precision` as in RuntimeConfig.

    The model is left in test mode.
    """
    return Predictions.joined(predict_batches(model, batches, views, inputs, precision))


def predict_batches(
    model: AlexNet, batches: Iterable[Batch], views: list[View], inputs: ColumnInputs, precision: str = "fp32"
) -> Iterator[Predictions]:
    """The same, batch by batch."""
    model.eval()
    for batch in batches:
        # Not around the loop: the caller's code runs between two batches.
        with torch.inference_mode(), autocast(precision, inputs.devices):
            centre, average = _over_views(model, batch, views, inputs)
            yield Predictions(centre.cpu().numpy(), average.cpu().numpy(), batch.labels.cpu().numpy())


def _over_views(model: AlexNet, batch: Batch, views: list[View], inputs: ColumnInputs) -> tuple[Tensor, Tensor]:
    images = inputs.spread(batch.images)
    centre = total = None
    for view in views:
        probabilities = model(view_inputs(batch, images, view, model.config.input_size, inputs)).float().softmax(dim=1)
        centre = probabilities if centre is None else centre
        total = probabilities if total is None else total + probabilities
    assert centre is not None and total is not None
    return centre, total / len(views)


def view_inputs(
    batch: Batch, images: dict[torch.device, Tensor], view: View, side: int, inputs: ColumnInputs
) -> list[Tensor]:
    """One view of a batch as the network's input, column by column; `images`: the batch's, on every device."""
    patches = {device: view.cut(whole, side) for device, whole in images.items()}
    top, left, mirror = (torch.full_like(batch.top, value) for value in (view.top, view.left, view.mirror))
    return inputs(patches, top, left, mirror.bool(), None)
