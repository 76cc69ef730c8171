"""One step of section 5: forward through both columns, mean log-loss of the batch, backward, update."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from alexnet_repro.data import Batch, ColumnInputs
from alexnet_repro.model import AlexNet
from alexnet_repro.training.sgd import PaperSGD
from data_prep.command import RunError


@dataclass
class StepResult:
    loss: float  # mean over the batch, in nats
    correct: Tensor  # int64 scalar on the device: right at first guess, before the update


def train_step(
    model: AlexNet, optimiser: PaperSGD, batch: Batch, inputs: ColumnInputs, seed: int, step: int
) -> StepResult:
    """RunError, before the update, if the loss is not finite."""
    model.seed_dropout(seed, step)
    patches = inputs.spread(batch.images)
    logits = model(inputs(patches, batch.top, batch.left, batch.mirror, batch.colour))
    labels = batch.labels.to(logits.device, non_blocking=True)
    loss = F.cross_entropy(logits, labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    value = loss.item()
    if not math.isfinite(value):
        raise RunError(
            f"step {step}: the loss is {value}; stopped before the update; checkpoints of "
            "earlier epochs are good. Try another run=NAME with a lower optim.learning_rate"
        )
    optimiser.step()
    return StepResult(value, (logits.detach().argmax(1) == labels).sum())
