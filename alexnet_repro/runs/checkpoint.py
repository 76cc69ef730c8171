"""Checkpoints: plain tensors and containers, which torch.load reads with weights_only=True.

Weights are named by the paper's layer and column (`conv3.a.weight`), whatever devices the columns were on.
"""

import hashlib
import json
import zipfile
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from alexnet_repro.data import InputRule
from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically
from data_prep.common.text import one_line


@dataclass
class Checkpoint:
    """A run between two steps. The fields are the keys of the file."""

    epoch: int  # epochs done
    step: int  # steps done
    within: dict[str, Any]  # sums over the epoch under way; empty between two epochs
    weights: dict[str, Tensor]
    buffers: dict[str, dict[str, Tensor]]  # the optimiser's, by name and parameter: of SGD, momentum_buffer = -v / rate
    buffer_rates: dict[str, float]  # the rate of each momentum_buffer
    history: list[dict[str, float]]  # the numbers of each epoch done
    classes: list[str]  # wnids in label order
    words: list[str]  # class names in label order
    data: dict[str, str]  # name, description and fingerprint (as `plan`) of the data set it was trained on
    mean_image: Tensor  # float32 [S, S, C]
    inputs: dict[str, Any]  # how images become the network's input: `mean` and `scale` of InputRule
    model: dict[str, Any]  # the model's configuration: a checkpoint can be used without the data set
    init_from: dict[str, Any] | None = None  # the checkpoint whose weights training began with, if any

    @property
    def data_fingerprint(self) -> str:
        """The fingerprint of the data set that it was trained on."""
        return self.data["plan"]

    def save(self, path: Path) -> None:
        """Atomically: `path` holds a whole checkpoint at any moment. OSError if it cannot be written."""

        def write(file: BinaryIO) -> None:
            try:
                torch.save(vars(self), file)
            except RuntimeError as error:  # after a failed write torch cannot end the file either, and says only that
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

        write_atomically(path, write)

    def input_rule(self) -> InputRule:
        return InputRule(self.mean_image.numpy(), self.model["input_size"], **self.inputs)

    def finite(self) -> bool:
        """Whether no weight is infinite or NaN. Computed on the weights' devices; the host waits once."""
        norms = torch._foreach_norm(list(self.weights.values()))
        return bool(torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().all())

    def copied(self, memory: dict[str, Tensor] | None = None) -> "Checkpoint":
        """A copy with tensors of its own in host memory: those of a model in training change with the next step.

        The tensors lie in `memory`, by name, pinned if they come from a GPU; the next copy into the same `memory`
        overwrites them. The host waits once for each device.
        """
        memory = {} if memory is None else memory

        def copy(kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            copies = {}
            for name, tensor in tensors.items():
                key = f"{kind} {name}"
                if key not in memory:
                    memory[key] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
                copies[name] = memory[key].copy_(tensor, non_blocking=tensor.is_cuda)
            return copies

        weights = copy("weights", self.weights)
        buffers = {kind: copy(kind, tensors) for kind, tensors in self.buffers.items()}
        for device in {weight.device for weight in self.weights.values() if weight.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return Checkpoint(**{**vars(self), "weights": weights, "buffers": buffers, "history": list(self.history)})


def refuse_missing(path: Path) -> None:
    """RequestError, with the names of those that are there, if `path` is no checkpoint's."""
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.pt")))
        do = f"there are {there}" if there else "train the run first"
        raise RequestError(f"{path}: no such checkpoint; {do}")


def load_checkpoint(path: Path, on_disk: bool = False) -> Checkpoint:
    """RequestError if there is none, or if a byte of it is not as it was written.

    `on_disk`: the tensors are mapped from the file and not read into memory, for callers that need the rest only.
    """
    refuse_missing(path)
    try:
        with zipfile.ZipFile(path) as file:  # torch.load takes changed numbers as they are
            if (member := file.testzip()) is not None:
                raise ValueError(f"{member} has another checksum than when it was written")
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=on_disk)
        known = {entry.name: entry for entry in fields(Checkpoint)}
        needed = {name for name, entry in known.items() if entry.default is MISSING}
        if not needed <= loaded.keys() <= known.keys():
            raise ValueError("written by another version of this project")
        return Checkpoint(**loaded)
    except Exception as error:  # a damaged file can fail in any way
        raise RequestError(f"{path}: cannot be read as a checkpoint ({one_line(error)[:200]}); use another") from None


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 of all that determines the probabilities of an image: network, weights, mean image and its use."""
    digest = hashlib.sha256(json.dumps([checkpoint.model, checkpoint.inputs], sort_keys=True).encode())
    for name, tensor in sorted({**checkpoint.weights, "mean image": checkpoint.mean_image}.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
