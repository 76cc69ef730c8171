"""One step of section 5: forward through both columns, mean log-loss of the batch, backward, update."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_repro.data import Batch, InputTransform
from alexnet_repro.model import AlexNet
from alexnet_repro.training.sgd import PaperSGD
from data_prep.command import RunError


@dataclass
class StepResult:
    loss: float  # mean over the batch, in nats
    correct: Tensor  # int64 scalar on the device: right at first guess, before the update


def network_input(batch: Batch, transforms: list[InputTransform]) -> list[Tensor]:
    """The same images for every column, made on each column's device; columns that share a device share them."""
    made: dict[torch.device, Tensor] = {}
    for transform in transforms:
        if transform.device not in made:
            made[transform.device] = transform(batch.images, batch.top, batch.left, batch.mirror, batch.colour)
    return [made[transform.device] for transform in transforms]


def train_step(
    model: AlexNet, optimiser: PaperSGD, batch: Batch, transforms: list[InputTransform], seed: int, step: int
) -> StepResult:
    """RunError, before the update, if the loss is not finite."""
    model.seed_dropout(seed, step)
    logits = model(network_input(batch, transforms))
    labels = batch.labels.to(logits.device, non_blocking=True)
    loss = F.cross_entropy(logits, labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    value = loss.item()
    if not torch.isfinite(loss):
        raise RunError(
            f"step {step}: the loss is {value}; stopped before the update, the last checkpoint is good. "
            "Try a lower optim.learning_rate"
        )
    optimiser.step()
    return StepResult(value, (logits.detach().argmax(1) == labels).sum())
