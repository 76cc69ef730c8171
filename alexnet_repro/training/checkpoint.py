"""Checkpoints: plain tensors and containers, by the paper's names of layer and column whatever the placement."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from alexnet_repro.data import InputRule
from alexnet_repro.model import AlexNet
from alexnet_repro.training.sgd import PaperSGD
from data_prep.command import RequestError
from data_prep.format import write_atomically


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


class _Noting:
    """A file for torch.save that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


@dataclass
class Checkpoint:
    """A run between two steps. `history` has the numbers of every epoch so far."""

    epoch: int  # epochs done
    step: int  # steps done
    within: dict[str, Any]  # what the epoch that is under way has come to; empty at the end of one
    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]  # the optimiser's buffers, -v / rate; empty before the first step
    momentum_rates: dict[str, float]  # the rate of each buffer
    history: list[dict[str, float]]
    classes: list[str]  # wnids in label order
    words: list[str]  # what people call them
    data: dict[str, str]  # name, description and plan (a fingerprint) of the data set it was trained on
    mean_image: Tensor  # float32 [S, S, C]
    inputs: dict[str, Any]  # how pictures become the network's input: `mean` and `scale` of InputRule
    model: dict[str, Any]  # the model's configuration: a checkpoint can be used without the data set

    def save(self, path: Path) -> None:
        """Atomically. OSError if the disk does not take it."""

        def write(file: BinaryIO) -> None:
            noting = _Noting(file)
            try:
                torch.save(vars(self), cast(IO[bytes], noting))
            except RuntimeError:  # what torch makes of a failed write, now and then
                if noting.error is None:
                    raise
                raise noting.error from None

        write_atomically(path, write)

    def input_rule(self) -> InputRule:
        return InputRule(self.mean_image.numpy(), self.model["input_size"], **self.inputs)

    def finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(bool(norm.isfinite()) for norm in torch._foreach_norm(list(self.weights.values())))

    def copied(self) -> "Checkpoint":
        """With tensors of its own: on a CPU those of a running model go on changing."""
        weights, momentum = ({name: t.clone() for name, t in d.items()} for d in (self.weights, self.momentum))
        return Checkpoint(**{**vars(self), "weights": weights, "momentum": momentum, "history": list(self.history)})


def load_checkpoint(path: Path, on_disk: bool = False) -> Checkpoint:
    """RequestError if there is none, or if it is damaged: not as it was written, to the bit.

    `on_disk`: the weights stay there, for who wants the rest.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such checkpoint; train the run first, or name another with checkpoint=...")
    try:
        with zipfile.ZipFile(path) as file:  # torch.load takes changed numbers as they are
            if (member := file.testzip()) is not None:
                raise ValueError(f"{member} has another checksum than when it was written")
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True, mmap=on_disk))
    except Exception as error:  # a damaged file can fail in any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RequestError(f"{path}: cannot be read as a checkpoint ({reason}); use another") from None


def weights_of(model: AlexNet) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def momentum_of(model: AlexNet, optimiser: PaperSGD) -> dict[str, Tensor]:
    buffers = {name: optimiser.state[p].get("momentum_buffer") for name, p in model.named_parameters()}
    return {name: buffer.cpu() for name, buffer in buffers.items() if buffer is not None}


def momentum_rates_of(model: AlexNet, optimiser: PaperSGD) -> dict[str, float]:
    rates = {parameter: group["buffer_rate"] for group in optimiser.param_groups for parameter in group["params"]}
    return {name: rates[parameter] for name, parameter in model.named_parameters()}


def restore(checkpoint: Checkpoint, model: AlexNet, optimiser: PaperSGD) -> None:
    """Puts weights and momentum where the columns are; the next step is, to the bit, as if there had been no pause."""
    model.load_state_dict(checkpoint.weights)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimiser.param_groups:
        rates = [checkpoint.momentum_rates[names[parameter]] for parameter in group["params"]]
        buffers = [checkpoint.momentum.get(names[parameter]) for parameter in group["params"]]
        if all(buffer is None for buffer in buffers):  # no step yet, or frozen from the first
            continue
        group["buffer_rate"] = rates[0]
        for parameter, rate, buffer in zip(group["params"], rates, buffers, strict=True):
            # In a group rates differ, or a buffer is missing, only if a run goes on with other groups than it began.
            kept = torch.zeros_like(parameter) if buffer is None else buffer.to(parameter.device)
            optimiser.state[parameter]["momentum_buffer"] = kept if rate == rates[0] else kept * rate / rates[0]
