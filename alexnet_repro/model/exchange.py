"""Where the columns talk (section 3.2): in conv3, fc6, fc7 and fc8, by `reads: both` in conf/model/paper.yaml. The only
file of the network in which a tensor changes device.

A GPU works through queues, called streams, and what waits in one stream does not hold up the others. Each GPU computes
on its current stream, and has two more here that do nothing but copy: one for what leaves it, one for what arrives. So
that nothing is read before it is written, a copy waits for what its source has been given to compute so far, and the
target's computing stream waits for the copy. So that no memory is given away too early, PyTorch is told which stream
still reads a tensor (`record_stream`).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from alexnet_repro.model.uncompiled import uncompiled


def spread(images: Tensor | Sequence[Tensor], devices: Sequence[torch.device]) -> list[Tensor]:
    """The same images for every column, each column's copy on its own device."""
    copies = [images] * len(devices) if isinstance(images, Tensor) else list(images)
    if len(copies) != len(devices):
        raise ValueError(f"{len(copies)} batches of images for {len(devices)} columns; give one, or one a column")
    return to_devices(copies, devices)


def gather(columns: Sequence[Tensor], devices: Sequence[torch.device]) -> list[Tensor]:
    """For each device, the maps of all columns, in column order along dimension 1.

    Columns that share a device share the result, so that on one device nothing is copied twice.
    """
    if len(columns) == 1:
        return to_devices(list(columns) * len(devices), devices)
    distinct = list(dict.fromkeys(devices))
    count = len(columns)
    arrived = to_devices(list(columns) * len(distinct), [device for device in distinct for _ in range(count)])
    whole = {device: torch.cat(arrived[i * count : (i + 1) * count], dim=1) for i, device in enumerate(distinct)}
    return [whole[device] for device in devices]


def with_neighbours(columns: Sequence[Tensor], beyond: int) -> list[Tensor]:
    """Each column's maps between the `beyond` last ones of the column before and the `beyond` first ones of the column
    after, along dimension 1, on the column's device. The first column has none before, the last none after.
    """
    devices, inner = [x.device for x in columns], len(columns) - 1
    edges = [x[:, -beyond:] for x in columns[:-1]] + [x[:, :beyond] for x in columns[1:]]
    arrived = to_devices(edges, devices[1:] + devices[:-1])
    before, after = [[], *([x] for x in arrived[:inner])], [*([x] for x in arrived[inner:]), []]
    return [torch.cat([*b, x, *a], dim=1) for b, x, a in zip(before, columns, after, strict=True)]


def to_devices(tensors: Sequence[Tensor], devices: Sequence[torch.device]) -> list[Tensor]:
    """tensors[i] on devices[i]; differentiable.

    Between GPUs nothing makes the host wait. Copies from and to the CPU may: it would otherwise read what is still
    being written, or write over what is still being read.
    """
    pairs = list(zip(tensors, devices, strict=True))
    peers = [i for i, (tensor, device) in enumerate(pairs) if _between_gpus(tensor.device, device)]
    copies = _copies([devices[i] for i in peers], [tensors[i] for i in peers]) if peers else ()
    moved = dict(zip(peers, copies, strict=True))
    return [moved[i] if i in moved else _to_device(tensor, device) for i, (tensor, device) in enumerate(pairs)]


@uncompiled  # a compiled graph cannot hold streams
def _copies(targets: Sequence[torch.device], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return _PeerCopies.apply(targets, *tensors)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device == device:
        return tensor  # so that a traced graph has no device written into it
    return tensor.to(device, non_blocking=device.type == "cuda")


def _between_gpus(source: torch.device, target: torch.device) -> bool:
    return source.type == target.type == "cuda" and source != target


class _PeerCopies(torch.autograd.Function):
    """GPU to GPU, and the gradients back.

    Autograd runs backward of this node in the thread of its first output's GPU, and sets the stream of forward there on
    that GPU alone. The gradients of the other GPU come from that one's stream of forward, and are read on it.
    """

    @staticmethod
    def forward(ctx: Any, targets: Sequence[torch.device], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.sources = [tensor.device for tensor in tensors]
        ctx.streams = {device: torch.cuda.current_stream(device) for device in (*ctx.sources, *targets)}
        return peer_copies(tensors, targets, ctx.streams)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *peer_copies(grads, ctx.sources, ctx.streams)


def peer_copies(
    tensors: Sequence[Tensor], targets: Sequence[torch.device], streams: Mapping[torch.device, torch.cuda.Stream]
) -> tuple[Tensor, ...]:
    """A copy of tensors[i] on GPU targets[i], on streams that do nothing else. `streams`: of each GPU the one on which
    its tensors are made and the copies read.

    In the forward pass a source GPU goes on computing meanwhile, and copies in both directions run at once; only what a
    target GPU is given to do after this call waits. (In the backward pass autograd adds waits of its own.) On the main
    streams, each copy would hold up both of its GPUs: PyTorch copies on the source's current stream, and has the
    target's current stream wait before and after.
    """
    # First all sources: a copy waits for what its source has computed so far, and for no copy that is begun below.
    for tensor in tensors:
        _copy_stream(tensor.device, "out").wait_stream(streams[tensor.device])
    copies = []
    for tensor, target in zip(tensors, targets, strict=True):
        out, into = _copy_stream(tensor.device, "out"), _copy_stream(target, "in")
        with torch.cuda.stream(out), torch.cuda.stream(into):
            copies.append(tensor.to(target, non_blocking=True, copy=True))
        tensor.record_stream(out)  # its memory is not given away before it is copied
    for copy, target in zip(copies, targets, strict=True):
        reader = streams[target]
        reader.wait_stream(_copy_stream(target, "in"))
        copy.record_stream(reader)  # nor is the copy's before it is read
    return tuple(copies)


def wait_for_copies(devices: Sequence[torch.device]) -> None:
    """Makes each device's current stream wait for the copies that are leaving that device. For memory that a CUDA graph
    writes again: `record_stream` only delays the reuse of freed memory.
    """
    for device in devices:
        if device.type == "cuda":
            torch.cuda.current_stream(device).wait_stream(_copy_stream(device, "out"))


@cache
def _copy_stream(device: torch.device, _direction: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
