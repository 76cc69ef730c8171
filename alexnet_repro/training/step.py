"""One step of section 5: forward through both columns, mean log-loss of the batch, backward, update."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_repro.data import Batch, ColumnInputs
from alexnet_repro.model import AlexNet
from alexnet_repro.runtime import autocast, exact_dtype
from alexnet_repro.training.log_loss import correct_among, log_loss_sum
from alexnet_repro.training.optimisers import Optimiser
from alexnet_repro.training.ranks import Ranks


@dataclass
class StepResult:
    """The result of a step, over all ranks, before its update."""

    images: int  # in the batch
    loss: float  # mean over the batch, in nats
    correct: int  # images whose label is the first guess
    top5_correct: int  # images whose label is among the first five guesses
    stop: bool  # whether some rank had been asked to stop when it began the step


class PendingResult:
    """The result of a step that may still be running. To read it is to wait for the step; to make it is not."""

    def __init__(self, numbers: Tensor, images: int) -> None:
        """`numbers`: what Stepper.learn returned. `images`: in the batch, over all ranks."""
        self._images = images
        self._event: torch.cuda.Event | None = None
        if numbers.device.type == "cuda":
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            # blocking: who waits for it sleeps, and does not spin on a core that loader processes could use.
            event = torch.cuda.Event(blocking=True)
            self._event = torch.cuda.current_stream(numbers.device).record_event(event)
        else:
            self._numbers = numbers

    def read(self) -> StepResult:
        if self._event is not None:
            self._event.synchronize()
        loss_sum, correct, top5_correct, stop = self._numbers.tolist()
        return StepResult(self._images, loss_sum / self._images, round(correct), round(top5_correct), stop > 0)


class Stepper:
    """Submits one step after the other to the devices, and never waits for them.

    If the loss of a step is not finite, on any rank, neither that step nor a later one changes the network. The devices
    hold the updates back themselves, so the host may find out afterwards.
    """

    def __init__(
        self, model: AlexNet, optimiser: Optimiser, inputs: ColumnInputs, seed: int, ranks: Ranks, precision: str
    ) -> None:
        self.model, self.optimiser, self.inputs = model, optimiser, inputs
        self.seed, self.ranks, self.precision = seed, ranks, precision
        self.network: nn.Module = DistributedDataParallel(model) if ranks.size > 1 else model
        optimiser.found_inf = torch.zeros((), device=model.fc8.parts()[0].weight.device)

    def prepare(self, batch_on: Mapping[torch.device, Batch], step: int, with_noise: bool) -> list[Tensor]:
        """Seeds the step's dropout masks and makes the network's input, column by column."""
        self.model.seed_dropout(self.seed, step, self.ranks.rank)
        return self.inputs.of_batch(batch_on, with_noise)

    def __call__(
        self, batch_on: Mapping[torch.device, Batch], step: int, with_noise: bool, stop: bool
    ) -> PendingResult:
        """`batch_on`: this rank's share of the step's batch, on every device that has a column. `step`: counted from 0.
        `stop`: whether this rank was asked to stop; the outcome says whether any was.
        """
        columns = self.prepare(batch_on, step, with_noise)
        with autocast(self.precision, self.inputs.devices):
            shares: list[Tensor] = self.network(columns, joined=False)
        batch = batch_on[shares[0].device]
        return PendingResult(self.learn(shares, batch, stop), batch.total)

    def learn(self, shares: Sequence[Tensor], batch: Batch, stop: bool = False) -> Tensor:
        """Loss, backward, guard and update, from the logits as they lie (AlexNet.forward); `batch`: on the device of
        the first.

        Returns what PendingResult reads, on the device and over all ranks, `exact_dtype` [4]: the sum of the losses,
        the images right at the first guess and within five, and the number of ranks that were asked to stop.
        """
        # A rank whose share is empty computes one image all the same, as the others wait for its gradients; times 0.
        images = max(1, batch.counted)
        shares, labels = [share[:images].float() for share in shares], batch.labels[:images]
        loss_sum = log_loss_sum(shares, labels) * float(batch.counted > 0)
        self.optimiser.zero_grad(set_to_none=True)
        # DistributedDataParallel takes the mean over the ranks; the mean over the batch is what section 5 has.
        (loss_sum * (self.ranks.size / batch.total)).backward()
        counts = correct_among([share.detach() for share in shares], labels) * (batch.counted > 0)
        sums = torch.stack([loss_sum.detach(), *counts, torch.full_like(loss_sum, stop)]).to(
            exact_dtype(loss_sum.device)
        )
        numbers = self.ranks.all_reduce(sums)
        found_inf = self.optimiser.found_inf
        assert found_inf is not None
        found_inf.copy_(torch.maximum(found_inf, (~numbers[0].isfinite()).float()))
        self.optimiser.step()
        return numbers


def largest_activations(model: AlexNet, columns: list[Tensor]) -> str:
    """The three layers with the largest absolute outputs for this input, largest first: 'fc7.b inf, fc6.a 3.2e+30'."""
    found: dict[str, float] = {}

    def note(name: str, outputs: list[Tensor]) -> None:
        for column, output in zip(model.layers()[name].column_names, outputs, strict=True):
            largest = output.detach().abs().max().item()
            found[f"{name}.{column}"] = math.inf if math.isnan(largest) else largest

    with torch.no_grad(), model.observed(note):
        model(columns)
    worst = sorted(found, key=lambda name: -found[name])[:3]
    return ", ".join(f"{name} {found[name]:.3g}" for name in worst)
