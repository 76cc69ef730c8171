"""Several processes that train copies of the columns: the same run as one process, to rounding."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import reference
import torch
import torch.distributed as dist
from conftest import SMALL, run_here
from networks import SENSITIVE_START
from trainings import start

from alexnet_repro.config import TrainConfig
from alexnet_repro.model import AlexNet, initialise
from alexnet_repro.runs.checkpoint import Checkpoint, load_checkpoint
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.training.ranks import Ranks
from data_prep.common.cli import load

TRAIN = "alexnet_repro.train"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", TRAIN]


def settings_for(prepared: Path, runs: Path, *settings: str) -> list[str]:
    fixed = [f"data.path={prepared}", f"runs_dir={runs}", "run=r", "schedule=constant", "model.dropout=0"]
    return [*SMALL, *fixed, *settings]


def start_ranks(size: int, settings: list[str], runs: Path) -> list[ForkServerProcess]:
    """As torchrun would start them, each with its log beside `runs`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    config = load("train", TrainConfig, settings)
    return [
        start(
            config,
            runs.with_name(f"{runs.name}-{rank}.log"),
            environment=shared
            | {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
            | {name: str(size) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")},
        )
        for rank in range(size)
    ]


@pytest.mark.parametrize(
    ("batch", "epochs", "steps", "head"),
    [
        (16, 3, 12, []),  # 16, 16, 16, 12: shares of 8 and 6
        (59, 2, 4, []),  # 59, 1: shares of 30 and 29, and of 1 and none
        (16, 2, 8, ["model.fc8.split=true"]),  # logits in two pieces
    ],
)
def test_two_processes_train_what_one_trains(
    batch: int, epochs: int, steps: int, head: list[str], prepared: Path, tmp_path: Path
) -> None:
    """Same batches, same draws, no dropout. float32 sums in another order: 1e-5 of the largest weight.

    Catches a mean over ranks instead of over the batch, draws by rank, an image validated twice or never.
    """
    rates = ["optim.learning_rate=0.0002"]
    settings = [f"optim.batch_size={batch}", f"schedule.epochs={epochs}", *SENSITIVE_START, *rates, *head]
    ends: list[Checkpoint] = []
    for name, size in (("one", 1), ("two", 2)):
        processes = start_ranks(size, settings_for(prepared, tmp_path / name, *settings), tmp_path / name)
        for process in processes:
            process.join(300)
        said = "".join(log.read_text() for log in tmp_path.glob(f"{name}-*.log"))
        assert [process.exitcode for process in processes] == [0] * size, said
        assert said.count(f"epoch {epochs}/{epochs}  rate") == 1  # one of the processes speaks
        ends.append(load_checkpoint(tmp_path / name / "r" / "checkpoints" / "last.pt"))
    one, two = ends
    images = reference.read_split(prepared, "val").images
    reference.assert_sensitive_to_views(vars(one), images, 1e-5)
    assert one.step == two.step == steps
    config = RunFolder(tmp_path / "one" / "r").config()
    first = initialise(AlexNet(config.model, len(one.classes)), config.seed).state_dict()
    moved = 0.0
    for name, weight in one.weights.items():
        largest = float(weight.abs().max())
        torch.testing.assert_close(two.weights[name], weight, rtol=0, atol=1e-5 * largest, msg=name)
        moved = max(moved, float((weight - first[name]).abs().max()) / largest)
    assert moved > 1e-2  # a thousand times what may differ
    for ours, theirs in zip(one.history, two.history, strict=True):
        for key in (
            "train_loss",
            "train_top1_error",
            "train_top5_error",
            "val_loss",
            "val_top1_error",
            "val_top5_error",
        ):
            assert abs(ours[key] - theirs[key]) < 1e-5, key
    assert len(list((tmp_path / "two" / "r" / "tensorboard").iterdir())) == 1  # one writer


@pytest.mark.parametrize("rank", [0, 1])
def test_wrong_requests_of_several_processes(
    rank: int, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process finds out by itself, before it waits for the others."""
    for name, value in (("RANK", rank), ("WORLD_SIZE", 2), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    result = run_here(TRAIN, *settings_for(prepared, tmp_path / "runs", "optim.batch_size=1"), cwd=tmp_path)
    assert result.returncode == 2
    assert "optim.batch_size=1: must be 2 or more, one image for each process" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("timeout", "seconds"), [(60, 660), (0, 604800), (math.inf, 604800)])
def test_a_rank_waits_a_week_at_most(timeout: float, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL and gloo take no infinite time."""
    begun: list[timedelta] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: begun.append(timeout))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with Ranks(rank=0, size=2).process_group([torch.device("cpu")], timeout):
        assert begun == [timedelta(seconds=seconds)]


@pytest.mark.parametrize(
    ("version", "device", "backend"),
    [("2.14.1+cu130", "cuda:2", "nccl"), ("2.15.0", "cuda:2", "nccl-legacy"), ("2.15.0", "cpu", "gloo")],
)
def test_a_backend_that_serves_all_columns(
    version: str, device: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: begun.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "__version__", version)
    with Ranks(rank=0, size=2).process_group([torch.device(device)] * 2, 60):
        assert begun == [backend]


def test_all_processes_stop_after_the_same_step(prepared: Path, tmp_path: Path) -> None:
    """torchrun hands its SIGTERM on to them; it ends with a traceback of its own."""
    settings = [f"data.path={prepared}", "run=r", "schedule.patience=null", "schedule.epochs=1000", "log_every=1"]
    command = [*TORCHRUN, *SMALL, *settings]
    metrics = tmp_path / "runs" / "r" / "metrics.jsonl"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 200
        while not (metrics.is_file() and metrics.stat().st_size) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        out, err = process.communicate(timeout=200)
    checkpoint = load_checkpoint(tmp_path / "runs" / "r" / "checkpoints" / "last.pt")
    assert f"stopped by SIGTERM after {checkpoint.epoch} epochs" in out, err
    assert f"step {checkpoint.step}; all is saved" in out
    assert "exitcode" not in err and "SIGKILL" not in err  # nobody hung, nobody failed


def children_of(pid: int) -> list[int]:
    """By what each process in /proc says of its parent: the list of children is not on every kernel."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def test_a_killed_process_is_replaced(prepared: Path, tmp_path: Path) -> None:
    """torchrun --max-restarts: both start again, and go on from the last checkpoint. The first rank is killed, as the
    other one then has its old address.
    """
    settings = [f"data.path={prepared}", "run=r", "schedule=constant", "schedule.epochs=15", "save_minutes=1e-9"]
    command = [*TORCHRUN[:3], "--max-restarts=1", *TORCHRUN[3:], *SMALL, *settings, "log_every=1"]
    metrics = tmp_path / "runs" / "r" / "metrics.jsonl"
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=stdout, stderr=stderr)
    try:
        deadline = time.monotonic() + 200
        while not (metrics.is_file() and len(metrics.read_bytes().splitlines()) > 5) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(min(children_of(process.pid)), signal.SIGKILL)
        process.wait(timeout=200)
    finally:
        process.terminate()
    said = out.read_text()
    assert process.returncode == 0, err.read_text()
    assert said.count("continuing after") == 1 and "done: 15 epochs, 60 steps" in said
