"""Checkpoints: plain tensors and containers, by the paper's names of layer and column whatever the placement."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass
class Checkpoint:
    """A run between two steps. `history` has the numbers of every epoch so far."""

    epoch: int  # epochs done
    step: int  # steps done
    within: dict[str, float]  # what the epoch that is under way has come to; empty at the end of one
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
        write_atomically(path, lambda file: torch.save(vars(self), file))

    def input_rule(self) -> InputRule:
        return InputRule(self.mean_image.numpy(), self.model["input_size"], **self.inputs)

    def finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(bool(norm.isfinite()) for norm in torch._foreach_norm(list(self.weights.values())))

    def copied(self) -> "Checkpoint":
        """With tensors of its own: on a CPU those of a running model go on changing."""
        weights, momentum = ({name: t.clone() for name, t in d.items()} for d in (self.weights, self.momentum))
        return Checkpoint(**{**vars(self), "weights": weights, "momentum": momentum, "history": list(self.history)})


def load_checkpoint(path: Path) -> Checkpoint:
    """RequestError if there is none, or if it is damaged: not as it was written, to the bit."""
    if not path.is_file():
        raise RequestError(f"{path}: no such checkpoint; train the run first, or name another with checkpoint=...")
    try:
        with zipfile.ZipFile(path) as file:  # torch.load takes changed numbers as they are
            if (member := file.testzip()) is not None:
                raise ValueError(f"{member} has another checksum than when it was written")
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
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
        group["buffer_rate"] = rates[0]
        for parameter, rate in zip(group["params"], rates, strict=True):
            if (buffer := checkpoint.momentum.get(names[parameter])) is not None:
                buffer = buffer.to(parameter.device)
                # Rates within a group differ only if the run may go on with other groups than it began with.
                optimiser.state[parameter]["momentum_buffer"] = buffer if rate == rates[0] else buffer * rate / rates[0]
