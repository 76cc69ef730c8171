"""A split in the memory of a device: the same batches and the same run, to the bit, as from the shards."""

from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from trainings import small_config

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import (
    Batch,
    Loading,
    PreparedData,
    ResidentSplit,
    draw_epoch,
    epoch_batches,
    on_devices,
    refuse_larger_than_memory,
    shuffled,
    whole_images,
)
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.train import train
from alexnet_repro.training.batches import Batches, validation_batch_size
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.stop import StopRequest
from data_prep.common.cli import load
from data_prep.common.errors import RequestError

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = pytest.param("cuda:0", marks=NEEDS_GPU)


def resident(data: PreparedData, split: str, device: torch.device) -> ResidentSplit:
    """Read in batches of 7, of which the last is short."""
    reader = data.split(split)
    return ResidentSplit(reader, whole_images(reader, 75, 7, Loading(0, pin=device.type == "cuda")), device)


def assert_same(ours: Batch | None, theirs: Batch | None, device: torch.device) -> None:
    assert ours is not None and theirs is not None
    assert (ours.counted, ours.total) == (theirs.counted, theirs.total)
    for name, tensor in theirs.tensors().items():
        here = ours.tensors()[name]
        assert here.device == device and here.dtype == tensor.dtype, name
        assert torch.equal(here.cpu(), tensor), name
    assert ours.images.is_contiguous()


@pytest.mark.parametrize("name", ["cpu", GPU])
@pytest.mark.parametrize(("first", "rank", "ranks"), [(0, 0, 1), (3, 0, 1), (0, 1, 3), (2, 4, 5)])
def test_batches_are_those_of_the_loader(prepared: Path, name: str, first: int, rank: int, ranks: int) -> None:
    """Batches of 7 of 60 pictures: the last has 4, and the fifth of five ranks gets a stand-in."""
    data, device = PreparedData(prepared), torch.device(name)
    config = load("train", TrainConfig, SMALL)
    order, draws = shuffled(1, 2, 60), draw_epoch(config.augment, 1, 2, 60, 75 - 67)
    sources = (resident(data, "train", device), data.split("train"))
    pairs = [epoch_batches(s, order, draws, 67, 7, Loading(0), first=first, rank=rank, ranks=ranks) for s in sources]
    for ours, theirs in zip_longest(*pairs):
        assert_same(ours, theirs, device)
    validation = (resident(data, "val", device), data.split("val"))
    for ours, theirs in zip_longest(*(whole_images(s, 75, 7, Loading(0), rank=rank, ranks=ranks) for s in validation)):
        assert_same(ours, theirs, device)


def test_a_run_stopped_within_an_epoch_ends_as_one_from_the_shards(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first session dies while it saves step 6; step 5, the first of the second epoch, is saved."""
    train(small_config(prepared, tmp_path / "streamed"))
    config = small_config(prepared, tmp_path / "resident", "runtime.data_on_gpu=true")
    save = Checkpoint.save

    def save_and_die(checkpoint: Checkpoint, path: Path) -> None:
        save(checkpoint, path)
        if checkpoint.step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save", save_and_die)
        train(config)
    written = tmp_path / "resident" / "r" / "config.yaml"
    text = written.read_text()
    assert "  data_on_gpu: true\n" in text
    written.write_text(text.replace("  data_on_gpu: true\n", ""))  # as before there was this setting
    capsys.readouterr()
    train(config)
    assert "continuing after 1 epochs and 1 batches, step 5" in capsys.readouterr().out
    ours, theirs = (RunFolder(tmp_path / name / "r").checkpoint("last") for name in ("resident", "streamed"))
    assert ours.step == theirs.step == 8
    for name, weight in theirs.weights.items():
        assert torch.equal(ours.weights[name], weight), name
    for our_row, their_row in zip(ours.history, theirs.history, strict=True):
        for key in their_row.keys() - {"seconds", "images_per_second", "data_wait"}:
            assert our_row[key] == their_row[key], key


def test_each_split_is_read_once(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = ResidentSplit.__init__

    def noted(split: ResidentSplit, reader, whole, device) -> None:  # type: ignore[no-untyped-def]
        batches = list(whole)
        read.append(f"{reader.folder.name} {sum(len(b.labels) for b in batches)}")
        real(split, reader, batches, device)

    monkeypatch.setattr(ResidentSplit, "__init__", noted)
    train(small_config(prepared, tmp_path, "runtime.data_on_gpu=true"))
    assert read == ["train 60", "val 30"]


def test_a_run_asked_to_stop_while_it_reads_stops(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(prepared, tmp_path, "runtime.data_on_gpu=true")
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "asked", True)
        train(config)
    assert "after 0 epochs, step 0; all is saved" in capsys.readouterr().out
    train(config)
    assert RunFolder(tmp_path / "r").checkpoint("last").step == 8


def test_images_larger_than_the_memory_are_refused(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = PreparedData(prepared)
    readers = [data.split("train"), data.split("val")]
    size = 90 * 75 * 75 * 3
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (size + 3 * 2**30 - missing, 80 * 2**30))
    missing = 0
    refuse_larger_than_memory(readers, torch.device("cuda", 1))
    missing = 1
    with pytest.raises(RequestError, match=r"images take 0\.0 GB.* cuda:1 has 3\.2 GB free; give runtime\.data_on_g"):
        refuse_larger_than_memory(readers, torch.device("cuda", 1))
    refuse_larger_than_memory(readers, torch.device("cpu"))


@NEEDS_GPU
def test_nothing_waits_for_the_gpu(prepared: Path) -> None:
    """After the first batch, before which the epoch's order and draws are copied."""
    device = torch.device("cuda", 0)
    split = resident(PreparedData(prepared), "train", device)
    draws = draw_epoch(load("train", TrainConfig, SMALL).augment, 0, 0, 60, 75 - 67)
    batches = on_devices(epoch_batches(split, shuffled(0, 0, 60), draws, 67, 7, Loading(0)), [device])
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(batches)) == 8
    finally:
        torch.cuda.set_sync_debug_mode("default")


@NEEDS_GPU
def test_batches_of_a_gpu_are_handed_out_as_they_are(prepared: Path) -> None:
    device = torch.device("cuda", 0)
    split = resident(PreparedData(prepared), "train", device)
    given = list(whole_images(split, 75, 16, Loading(0)))
    for batch, copies in zip(given, on_devices(iter(given), [device, torch.device("cpu")]), strict=True):
        assert copies[device] is batch
        assert torch.equal(copies[torch.device("cpu")].images, batch.images.cpu())


def test_small_images_on_a_gpu_are_validated_many_at_a_time() -> None:
    sides = {32: 1024, 64: 1024, 136: 453, 255: 129, 256: 128, 512: 128}
    assert {side: validation_batch_size(128, side) for side in sides} == sides
    assert [validation_batch_size(size, 256) for size in (32, 2000)] == [32, 2000]
    assert [validation_batch_size(size, 32) for size in (32, 2000)] == [1024, 2000]


@pytest.mark.parametrize(("name", "images"), [("cpu", [16, 14]), pytest.param("cuda:0", [30], marks=NEEDS_GPU)])
def test_batches_of_validation(prepared: Path, tmp_path: Path, name: str, images: list[int]) -> None:
    config, devices = small_config(prepared, tmp_path, "runtime.data_on_gpu=true"), [torch.device(name)] * 2
    asked: list[None] = []
    with Batches(config, PreparedData(prepared), devices, Ranks(), StopRequest()) as batches:
        batches.load()
        found = [len(batch.labels) for batch in batches.validation(0, lambda: asked.append(None))]
    assert found == images
    assert len(asked) == len(images)
