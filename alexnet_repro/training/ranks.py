"""Several processes that train one network together, each with a copy of both columns (started by torchrun)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from data_prep.common.errors import RequestError


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

    def add_up(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks, in place, on every rank."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def same_everywhere(self, numbers: Tensor) -> bool:
        """Whether the first rank has the same `numbers` as this one."""
        if self.size == 1:
            return True
        of_first = numbers.clone()
        dist.broadcast(of_first, src=0)
        return torch.equal(of_first, numbers)

    def wait(self, device: torch.device) -> None:
        """Until all ranks are here. `device`: the first of this rank's columns."""
        self.add_up(torch.zeros(1, device=device)).item()

    @contextmanager
    def joined(self, devices: list[torch.device], patience: float) -> Iterator[None]:
        """Connected with the others: over NCCL between GPUs, over gloo between CPUs. A rank that waits for the others
        gives up `patience` seconds (0: a week) and ten minutes after they should have answered.
        """
        if devices[0].type == "cuda":
            torch.cuda.set_device(devices[0])
        if self.size == 1:
            yield
            return
        kinds = {device.type for device in devices}
        if len(kinds) > 1:
            raise RequestError(f"devices={[str(device) for device in devices]}: with torchrun all columns must be on "
                               "GPUs, or all on the CPU")  # fmt: skip
        timeout = timedelta(seconds=patience + 600) if patience else timedelta(weeks=1)
        dist.init_process_group("nccl" if kinds == {"cuda"} else "gloo", timeout=timeout)
        yield
        dist.destroy_process_group()  # not after an error: it may wait for ranks that wait for this one
