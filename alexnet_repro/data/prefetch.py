"""Batches on the devices of the columns, copied while the batch before is computed on."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from alexnet_repro.data.loader import Batch


def on_devices(batches: Iterator[Batch], devices: Sequence[torch.device]) -> Iterator[dict[torch.device, Batch]]:
    """Each batch on every distinct device of `devices`, in the order of `batches`.

    With a GPU among them the next batch is fetched, and its copies are begun on streams of their own, before this one
    is handed out; for that it should lie in pinned memory. Nothing here makes the host wait for a GPU. An error of
    `batches` comes out after the batch before it has been handed out.
    """
    distinct = list(dict.fromkeys(devices))
    streams = {device: torch.cuda.Stream(device) for device in distinct if device.type == "cuda"}
    if not streams:
        for batch in batches:
            yield {device: batch.to(device) for device in distinct}
        return
    in_flight: deque[tuple[Batch, list[torch.cuda.Event]]] = deque()  # host batches must outlive their copies

    def begin_copies() -> dict[torch.device, Batch] | None:
        batch = next(batches, None)
        if batch is None:
            return None
        while in_flight and all(event.query() for event in in_flight[0][1]):
            in_flight.popleft()
        copies, events = {}, []
        for device in distinct:
            if device not in streams:
                copies[device] = batch.to(device)
                continue
            with torch.cuda.stream(streams[device]):
                copies[device] = batch.to(device, non_blocking=True)
                events.append(streams[device].record_event())
        in_flight.append((batch, events))
        return copies

    upcoming = begin_copies()
    while upcoming is not None:
        current, failure = upcoming, None
        try:
            upcoming = begin_copies()
        except Exception as error:
            failure = error
        for device, stream in streams.items():
            compute = torch.cuda.current_stream(device)
            compute.wait_stream(stream)
            for tensor in current[device].tensors().values():
                tensor.record_stream(compute)  # its memory may be given to a later copy only after this use
        yield current
        if failure is not None:
            raise failure
