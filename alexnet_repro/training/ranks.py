"""Several processes that train one network together, each with a copy of both columns (started by torchrun)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from packaging.version import Version
from torch import Tensor

from data_prep.common.errors import RequestError


def nccl() -> str:
    """The NCCL backend that serves several GPUs of one process, which "nccl" does up to PyTorch 2.14."""
    return "nccl-legacy" if Version(torch.__version__) >= Version("2.15") else "nccl"


@dataclass(frozen=True)
class Ranks:
    """This process's number among all, and among those of its machine. By default 0 of 1: no torchrun."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_env(cls) -> "Ranks":
        """From the variables that torchrun sets; 0 of 1 without them, or with WORLD_SIZE=1. RequestError if some are
        missing.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if os.environ.get("WORLD_SIZE", "1").strip() in ("", "1"):
            return cls()
        try:
            return cls(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError):
            raise RequestError(
                f"the environment has WORLD_SIZE, but not all of {', '.join(names)}; start with torchrun "
                "--nproc-per-node=N -m alexnet_repro.train ..., or unset WORLD_SIZE for one process"
            ) from None

    @property
    def first(self) -> bool:
        """The one that writes and prints."""
        return self.rank == 0

    def all_reduce(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks, in place, on every rank."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def any(self, mine: bool, device: torch.device) -> bool:
        """Whether it is true on any rank: the same answer on all, which must all ask. `device`: of the rank's first
        column.
        """
        return mine if self.size == 1 else self.all_reduce(torch.tensor(float(mine), device=device)).item() > 0

    def agree(self, numbers: Tensor) -> bool:
        """Whether the first rank has the same `numbers` as this one."""
        if self.size == 1:
            return True
        of_first = numbers.clone()
        dist.broadcast(of_first, src=0)
        return torch.equal(of_first, numbers)

    def wait(self, device: torch.device) -> None:
        """Waits until all ranks are here. `device`: of the rank's first column."""
        self.all_reduce(torch.zeros(1, device=device)).item()

    @contextmanager
    def process_group(self, devices: list[torch.device], timeout: float) -> Iterator[None]:
        """Connects the ranks: by NCCL between GPUs, by gloo between CPUs. Without other ranks, does nothing.

        `devices`: of this rank's columns. A rank waits ten minutes longer for the others than for its own data:
        `timeout` + 600 s, at most a week, and that if `timeout` is 0. RequestError if some columns are on GPUs and some
        on the CPU.
        """
        if devices[0].type == "cuda":
            torch.cuda.set_device(devices[0])
        if self.size == 1:
            yield
            return
        kinds = {device.type for device in devices}
        if kinds not in ({"cuda"}, {"cpu"}):
            raise RequestError(f"devices={[str(device) for device in devices]}: with torchrun all columns must be on "
                               "CUDA's GPUs, or all on the CPU")  # fmt: skip
        week = timedelta(weeks=1).total_seconds()
        longest = timedelta(seconds=min(timeout + 600 if timeout else week, week))
        backend = nccl() if kinds == {"cuda"} else "gloo"
        if self.size == self.local_size:
            # After a restart (torchrun --max-restarts) the store still has the addresses of the ranks that are gone.
            # Of several machines each counts its own restarts, so there the number cannot tell.
            store, _, _ = next(dist.rendezvous("env://", timeout=longest))
            store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            dist.init_process_group(backend, timeout=longest, store=store, rank=self.rank, world_size=self.size)
        else:
            dist.init_process_group(backend, timeout=longest)
        yield
        dist.destroy_process_group()  # not after an error: it would wait for ranks that wait for this one
