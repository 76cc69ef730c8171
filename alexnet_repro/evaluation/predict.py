"""Probabilities over the views of section 4.1."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from alexnet_repro.data import Batch, ColumnInputs, View
from alexnet_repro.model import AlexNet


@dataclass
class Predictions:
    """float32 [N, K] each; rows sum to 1."""

    centre: np.ndarray  # the centre patch
    average: np.ndarray  # the mean of the softmax outputs over all views asked for
    labels: np.ndarray  # int64 [N]


@torch.inference_mode()
def predict(model: AlexNet, batches: Iterable[Batch], views: list[View], inputs: ColumnInputs) -> Predictions:
    """`batches` of whole images; views[0] is the centre patch. The model is left in test mode."""
    model.eval()
    side = model.config.input_size
    centres, averages, labels = [], [], []
    for batch in batches:
        total = None
        images = inputs.spread(batch.images)
        for view in views:
            patches = {device: view.cut(whole, side) for device, whole in images.items()}
            top, left, mirror = (torch.full_like(batch.top, value) for value in (view.top, view.left, view.mirror))
            logits = model(inputs(patches, top, left, mirror.bool(), None))
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
