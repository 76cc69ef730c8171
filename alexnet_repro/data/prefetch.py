"""Batches on the devices of the columns, copied while the batch before is computed on."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from alexnet_repro.data.batch import Batch


@dataclass
class _Copies:
    """A batch in host memory, its copies, and on each GPU the event that comes when they are there."""

    batch: Batch
    on: dict[torch.device, Batch]
    done: dict[torch.device, torch.cuda.Event]


def on_devices(batches: Iterator[Batch], devices: Sequence[torch.device]) -> Iterator[dict[torch.device, Batch]]:
    """Each batch on every distinct device of `devices`, in the order of `batches`.

    With a GPU among them the next batch is fetched, and its copies are begun on streams of their own, before this one
    is handed out; for that it should lie in pinned memory. Nothing here makes the host wait for a GPU. An error of
    `batches` comes out after the batch before it has been handed out.

    A batch that was made on a GPU (ResidentSplit) belongs to the current stream: it is handed out as it is, and copied
    on that stream where another device needs it.
    """
    distinct = list(dict.fromkeys(devices))
    streams = {device: _side_stream(device) for device in distinct if device.type == "cuda"}
    if not streams:
        for batch in batches:
            yield {device: batch.to(device) for device in distinct}
        return
    copying: deque[_Copies] = deque()  # host batches must outlive their copies: after them, their memory is used again

    def begin() -> _Copies | None:
        batch = next(batches, None)
        if batch is None:
            return None
        while copying and all(event.query() for event in copying[0].done.values()):
            copying.popleft()
        begun = _Copies(batch, {}, {})
        for device in distinct:
            if device in streams and batch.images.device.type == "cpu":
                with torch.cuda.stream(streams[device]):
                    begun.on[device] = batch.to(device, non_blocking=True)
                    begun.done[device] = streams[device].record_event()
            else:  # never asynchronously to the CPU, which would read too early
                begun.on[device] = batch.to(device, non_blocking=device in streams)
        copying.append(begun)
        return begun

    try:
        upcoming = begin()
        while upcoming is not None:
            current, failure = upcoming, None
            try:
                upcoming = begin()
            except Exception as error:
                failure = error
            for device, done in current.done.items():
                compute = torch.cuda.current_stream(device)
                compute.wait_event(done)  # for these copies, not for those of the next batch
                for tensor in current.on[device].tensors().values():
                    tensor.record_stream(compute)  # its memory may be given to a later copy only after this use
            yield current.on
            if failure is not None:
                raise failure
    finally:  # also when the run stops in between
        for copies in copying:
            for done in copies.done.values():
                done.synchronize()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all epochs: the memory of copies stays with their stream."""
    return torch.cuda.Stream(device)
