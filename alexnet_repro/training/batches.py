"""The batches of a run: read from the shards, or cut from splits that lie in a device's memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import (
    Batch,
    PreparedData,
    ResidentSplit,
    draw_epoch,
    epoch_batches,
    on_devices,
    refuse_larger_than_memory,
    shuffled,
    whole_images,
)
from alexnet_repro.data.loader import loading_for, with_progress
from alexnet_repro.data.workers import Workers
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.stop import Stopped, StopRequest
from data_prep.common.errors import RequestError
from data_prep.reader import SplitReader

_Pass = tuple[int, int | None]  # an epoch and its first batch, or None: the validation after it
_READ_AT_ONCE = 128  # images on their way to the device; 25 MB in shared memory at 256 pixels


def refuse_misfit(config: TrainConfig, data: PreparedData, ranks: Ranks) -> None:
    """RequestError if the images are smaller than the network's input, or a batch smaller than one image a rank."""
    if config.model.input_size > data.image_size:
        raise RequestError(
            f"model.input_size={config.model.input_size}: larger than the {data.image_size} pixels of "
            f"{data.folder}; prepare the data with a larger image_size"
        )
    if config.optim.batch_size < ranks.size:
        raise RequestError(f"optim.batch_size={config.optim.batch_size}: must be {ranks.size} or more, one image for "
                           "each process")  # fmt: skip


def note_on_patches(config: TrainConfig, data: PreparedData) -> str | None:
    """A line about patches with less than half the side of an image, which show pieces of things."""
    side, image = config.model.input_size, data.image_size
    if 2 * side >= image:
        return None
    return (
        f"note: patches of {side} pixels have less than half the side of the {image}-pixel images in {data.folder}; "
        f"image_size={side * 256 // 224} would keep section 4.1's proportion"
    )


def validation_batch_size(batch_size: int, image_size: int) -> int:
    """Images in a batch of validation when the split lies on a GPU. From 256x256 pixels on, `batch_size`. Of smaller
    images as many as have the pixels of 128 of 256x256, at most 1,024 and at least `batch_size`: between small batches
    the GPU would wait for the host.
    """
    if image_size >= 256:
        return batch_size
    return max(batch_size, min(1024, 128 * 256**2 // image_size**2))


class Batches:
    """This rank's share of every batch of a run. The processes that read them live while the context is open."""

    def __init__(
        self, config: TrainConfig, data: PreparedData, devices: list[torch.device], ranks: Ranks, stop: StopRequest
    ) -> None:
        """`devices`: of the columns. RequestError if a split is missing, or does not fit into the device's memory."""
        self._config, self._data, self._devices, self._ranks, self._stop = config, data, devices, ranks, stop
        use_gpu = any(device.type == "cuda" for device in devices)
        self._loading = loading_for(config.runtime, use_gpu, ranks.local_size, lambda: stop.asked)
        train, val = data.split("train"), data.split("val")
        self.train_images, self.val_images = len(train), len(val)
        self._splits: dict[str, SplitReader | ResidentSplit] = {"train": train, "val": val}
        size, most = config.optim.batch_size, max(self.train_images, self.val_images)
        workers = min(self._loading.workers, -(-most // size))  # no more processes than batches
        loading = replace(self._loading, workers=workers)
        self._workers = Workers([train.shards, val.shards], min(size, most), data.image_size, loading)
        self._ahead: dict[_Pass, Iterator[Batch]] = {}  # the pass that should follow
        if config.runtime.data_on_gpu:
            refuse_larger_than_memory([train, val], devices[0])

    def __enter__(self) -> "Batches":
        """LoaderError if the processes cannot be started."""
        if not self._config.runtime.data_on_gpu:
            self._workers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.close()

    def load(self) -> None:
        """With runtime.data_on_gpu, reads both splits into the memory of the first column's device, unless they are
        there. Every rank reads and holds all of them. Stopped if the run, of one process, is asked to stop meanwhile;
        several stop together, after their first step.
        """
        for name, split in self._splits.items():
            if self._config.runtime.data_on_gpu and isinstance(split, SplitReader):
                batches = whole_images(split, self._data.image_size, _READ_AT_ONCE, self._loading)
                if self._ranks.first:
                    batches = with_progress(batches, len(split), f"{name} images to {self._devices[0]}")
                self._splits[name] = ResidentSplit(split, self._until_stopped(batches), self._devices[0])

    def _until_stopped(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self._stop.asked and self._ranks.size == 1:
                raise Stopped
            yield batch

    def training(self, epoch: int, first: int) -> Iterator[Mapping[torch.device, Batch]]:
        """The batches `first`, `first` + 1, ... of an epoch, both counted from 0, on every device that has a column."""
        return on_devices(self._begin(epoch, first), self._devices)

    def validation(self, epoch: int, before_batch: Callable[[], None]) -> Iterator[Batch]:
        """Whole images, each on one rank, after an epoch. `before_batch` is called before each batch that every rank
        has, so that ranks may act together there; the shares of some are a batch longer.
        """
        on_every_rank = -(-(self.val_images // self._ranks.size) // self._validation_batch_size())
        for number, batch in enumerate(self._begin(epoch, None)):
            if number < on_every_rank:
                before_batch()
            yield batch

    def _validation_batch_size(self) -> int:
        size, split = self._config.optim.batch_size, self._splits["val"]
        on_gpu = isinstance(split, ResidentSplit) and split.images.is_cuda
        return validation_batch_size(size, self._data.image_size) if on_gpu else size

    def _begin(self, epoch: int, first: int | None) -> Iterator[Batch]:
        """A pass over the training images; first=None: the validation after it. Workers that have read all of it go on
        with the pass that should follow, so that it need not begin by waiting for them.
        """
        batches = self._ahead.pop((epoch, first), None) or self._pass(epoch, first)
        following: _Pass = (epoch + 1, 0) if first is None else (epoch, None)
        self._ahead = {following: self._pass(*following)}
        return batches

    def _pass(self, epoch: int, first: int | None) -> Iterator[Batch]:
        config, data, ranks = self._config, self._data, self._ranks
        if first is None:
            return whole_images(
                self._splits["val"], data.image_size, self._validation_batch_size(), self._workers,
                rank=ranks.rank, ranks=ranks.size,
            )  # fmt: skip
        order = shuffled(config.seed, epoch if config.optim.reshuffle else 0, self.train_images)
        margin, size = data.image_size - config.model.input_size, config.model.input_size
        draws = draw_epoch(config.augment, config.seed, epoch, self.train_images, margin, data.channels)
        return epoch_batches(
            self._splits["train"], order, draws, size, config.optim.batch_size, self._workers,
            first=first, rank=ranks.rank, ranks=ranks.size,
        )  # fmt: skip
