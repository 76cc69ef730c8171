"""One step of section 5: forward through both columns, mean log-loss of the batch, backward, update."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_repro.data import Batch, ColumnInputs
from alexnet_repro.model import AlexNet
from alexnet_repro.runtime import autocast
from alexnet_repro.training.optimisers import Optimiser
from alexnet_repro.training.ranks import Ranks


@dataclass
class Numbers:
    """What a step came to, over all ranks."""

    loss: float  # mean over the batch, in nats, before the update
    correct: int  # right at first guess
    among_five: int  # right within five guesses
    stop: bool  # whether some rank was asked to stop


class Outcome:
    """The numbers of a step that may still be running: reading them waits for it, making them does not."""

    def __init__(self, numbers: Tensor, total: int) -> None:
        self.total = total
        self._event: torch.cuda.Event | None = None
        if numbers.device.type == "cuda":
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.current_stream(numbers.device).record_event()
        else:
            self._numbers = numbers

    def read(self) -> Numbers:
        if self._event is not None:
            self._event.synchronize()
        loss_sum, correct, among_five, stop = self._numbers.tolist()
        return Numbers(loss_sum / self.total, round(correct), round(among_five), stop > 0)


class Stepper:
    """Gives the devices one step after the other, and never waits for them.

    If the loss of a step is not finite, on any rank, neither that step nor a later one changes the network: the devices
    see to it themselves, so that the host may find out afterwards.
    """

    def __init__(
        self,
        model: AlexNet,
        optimiser: Optimiser,
        inputs: ColumnInputs,
        seed: int,
        ranks: Ranks,
        precision: str,
    ) -> None:
        self.model, self.optimiser, self.inputs = model, optimiser, inputs
        self.ranks = ranks
        self.seed = seed
        self.precision = precision
        self.network: nn.Module = model
        if ranks.size > 1:
            self.network = DistributedDataParallel(model)
        device = model.fc8.parts()[0].weight.device
        optimiser.found_inf = torch.zeros((), device=device)

    def columns(self, batches: Mapping[torch.device, Batch], step: int, noise: bool) -> list[Tensor]:
        """The network's input for a step, and its dropout masks."""
        self.model.seed_dropout(self.seed, step, self.ranks.rank)
        return self.inputs.of_batches(batches, noise)

    def __call__(self, batches: Mapping[torch.device, Batch], step: int, noise: bool, stop: bool) -> Outcome:
        """`batches`: this rank's share of the step's batch, on every device that has a column."""
        columns = self.columns(batches, step, noise)
        with autocast(self.precision, self.inputs.devices):
            logits: Tensor = self.network(columns)
        batch = batches[logits.device]
        return Outcome(self.learn(logits, batch, stop), batch.total)

    def learn(self, logits: Tensor, batch: Batch, stop: bool = False) -> Tensor:
        """Loss, backward, guard and update; what Numbers is made of, float64 [4] on the device."""
        logits, labels = logits[: max(1, batch.counted)].float(), batch.labels[: max(1, batch.counted)]
        loss_sum = F.cross_entropy(logits, labels, reduction="sum") * float(batch.counted > 0)
        self.optimiser.zero_grad(set_to_none=True)
        # DistributedDataParallel takes the mean over the ranks; the mean over the batch is what section 5 has.
        (loss_sum * (self.ranks.size / batch.total)).backward()
        guesses = logits.detach().topk(min(5, logits.shape[1])).indices == labels[:, None]
        correct, among_five = (guesses[:, :k].sum() * (batch.counted > 0) for k in (1, 5))
        asked = torch.full_like(correct, int(stop))
        sums = [loss_sum.detach(), correct, among_five, asked]
        numbers = self.ranks.add_up(torch.stack([value.double() for value in sums]))
        found_inf = self.optimiser.found_inf
        assert found_inf is not None
        found_inf.copy_(torch.maximum(found_inf, (~numbers[0].isfinite()).float()))
        self.optimiser.step()
        return numbers


def largest_activations(model: AlexNet, columns: list[Tensor], most: int = 3) -> str:
    """The layers with the largest absolute outputs for this input, the worst first: 'fc7.b inf, fc6.a 3.2e+30'."""
    found: list[tuple[float, str]] = []

    def note(name: str, outputs: list[Tensor]) -> None:
        for column, output in zip("abcdefgh", outputs, strict=False):
            largest = output.detach().abs().max().item()
            found.append((largest if largest == largest else float("inf"), f"{name}.{column} {largest:.3g}"))

    hooks = [
        layer.register_forward_hook(lambda _m, _i, outputs, name=name: note(name, outputs))
        for name, layer in model.layers().items()
    ]
    try:
        with torch.no_grad():
            model(columns)
    finally:
        for hook in hooks:
            hook.remove()
    return ", ".join(text for _, text in sorted(found, key=lambda item: -item[0])[:most])


@dataclass
class Within:
    """What the epoch that is under way has come to."""

    batch: int = 0  # batches done
    images: int = 0
    loss_sum: float = 0.0  # in nats, over the images
    correct: int = 0  # at first guess
    among_five: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # of the seconds, for data
    logged: dict[str, float] = field(default_factory=dict)  # images, loss_sum, seconds, waited at the last entry
