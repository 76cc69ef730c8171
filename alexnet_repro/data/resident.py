"""A split that lies in the memory of a device, every image read and decoded once (runtime.data_on_gpu)."""

import gc
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from alexnet_repro.data.batch import Batch
from data_prep.common.errors import RequestError
from data_prep.reader import SplitReader

_FOR_TRAINING = 3 * 2**30  # bytes left for the network, its maps and cuDNN: an estimate, of batches of 128


class ResidentSplit:
    """Can replace a SplitReader in `epoch_batches` and `whole_images`, which give the same batches, on `device`.

    images: uint8 [M, S, S, C]; labels: int64 [M].
    """

    def __init__(self, reader: SplitReader, whole: Iterable[Batch], device: torch.device) -> None:
        """`whole`: all images of the split, in its order."""
        self.images = torch.empty((len(reader), *reader.shards.shape), dtype=torch.uint8, device=device)
        self.labels = torch.from_numpy(reader.labels).to(device)
        done = 0
        for batch in whole:
            self.images[done : done + len(batch.images)].copy_(batch.images)  # waits: then the batch is let go
            done += len(batch.images)
        assert done == len(reader)

    def __len__(self) -> int:
        return len(self.images)

    def patches(self, side: int) -> Tensor:
        """Every patch of every image, uint8 [M, S - side + 1, S - side + 1, side, side, C], without a copy: indexed
        with [numbers, top, left] it is a batch, made by one kernel.
        """
        return self.images.unfold(1, side, 1).unfold(2, side, 1).permute(0, 1, 2, 4, 5, 3)


def refuse_larger_than_memory(readers: Sequence[SplitReader], device: torch.device) -> None:
    """RequestError unless the free memory of `device`, if it is a GPU, holds these splits and a network in training."""
    if device.type != "cuda":
        return
    gc.collect()  # what a run before this one in the process has left
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    images = sum(len(reader) * math.prod(reader.shards.shape) for reader in readers)
    if images + _FOR_TRAINING > free:
        raise RequestError(
            f"runtime.data_on_gpu=true: the images take {images / 1e9:.1f} GB, training about "
            f"{_FOR_TRAINING / 1e9:.1f} GB, and {device} has {free / 1e9:.1f} GB free; give runtime.data_on_gpu=false"
        )
