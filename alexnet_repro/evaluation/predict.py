"""Probabilities over the views of section 4.1."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from alexnet_repro.data import Batch, InputTransform, View
from alexnet_repro.model import AlexNet
from alexnet_repro.training.step import network_input


@dataclass
class Predictions:
    """float32 [N, K] each; rows sum to 1."""

    centre: np.ndarray  # the centre patch
    average: np.ndarray  # the mean of the softmax outputs over all views asked for
    labels: np.ndarray  # int64 [N]


@torch.inference_mode()
def predict(
    model: AlexNet, batches: Iterable[Batch], views: list[View], transforms: list[InputTransform]
) -> Predictions:
    """`batches` of whole images; views[0] is the centre patch. The model is left in test mode."""
    model.eval()
    side = model.config.input_size
    centres, averages, labels = [], [], []
    for batch in batches:
        total = None
        for view in views:
            logits = model(network_input(_patches(batch, view, side), transforms))
            probabilities = logits.float().softmax(dim=1)
            if total is None:
                centres.append(probabilities.cpu().numpy())
                total = probabilities
            else:
                total = total + probabilities
        assert total is not None
        averages.append((total / len(views)).cpu().numpy())
        labels.append(batch.labels.numpy())
    return Predictions(np.concatenate(centres), np.concatenate(averages), np.concatenate(labels))


def _patches(batch: Batch, view: View, side: int) -> Batch:
    images = batch.images[:, view.top : view.top + side, view.left : view.left + side]
    return Batch(
        images,
        batch.labels,
        torch.full_like(batch.top, view.top),
        torch.full_like(batch.left, view.left),
        torch.full_like(batch.mirror, view.mirror),
        torch.zeros_like(batch.colour),
    )
