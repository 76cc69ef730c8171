"""Checkpoints: plain tensors and containers, by the paper's names of layer and column whatever the placement."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_repro.model import AlexNet
from alexnet_repro.training.sgd import PaperSGD
from data_prep.command import RequestError, RunError
from data_prep.format import write_atomically


@dataclass
class Checkpoint:
    """The end of an epoch. `history` has the numbers of every epoch so far."""

    epoch: int  # epochs done
    step: int  # steps done
    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]  # the optimiser's buffers, -v / momentum_rate; empty before the first step
    momentum_rate: float
    history: list[dict[str, float]]
    classes: list[str]  # wnids in label order
    words: list[str]  # what people call them
    data: dict[str, str]  # name, description and plan (a fingerprint) of the data set it was trained on
    mean_image: Tensor  # float32 [S, S, C]
    colour_components: Tensor  # float32 [C, C]
    model: dict[str, Any]  # the model's configuration: a checkpoint can be used without the data set

    def save(self, path: Path) -> None:
        try:
            write_atomically(path, lambda file: torch.save(vars(self), file))
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}); start again to continue") from None


def load_checkpoint(path: Path) -> Checkpoint:
    """RequestError if there is none, or if it cannot be read."""
    if not path.is_file():
        raise RequestError(f"{path}: no such checkpoint; train the run first, or name another with checkpoint=...")
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file can fail in any way
        raise RequestError(f"{path}: cannot be read as a checkpoint ({type(error).__name__}); use another") from None


def weights_of(model: AlexNet) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def momentum_of(model: AlexNet, optimiser: PaperSGD) -> dict[str, Tensor]:
    buffers = {name: optimiser.state[p].get("momentum_buffer") for name, p in model.named_parameters()}
    return {name: buffer.cpu() for name, buffer in buffers.items() if buffer is not None}


def restore(checkpoint: Checkpoint, model: AlexNet, optimiser: PaperSGD) -> None:
    """Puts weights and momentum where the columns are; the next step is, to the bit, as if there had been no pause."""
    model.load_state_dict(checkpoint.weights)
    for group in optimiser.param_groups:
        group["buffer_rate"] = checkpoint.momentum_rate
    for name, parameter in model.named_parameters():
        if name in checkpoint.momentum:
            optimiser.state[parameter]["momentum_buffer"] = checkpoint.momentum[name].to(parameter.device)
