"""Several processes that train one network together, each with a copy of both columns (started by torchrun)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from data_prep.command import RequestError


@dataclass(frozen=True)
class Ranks:
    """This process among all, and among those of its machine. Alone: 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of_environment(cls) -> "Ranks":
        """As torchrun says; alone without it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if "WORLD_SIZE" not in os.environ:
            return cls()
        try:
            return cls(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError):
            raise RequestError(f"the environment has WORLD_SIZE, but not all of {', '.join(names)}; start with "
                               "torchrun --nproc-per-node=N -m alexnet_repro.train ...") from None  # fmt: skip

    @property
    def first(self) -> bool:
        """The one that writes and prints."""
        return self.rank == 0

    def share(self, count: int) -> int:
        """How many of this machine's `count` things each of its processes has."""
        return count // self.local_size

    def add_up(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks, in place, on every rank."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def joined(self, devices: list[torch.device]) -> Iterator[None]:
        """Connected with the others: over NCCL between GPUs, over gloo between CPUs."""
        if self.size == 1:
            yield
            return
        kinds = {device.type for device in devices}
        if len(kinds) > 1:
            raise RequestError(f"devices={[str(device) for device in devices]}: with torchrun all columns must be on "
                               "GPUs, or all on the CPU")  # fmt: skip
        on_gpus = kinds == {"cuda"}
        if on_gpus:
            torch.cuda.set_device(devices[0])
        dist.init_process_group("nccl" if on_gpus else "gloo")
        try:
            yield
        finally:
            dist.destroy_process_group()
