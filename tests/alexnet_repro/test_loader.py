"""The loader against slow loops over single pictures; its faults, each injected."""

import io
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import prepare_config

from alexnet_repro.data import (
    Batch,
    Draws,
    LoaderError,
    Loading,
    PreparedData,
    epoch_batches,
    shuffled,
    whole_images,
)
from alexnet_repro.data.workers import Workers
from data_prep.common.errors import RunError
from data_prep.prepare import prepare
from data_prep.reader import SplitReader

SIDE, MARGIN = 67, 8  # patches of pictures of 75


@pytest.fixture(scope="module")
def prepared_raw(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "raw"
    prepare(prepare_config(archives, out, encoding="raw"))
    return out


@pytest.fixture
def copy(prepared_raw: Path, tmp_path: Path) -> Path:
    """One to do harm to: 60 training pictures in four shards."""
    return shutil.copytree(prepared_raw, tmp_path / "copy")


def train(folder: Path) -> SplitReader:
    return PreparedData(folder).split("train")


def drawn(count: int) -> Draws:
    rng = np.random.default_rng(0)
    top, left = rng.integers(0, MARGIN + 1, (2, count))
    mirror, colour = rng.random(count) < 0.5, rng.standard_normal((count, 3), dtype=np.float32)
    return Draws(*map(torch.from_numpy, (top, left, mirror, colour)))


def in_order(reader: SplitReader, loading: Loading | Workers, batch_size: int = 16, first: int = 0) -> Iterator[Batch]:
    draws = drawn(len(reader))
    return epoch_batches(reader, np.arange(len(reader)), draws, SIDE, batch_size, loading, first=first)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_every_picture_once_and_cut_where_drawn(
    prepared: Path, prepared_raw: Path, encoding: str, workers: int
) -> None:
    reader = train({"jpeg": prepared, "raw": prepared_raw}[encoding])
    order, draws = shuffled(0, 0, 60), drawn(60)
    batches = list(epoch_batches(reader, order, draws, SIDE, 16, Loading(workers)))
    assert [len(b.labels) for b in batches] == [b.counted for b in batches] == [16, 16, 16, 12]
    images = torch.cat([b.images for b in batches]).numpy()
    for position, picture in enumerate(order):
        pixels, label = reader[picture]
        top, left = draws.top[position], draws.left[position]
        np.testing.assert_array_equal(images[position], pixels[top : top + SIDE, left : left + SIDE])
        assert batches[position // 16].labels[position % 16] == label
    for name in ("top", "left", "mirror", "colour"):
        assert torch.equal(torch.cat([b.tensors()[name] for b in batches]), getattr(draws, name))


def test_a_raw_picture_is_what_numpy_loads(prepared_raw: Path) -> None:
    """Patches come straight from their place in the file; a member that numpy wrote otherwise is seen, and decoded."""
    reader = train(prepared_raw)
    whole = np.stack([np.load(io.BytesIO(reader.member(i)), allow_pickle=False) for i in range(60)])
    assert np.array_equal(torch.cat([b.images for b in whole_images(reader, 75, 25, Loading(0))]).numpy(), whole)


def test_a_raw_member_written_otherwise_is_decoded(copy: Path) -> None:
    row = train(copy).index[20]
    path = copy / "train" / "shard-00001.tar"
    data = bytearray(path.read_bytes())
    header = data[row["offset"] : row["offset"] + 128]
    data[row["offset"] : row["offset"] + 128] = header.replace(b"'fortran_order': False,", b"'fortran_order': True, ")
    path.write_bytes(data)
    reader = train(copy)
    got = torch.cat([b.images for b in whole_images(reader, 75, 25, Loading(0))]).numpy()
    expected = np.load(io.BytesIO(reader.member(20)), allow_pickle=False)
    assert expected.flags.f_contiguous
    np.testing.assert_array_equal(got[20], expected)


@pytest.mark.parametrize("ranks", [1, 3, 5])
@pytest.mark.parametrize("first", [0, 3])
def test_ranks_share_each_global_batch(prepared_raw: Path, ranks: int, first: int) -> None:
    """Batches of 7: the last has 4 pictures, so that one of five ranks gets a stand-in."""
    reader = train(prepared_raw)
    order, draws = shuffled(0, 0, 60), drawn(60)
    for rank in range(ranks):
        batches = list(epoch_batches(reader, order, draws, SIDE, 7, Loading(0), first=first, rank=rank, ranks=ranks))
        assert len(batches) == 9 - first
        for number, batch in enumerate(batches, start=first):
            whole = np.arange(60)[number * 7 : number * 7 + 7]
            mine = np.array_split(whole, ranks)[rank]
            assert (batch.counted, batch.total) == (len(mine), len(whole))
            shown = mine if len(mine) else whole[:1]
            np.testing.assert_array_equal(batch.labels.numpy(), reader.labels[order[shown]])
            assert batch.draws and batch.draws.colour is not None and draws.colour is not None
            assert torch.equal(batch.draws.colour, draws.colour[shown])
            top, left = draws.top[shown[-1]], draws.left[shown[-1]]
            last = reader[order[shown[-1]]][0][top : top + SIDE, left : left + SIDE]
            np.testing.assert_array_equal(batch.images[-1].numpy(), last)


def test_nothing_before_the_first_batch_is_read(copy: Path) -> None:
    (copy / "train" / "shard-00000.tar").unlink()
    (copy / "train" / "shard-00001.tar").unlink()
    assert [b.total for b in in_order(train(copy), Loading(2), first=2)] == [16, 12]
    assert list(in_order(train(copy), Loading(2), first=4)) == []


@pytest.mark.parametrize("ranks", [1, 4, 40])
def test_evaluation_sees_every_picture_once(prepared: Path, ranks: int) -> None:
    """30 pictures: of 40 ranks ten get none."""
    reader = PreparedData(prepared).split("val")
    seen: list[np.ndarray] = []
    labels: list[int] = []
    for rank in range(ranks):
        for batch in whole_images(reader, 75, 7, Loading(0), rank=rank, ranks=ranks):
            seen += list(batch.images.numpy())
            labels += batch.labels.tolist()
            assert batch.draws is None
            assert batch.counted == len(batch.labels)
    assert labels == reader.labels.tolist()
    np.testing.assert_array_equal(seen, [reader[i][0] for i in range(30)])


def test_a_worker_is_told_little(prepared: Path) -> None:
    """Under spawn and forkserver it is pickled for every worker; ImageNet's index, with 26 MB, must not be."""
    shards = train(prepared).shards
    shards.member(train(prepared).index[0])  # opens a file, which cannot be pickled
    assert len(pickle.dumps(shards)) < 1000


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_missing_or_changed_is_named(copy: Path, workers: int) -> None:
    path = copy / "train" / "shard-00002.tar"
    size = path.stat().st_size
    os.truncate(path, size - 512)
    with pytest.raises(RunError, match=rf"shard-00002\.tar: {size - 512} bytes, but the manifest says {size}; delete"):
        list(in_order(train(copy), Loading(workers)))
    path.unlink()
    with pytest.raises(RunError, match=r"shard-00002\.tar: cannot be read \(No such file or directory\)"):
        list(in_order(train(copy), Loading(workers)))


def test_a_shard_that_shrinks_while_open_is_named(copy: Path) -> None:
    """A memory map would end the process with SIGBUS here."""
    batches = in_order(train(copy), Loading(0), batch_size=1)
    next(batches)
    os.truncate(copy / "train" / "shard-00000.tar", 100_000)
    with pytest.raises(RunError, match=r"shard-00000\.tar: ends at byte 100000, within an image; delete"):
        list(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_decoded_is_named(prepared: Path, tmp_path: Path, workers: int) -> None:
    copy = shutil.copytree(prepared, tmp_path / "copy")
    row = train(copy).index[20]
    with (copy / "train" / "shard-00001.tar").open("r+b") as file:
        file.seek(row["offset"])
        file.write(bytes(int(row["length"])))
    with pytest.raises(RunError, match=r"shard-00001\.tar: image 20 cannot be decoded .*data_prep\.verify") as caught:
        list(in_order(train(copy), Loading(workers)))
    assert "\n" not in str(caught.value)


def never_answers(folder: Path, number: int) -> None:
    """A shard on a disk that hangs: whoever opens the pipe waits for its other end."""
    path = folder / "train" / f"shard-{number:05d}.tar"
    path.unlink()
    os.mkfifo(path)


def test_a_slow_worker_is_named_with_its_shard(copy: Path) -> None:
    never_answers(copy, 2)
    batches = in_order(train(copy), Loading(2, timeout=1.5))
    assert [len(next(batches).labels) for _ in range(2)] == [16, 16]
    started = time.monotonic()
    with pytest.raises(LoaderError, match=r"^waited 1.5 s for a batch; it was reading \S+shard-00002\.tar; ") as caught:
        next(batches)
    assert "\n" not in str(caught.value)
    assert 1.4 < time.monotonic() - started < 10
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_named_with_its_shard(copy: Path) -> None:
    never_answers(copy, 1)
    before = signal.getsignal(signal.SIGCHLD)
    batches = in_order(train(copy), Loading(1))
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before  # nothing is raised but where we wait
    (worker,) = multiprocessing.active_children()
    time.sleep(0.5)  # until it hangs
    os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(
        LoaderError, match=r"^a loader process died \(signal: Killed\); it was reading \S+shard-00001\.tar; "
    ) as caught:
        next(batches)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_left_early_it_leaves_no_process_behind(copy: Path) -> None:
    batches = in_order(train(copy), Loading(2))
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_a_slot_is_free_when_the_last_tensor_of_its_batch_is_gone(prepared_raw: Path) -> None:
    """Whichever tensor that is, a view of it too. One worker, five slots: two are given out at once."""
    reader = train(prepared_raw)
    with Workers([reader.shards], 4, SIDE, Loading(1)) as workers:
        batches = in_order(reader, workers, 4)
        free = workers._ring.free
        for name in next(batches).tensors():
            count = len(free)
            kept = next(batches).tensors()[name][1:]
            assert len(free) == count - 1
            del kept
            assert len(free) == count


def test_memory_that_cannot_be_pinned_is_used_as_it_is(
    prepared_raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The warning has CUDA's words, and CUDA's error is taken back by a kernel, which may report it."""
    kernels: list[str] = []

    class Cuda:
        """CUDA's runtime, where all pages that may be pinned are taken."""

        def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
            return 2

        def cudaGetErrorString(self, error: int) -> str:
            return {2: "out of memory"}[error]

    def ones(size: int, device: str) -> torch.Tensor:
        kernels.append(device)
        raise RuntimeError("CUDA error: out of memory")

    reader = train(prepared_raw)
    expected = list(in_order(reader, Loading(0)))
    monkeypatch.setattr(torch.cuda, "cudart", Cuda)
    monkeypatch.setattr(torch, "ones", ones)
    found = list(in_order(reader, Loading(1, pin=True)))
    assert all(torch.equal(ours.images, theirs.images) for ours, theirs in zip(found, expected, strict=True))
    warning = "warning: batches are not in pinned memory, and copied more slowly (out of memory)\n"
    assert capsys.readouterr().err == warning and kernels == ["cuda"]


def test_a_caller_who_keeps_all_batches_has_them_as_they_were(prepared_raw: Path) -> None:
    """Fifteen in five slots: the last slot stays with the workers."""
    reader = train(prepared_raw)
    kept, expected = list(in_order(reader, Loading(1), 4)), list(in_order(reader, Loading(0), 4))
    for ours, theirs in zip(kept, expected, strict=True):
        for name, tensor in theirs.tensors().items():
            assert torch.equal(ours.tensors()[name], tensor), name


def test_workers_live_from_pass_to_pass_and_read_ahead(prepared_raw: Path) -> None:
    """The next pass is read while the last batches of this one are in use; one that was given up leaves nothing."""
    data = PreparedData(prepared_raw)
    training, validation = data.split("train"), data.split("val")
    with Workers([training.shards, validation.shards], 16, 75, Loading(2)) as workers:
        processes = {process.pid for process in multiprocessing.active_children()}
        for first in (0, 3, 1):
            batches = in_order(training, workers, first=first)
            given_up = whole_images(validation, 75, 7, workers)
            whole = whole_images(validation, 75, 16, workers)
            for ours, theirs in zip(batches, in_order(training, Loading(0), first=first), strict=True):
                assert torch.equal(ours.images, theirs.images)
            assert len(workers._under_way) == 4  # of `given_up`
            for ours, theirs in zip(whole, whole_images(validation, 75, 16, Loading(0)), strict=True):
                assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)
            assert list(given_up) == []
        assert {process.pid for process in multiprocessing.active_children()} == processes
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_passes_leave_nothing_behind(prepared_raw: Path) -> None:
    """Neither files nor memory: ten passes of living workers, and ten of workers of their own."""
    reader = train(prepared_raw)

    def left() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().count("memfd:batches")
        return len(list(Path("/proc/self/fd").iterdir())), maps

    before = left()
    with Workers([reader.shards], 16, SIDE, Loading(2)) as workers:
        opened = left()
        for _ in range(10):
            assert sum(len(b.labels) for b in in_order(reader, workers)) == 60
            assert left() == opened
    for _ in range(10):
        next(in_order(reader, Loading(2)))
    del workers
    assert left() == before


# A run that hears a signal and goes on to the end of its step, as training does.
PROGRAM = """
import multiprocessing, signal, sys, time

def hear(number, frame):
    heard.append(number)

if __name__ == "__main__":
    from alexnet_repro.data import LoaderError, Loading, PreparedData, whole_images
    heard = []
    signal.signal(signal.SIGINT, hear)
    signal.signal(signal.SIGTERM, hear)
    multiprocessing.set_start_method(sys.argv[2])
    batches = whole_images(PreparedData(sys.argv[1]).split("train"), 75, 2, Loading(1))
    print("start", flush=True)
    next(batches)
    print("step", flush=True)
    until = time.monotonic() + 1.5  # a step, which must not be broken off
    while time.monotonic() < until:
        time.sleep(0.1)
    try:
        print("heard", heard, "then", sum(len(b.labels) for b in batches), flush=True)
    except LoaderError as error:
        print("heard", heard, error, flush=True)
"""


def run_program(
    copy: Path, tmp_path: Path, method: str, number: int, at: str, only_the_parent: bool = False
) -> tuple[str, str]:
    """Sends `number` to the whole group, as Ctrl-C does, when the program says `at`."""
    root = Path(__file__).parents[2]
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(copy), method],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:  # fmt: skip
        assert process.stdout and process.stderr
        while process.stdout.readline() != f"{at}\n":
            assert process.poll() is None, process.stderr.read()
        if at == "start":
            time.sleep(0.3)  # workers are starting
        (os.kill if only_the_parent else os.killpg)(process.pid, number)
        out, err = process.communicate(timeout=100)
    return out, err


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_leave_an_interrupt_to_the_parent(copy: Path, tmp_path: Path, method: str) -> None:
    out, err = run_program(copy, tmp_path, method, signal.SIGINT, "step" if method == "fork" else "start")
    assert (out.splitlines()[-1], err) == ("heard [2] then 58", "")


def test_workers_leave_sigterm_to_the_parent(copy: Path, tmp_path: Path) -> None:
    """torchrun sends it to the whole group."""
    out, err = run_program(copy, tmp_path, "fork", signal.SIGTERM, "step")
    assert (out.splitlines()[-1], err) == ("heard [15] then 58", "")


def test_workers_end_when_their_parent_is_gone(copy: Path, tmp_path: Path) -> None:
    """Killed, it could not end them: they wait for its end as well as for requests."""
    out, err = run_program(copy, tmp_path, "fork", signal.SIGKILL, "step", only_the_parent=True)
    assert (out, err) == ("", "")  # and the pipes, which they hold too, are closed
