"""Batches on devices. Without a GPU its logic runs on recorded stand-ins for streams; with one, on real copies."""

from collections.abc import Iterator

import pytest
import torch

from alexnet_repro.data import Batch, Draws, on_devices, prefetch
from data_prep.common.errors import RunError

CPU, META, GPU = torch.device("cpu"), torch.device("meta"), torch.device("cuda", 0)


def batches(count: int, fail: bool = False, pin: bool = False) -> Iterator[Batch]:
    for number in range(count):
        images = torch.full((32, 64, 64, 3), number, dtype=torch.uint8)
        n = torch.full((32,), number)
        draws = Draws(n, n, n > 3, torch.full((32, 3), float(number)))
        batch = Batch(images, n, draws, elsewhere=number, stands_in=True)
        yield batch.map(torch.Tensor.pin_memory) if pin else batch
    if fail:
        raise RunError("the disk is gone")


def test_each_distinct_device_gets_one_and_the_host_its_own() -> None:
    given = list(batches(3))
    got = list(on_devices(iter(given), [CPU, META, CPU]))
    assert [set(copies) for copies in got] == [{CPU, META}] * 3
    for original, copies in zip(given, got, strict=True):
        assert copies[CPU] is original
        there = copies[META]
        assert all(tensor.device == META for tensor in there.tensors().values())
        assert (there.counted, there.total) == (0, original.total)
        assert there.images.shape == original.images.shape and there.images.dtype == torch.uint8


class Stream:
    """Stands in for a CUDA stream, event and context, and writes down what is asked of it."""

    log: list[str]

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def wait_event(self, event: "Stream") -> None:
        self.log.append(f"{self.name} waits for {event.name}")

    def record_event(self) -> "Stream":
        return Stream(self.log, f"copy {self.log.count('copy')}")

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        self.log.append(f"end of {self.name}")

    def __enter__(self) -> None:
        self.log.append("copy")

    def __exit__(self, *_: object) -> None: ...


def test_the_next_copy_begins_before_this_batch_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch its own copies are waited for, and not those of the next. An error of the batch after comes out only
    when this one has been used.
    """
    log: list[str] = []
    monkeypatch.setattr(prefetch, "_side_stream", lambda device: Stream(log, "side"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(log, "compute"))
    monkeypatch.setattr(Batch, "to", lambda batch, device, non_blocking=False: batch)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append("record"))
    with pytest.raises(RunError, match="the disk is gone"):
        for copies in on_devices(batches(2, fail=True), [GPU, GPU]):
            log.append(f"use {copies[GPU].total}")
    handed_out = [["compute waits for copy 1", *["record"] * 6], ["compute waits for copy 2", *["record"] * 6]]
    assert log == ["copy", "copy", *handed_out[0], "use 0", *handed_out[1], "use 1", "end of copy 1", "end of copy 2"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("own_stream", [False, True])
def test_copies_are_whole_while_the_gpu_is_busy(own_stream: bool) -> None:
    """Nothing waits for the GPU: it lags behind the host, and must still read each batch as it was."""
    busy = torch.randn(4096, 4096, device=GPU)
    sums = []
    with torch.cuda.stream(torch.cuda.Stream(GPU) if own_stream else torch.cuda.default_stream(GPU)):
        for copies in on_devices(batches(50, pin=True), [GPU]):
            busy = (busy @ busy).clamp_(-1, 1)
            sums.append(copies[GPU].images.double().mean() + copies[GPU].labels.double().mean())
    torch.cuda.synchronize()
    assert [value.item() for value in sums] == [2.0 * number for number in range(50)]
