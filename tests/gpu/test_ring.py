"""Slots of the loader's ring, pinned, which a GPU copies from."""

from pathlib import Path

import pytest
import torch
from test_loader import SIDE, in_order, train

from alexnet_repro.data import Loading, on_devices, prefetch
from alexnet_repro.data.workers import Workers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda", 0)


def test_a_slot_is_not_filled_again_before_it_is_copied(prepared: Path) -> None:
    """A copy waits behind 20 ms of other work, in which workers could fill every slot several times."""
    reader = train(prepared)
    expected = [b.map(torch.clone) for b in in_order(reader, Loading(0), batch_size=2)]
    copied = []
    with Workers([reader.shards], 2, SIDE, Loading(2, pin=True)) as workers:
        for copies in on_devices(in_order(reader, workers, batch_size=2), [GPU]):
            with torch.cuda.stream(prefetch._side_stream(GPU)):
                torch.cuda._sleep(40_000_000)  # cycles
            copied.append(copies[GPU])
        torch.cuda.synchronize()
    for ours, theirs in zip(copied, expected, strict=True):
        for name, tensor in theirs.tensors().items():
            assert torch.equal(ours.tensors()[name].cpu(), tensor), name


def test_slots_are_pinned_while_they_are_used(prepared: Path) -> None:
    """And not afterwards: else the next ring, which may lie at the same address, could not be."""
    reader = train(prepared)
    for _ in range(3):
        for batch in in_order(reader, Loading(2, pin=True)):
            assert all(tensor.is_pinned() for tensor in batch.tensors().values())
