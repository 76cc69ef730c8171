"""python -m alexnet_repro.benchmark_input src=DIR: the input path on one core, against torchvision's
`ImageFolder` with the equivalent v2 transforms, on the same images; in turn in one process, medians and ratios.

Times are those of the processor, so that other work on the machine counts for little; the images are in the file
system's cache, so that there is no disk to wait for.

Then the path of a batch from a loader process to training: what the training process itself spends on it, and how many
batches pass when nothing is read or decoded, the limit for any number of loader processes.
"""

from alexnet_repro.config import InputBenchmarkConfig
from data_prep.common.cli import command_line, load, main

if __name__ == "__main__":
    jobs = command_line("benchmark_input", InputBenchmarkConfig)  # first, as the imports below take seconds

import copy
import io
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from alexnet_repro import runtime
from alexnet_repro.benchmark import medians
from alexnet_repro.data import Batch, InputTransform, Loading, PreparedData, draw_epoch, epoch_batches, shuffled
from alexnet_repro.data.workers import Workers
from alexnet_repro.report.environment import machine
from data_prep.common.errors import RequestError
from data_prep.prepare import PrepareConfig, prepare
from data_prep.reader import Shards
from data_prep.sources.inventory import ENDINGS

_CPU = torch.device("cpu")
_BATCHES = 16  # in a row, of a loader process
_SMALL = 8  # pixels: patches of this side leave what a batch costs whatever its size

Epoch = Callable[[], Iterable[object]]


def benchmark_input(config: InputBenchmarkConfig) -> None:
    pictures = _pictures(config)
    runtime.configure(config.runtime)
    torch.set_num_threads(1)  # what is measured is a core
    print("; ".join(f"{key}: {value}" for key, value in machine().items()))
    with tempfile.TemporaryDirectory(prefix="benchmark-input-") as folder:
        src = Path(folder) / "src"
        _link(pictures, src)
        print(f"preparing {len(pictures)} images twice, in {folder}", flush=True)
        prepared = {encoding: _prepared(src, Path(folder) / encoding, encoding) for encoding in ("raw", "jpeg")}
        side_by_side = SideBySide(config, prepared, ImageFolder(src / "train"))
        kilobytes = sum(path.stat().st_size for path in pictures) / len(pictures) / 1000
        print(
            f"{len(pictures)} images of {kilobytes:.0f} kB on average; processor time on one core; batches of "
            f"{config.batch_size}; medians of {config.steps} epochs, in turn, after one that is not counted"
        )
        print("\nwhat the host must do: read, decode, cut (ours); all that ImageFolder and v2 do, batches not included")
        _report(_medians(side_by_side.host(), config.steps), len(pictures))
        print("\nthe whole input path on the CPU: float32 batches, mean subtracted, mirrored, with colour noise")
        _report(_medians(side_by_side.full(), config.steps), len(pictures))
        print("\na batch from one loader process, in the process that trains: its processor time; batches by the clock")
        with ExitStack() as stack:
            epochs = side_by_side.from_a_worker(stack)
            spent = _medians(epochs, config.steps)
            passed = _medians(epochs, config.steps, time.perf_counter)
        for name, seconds in spent.items():
            images = _BATCHES * config.batch_size / passed[name]
            print(f"{name:<38}{1000 * seconds / _BATCHES:9.3f} ms a batch  {images:11,.0f} images/s")


class SideBySide:
    """Epochs over the same images, made ready by us and by torchvision."""

    def __init__(self, config: InputBenchmarkConfig, prepared: dict[str, PreparedData], originals: ImageFolder) -> None:
        self.config, self.prepared, self.originals = config, prepared, originals
        self.side = config.model.input_size
        data = next(iter(prepared.values()))
        self.rule, self.noise = data.input_rule(config.augment, self.side), data.colour_noise(config.augment)
        self.transform = InputTransform(self.rule, self.noise, _CPU, None)
        self.order = shuffled(0, 0, len(originals))
        self.draws = draw_epoch(config.augment, 0, 0, len(originals), self.rule.margin)
        self.to_patch, self.to_float = self._their_transforms(data.image_size)

    def host(self) -> dict[str, Epoch]:
        """Ours to uint8 batches: the device does the rest. Theirs, all on the host, whole and without the floats."""
        runs: dict[str, Epoch] = {
            f"prepared as {encoding}, to uint8 batches": partial(self.our_patches, data)
            for encoding, data in self.prepared.items()
        }
        return runs | {
            "prepared as raw, through mmap instead": partial(self.mapped_patches, self.prepared["raw"]),
            "ImageFolder, v2, to float32 images": partial(self.their_images, floats=True),
            "ImageFolder, v2, to uint8 patches": partial(self.their_images, floats=False),
        }

    def full(self) -> dict[str, Epoch]:
        """To float32 [N, 3, side, side] in batches."""
        runs: dict[str, Epoch] = {
            f"prepared as {encoding}": partial(self.our_inputs, data) for encoding, data in self.prepared.items()
        }
        return runs | {"ImageFolder, v2": self.their_inputs}

    def our_patches(self, data: PreparedData) -> Iterator[Batch]:
        size = self.config.batch_size
        return epoch_batches(data.split("train"), self.order, self.draws, self.side, size, Loading(workers=0))

    def from_a_worker(self, stack: ExitStack) -> dict[str, Epoch]:
        """Batches through a loader process, which lives as long as `stack`."""
        readers = {encoding: data.split("train") for encoding, data in self.prepared.items()}
        raw, unread = readers["raw"], copy.copy(readers["raw"])
        unread.shards = _NoShards(raw.folder, raw.info.shards, raw.shards.encoding, raw.shards.shape)
        readers["nothing read"] = unread
        size = self.config.batch_size
        order = np.resize(self.order, _BATCHES * size)
        runs: dict[str, Epoch] = {}
        for side in (self.side, _SMALL):
            margin = self.rule.margin + self.side - side
            draws = draw_epoch(self.config.augment, 0, 0, len(order), margin)
            for name, reader in readers.items():
                workers = stack.enter_context(Workers([reader.shards], size, side, Loading(workers=1)))
                runs[f"{name}, {size} images of {side} pixels"] = partial(
                    epoch_batches, reader, order, draws, side, size, workers
                )
        return runs

    def mapped_patches(self, data: PreparedData) -> Iterator[np.ndarray]:
        """As `our_patches` from raw, copied out of maps of the shards: what they would cost if nothing ever failed."""
        reader, side, size = data.split("train"), self.side, data.image_size
        maps = [np.memmap(reader.folder / shard.file, np.uint8, "r") for shard in reader.info.shards]
        rows = reader.index[self.order]
        for start in range(0, len(rows), self.config.batch_size):
            batch = rows[start : start + self.config.batch_size]
            patches = np.empty((len(batch), side, side * 3), np.uint8)
            for i, (shard, offset, length, _) in enumerate(batch.tolist()):
                top, left = int(self.draws.top[start + i]), int(self.draws.left[start + i])
                lines = maps[shard][offset + length - size * size * 3 : offset + length].reshape(size, size * 3)
                patches[i] = lines[top : top + side, left * 3 : (left + side) * 3]
            yield patches.reshape(-1, side, side, 3)

    def our_inputs(self, data: PreparedData) -> Iterator[Tensor]:
        for b in self.our_patches(data):
            yield self.transform(b.images, b.drawn(with_noise=True))

    def their_images(self, floats: bool) -> Iterator[Tensor]:
        for i in self.order:
            patch = self.to_patch(self.originals[i][0])
            yield self.to_float(patch) if floats else patch

    def their_inputs(self) -> Iterator[Tensor]:
        images = self.their_images(floats=True)
        while batch := list(islice(images, self.config.batch_size)):
            yield torch.stack(batch)

    def _their_transforms(self, image_size: int) -> tuple[v2.Compose, v2.Compose]:
        """An image to a uint8 patch, and a uint8 patch to the input, as one would write them with v2."""
        augment = self.config.augment
        mean = torch.from_numpy(self.rule.centre_mean).permute(2, 0, 1).contiguous()  # as run in 2012
        components = torch.from_numpy(self.noise.components)

        def colour_noise(image: Tensor) -> Tensor:
            return image + (components @ (torch.randn(3) * augment.colour_noise))[:, None, None]

        crop = v2.RandomCrop if augment.random_crop else v2.CenterCrop
        to_patch = [v2.Resize(image_size), v2.CenterCrop(image_size), crop(self.side)]
        to_patch += [v2.RandomHorizontalFlip()] * augment.mirror + [v2.PILToTensor()]
        to_float = [v2.ToDtype(torch.float32), v2.Lambda(lambda image: image - mean), v2.Lambda(colour_noise)]
        return v2.Compose(to_patch), v2.Compose(to_float)


class _NoShards(Shards):
    """Shards of which nothing is read."""

    def patches(self, *_: object) -> None:
        pass


def _pictures(config: InputBenchmarkConfig) -> list[Path]:
    """The images below src, evenly chosen if there are too many."""
    src = Path(config.src)
    if not src.is_dir():
        raise RequestError(f"src={src}: is no folder; give a folder of images")
    found = sorted(path for path in src.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise RequestError(f"src={src}: found no images in it, that is, none of {', '.join(sorted(ENDINGS))}")
    count = min(config.images, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def _link(pictures: list[Path], src: Path) -> None:
    """Links the images into folders of one class; the validation image is there because a data set needs one."""
    for split, chosen in (("train", pictures), ("val", pictures[:1])):
        folder = src / split / "pictures"
        folder.mkdir(parents=True)
        for number, path in enumerate(chosen):
            (folder / f"{number:06d}{path.suffix}").symlink_to(path.resolve())


def _prepared(src: Path, out: Path, encoding: str) -> PreparedData:
    settings = [f"src='{src}'", f"out='{out}'", f"encoding={encoding}", "layout=folders", "max_rejected=0"]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        prepare(load("prepare", PrepareConfig, settings))
    return PreparedData(out)


def _medians(
    epochs: dict[str, Epoch], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Seconds for an epoch, of this process's processor time by default; the first is not counted."""
    runs = {name: lambda epoch=epoch: deque(epoch(), maxlen=0) for name, epoch in epochs.items()}
    return medians(runs, repeats, clock=clock, warm_up=1)


def _report(seconds: dict[str, float], images: int) -> None:
    """How many times faster each is than torchvision's whole path."""
    whole = next(value for name, value in seconds.items() if name.startswith("ImageFolder"))
    for name, value in seconds.items():
        print(f"{name:<38}{1000 * value / images:9.3f} ms  {images / value:9.1f} images/s  {whole / value:6.2f} x")


if __name__ == "__main__":
    main(jobs, benchmark_input)
