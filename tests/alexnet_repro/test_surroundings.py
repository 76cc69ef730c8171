"""Machines and surroundings that users have: what works there, and what is said in one line where it cannot."""

import errno
import fcntl
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evidence import evaluate_in
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from trainings import small_config

from alexnet_repro import predict as predict_command
from alexnet_repro import runtime
from alexnet_repro.config import FiguresConfig, PredictConfig
from alexnet_repro.data import Batch, ColumnInputs, PreparedData
from alexnet_repro.data.loader import loading_for, note_on_workers
from alexnet_repro.figures import figures
from alexnet_repro.model import AlexNet, choose_devices, initialise, placement
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.trained import prepared_for
from alexnet_repro.training import health, step
from alexnet_repro.training.optimisers import optimiser_for
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.stop import StopRequest
from data_prep.common.cli import load
from data_prep.common.endings import STOP_SIGNALS, outcome
from data_prep.common.errors import DONE, FAILED, WRONG_REQUEST, RequestError
from data_prep.common.files import exclusive, write_atomically
from data_prep.pool import cores
from data_prep.resize import prepare_image

CPU = torch.device("cpu")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a usable GPU")


@without_gpu
@pytest.mark.parametrize("gpus", [None, 1, 2])
def test_gpus_that_are_counted_and_cannot_be_used(gpus: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a driver older than PyTorch's CUDA."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices, warning = choose_devices(2, gpus)
    assert devices == [CPU, CPU]
    assert re.fullmatch(r"cuda:0 cannot be used \(.+\): all columns run on cpu", warning or "")
    assert choose_devices(2, gpus=0) == ([CPU, CPU], None)
    with pytest.raises(RequestError, match=r"devices: cuda:1 cannot be used \(.+\); give devices=\[cpu\]"):
        choose_devices(2, devices=["cpu", "cuda:1"])
    with pytest.raises(RequestError, match=r"cuda:\d cannot be used \(.+\); give gpus=0"):
        choose_devices(2, gpus, process=1, processes=2)


def test_gpus_between_which_copies_arrive_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some machines with an IOMMU: zeros, and no error. Training would go on, each column by itself."""
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(placement, "_problem", lambda device: None)
    arrives = {(first, second): True, (second, first): True}
    monkeypatch.setattr(placement, "_arrives", lambda *pair: arrives[pair])
    assert choose_devices(2) == choose_devices(2, devices=["cuda:0", "cuda:1"]) == ([first, second], None)
    arrives[second, first] = False
    said = "copies from cuda:1 to cuda:0 arrive wrong (docs/two-gpus.md)"
    assert choose_devices(2) == choose_devices(2, gpus=2) == ([first, first], f"{said}: all columns run on cuda:0")
    with pytest.raises(RequestError, match=re.escape(f"devices: {said}; put all columns of a process on one of them")):
        choose_devices(2, devices=["cuda:0", "cuda:1"])
    assert choose_devices(2, gpus=1) == choose_devices(2, devices=["cuda:0"]) == ([first, first], None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    arrives |= {(torch.device("cuda", i), torch.device("cuda", 5 - i)): False for i in (2, 3)}
    with pytest.raises(RequestError, match=r"copies from cuda:2 to cuda:3 .+; give gpus=1 and --nproc-per-node=4"):
        choose_devices(2, process=1, processes=2)


def test_a_copy_that_arrives_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contiguous or not."""
    assert placement._arrives(CPU, CPU)
    copy_ = torch.Tensor.copy_
    for wrong in (torch.Tensor.is_contiguous, lambda sent: not sent.is_contiguous()):
        monkeypatch.setattr(torch.Tensor, "copy_", lambda to, sent, w=wrong: copy_(to, sent * 0 if w(sent) else sent))
        assert not placement._arrives(CPU, CPU)


@pytest.mark.parametrize("name", ["cpu:1", "mps", "xpu", "meta", "vulkan"])
def test_devices_that_are_not_here(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("is here")
    with pytest.raises(RequestError, match=f"devices: {name} (does not exist|is not supported)"):
        choose_devices(2, devices=[name])


def test_apples_gpu_has_the_name_that_its_tensors_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are found by it, and `mps` is not equal to `mps:0`."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(placement, "_problem", lambda device: None)
    assert choose_devices(2, devices=["mps"]) == ([torch.device("mps", 0)] * 2, None)


class _NoFloat64(TorchDispatchMode):
    """A device without float64, such as Apple's."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            assert not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float64, func
        return result


def test_a_step_needs_no_float64_on_the_device(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Apple's GPUs float64 is a TypeError. Forward, backward, update, the norms that are logged, and a test view."""
    assert runtime.exact_dtype(torch.device("mps")) == torch.float32
    assert runtime.exact_dtype(CPU) == runtime.exact_dtype(torch.device("cuda")) == torch.float64
    for module in (step, health):
        monkeypatch.setattr(module, "exact_dtype", lambda device: torch.float32)
    config, data = small_config(prepared, tmp_path), PreparedData(prepared)
    model = initialise(AlexNet(config.model, len(data.classes), data.channels), config.seed).train()
    rule = data.input_rule(config.augment, config.model.input_size)
    noise = data.colour_noise(config.augment)
    inputs = ColumnInputs(rule, [CPU, CPU], None, noise)
    stepper = step.Stepper(model, optimiser_for(config.optim, model), inputs, 0, Ranks(), "fp32")
    batch = _first_batch(config, data)
    with _NoFloat64():
        numbers = stepper({CPU: batch}, 0, True, False).read()
        health.norms(model, stepper.optimiser)
    assert numbers.images == len(batch.labels) and 0 < numbers.loss < 10


def _first_batch(config: Any, data: PreparedData) -> Batch:
    from alexnet_repro.training.batches import Batches

    batches = Batches(config, data, [CPU, CPU], Ranks(), StopRequest())
    return next(iter(batches.training(0, 0)))[CPU]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with exclusive(tmp_path / "lock", "it"):
        second = exclusive(tmp_path / "lock", "it")
        with pytest.raises(RequestError, match="it: another process is at work on it"), second:
            pass
    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(tmp_path / "lock", "it"):
        pass
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path}/lock: cannot be locked on this file system") and said.count("\n") == 1


def test_a_temporary_folder_too_long_for_sockets(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(prepared, tmp_path).runtime
    monkeypatch.setattr(tempfile, "tempdir", "/" + "l" * 120)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "forkserver")
    with pytest.raises(RequestError, match=r"TMPDIR=/l+: too long for the sockets .* or give runtime\.workers=0"):
        loading_for(replace(config, workers=2), pin=False)
    assert loading_for(replace(config, workers=0), pin=False).workers == 0


def test_more_workers_than_cores(prepared: Path, tmp_path: Path) -> None:
    config = small_config(prepared, tmp_path).runtime
    assert note_on_workers(replace(config, workers=None)) is None
    assert note_on_workers(replace(config, workers=cores())) is None
    note = note_on_workers(replace(config, workers=cores()), processes=2)
    assert note and note.startswith(f"note: runtime.workers={cores()} for each of 2 processes, and there are {cores()}")


@pytest.mark.parametrize(("encoding", "bar"), [("utf-8", "█" * 15), ("cp1252", "#" * 15), ("ascii", "#" * 15)])
def test_output_that_is_not_utf8(encoding: str, bar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    answer = {"image": "李 é.jpg", "labels": [{"wnid": "n1", "words": "漢字", "probability": 0.5}]}
    assert outcome(lambda: predict_command._show(answer)) == (DONE, None)
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert f"50.0 %  {bar} " in text
    assert ("漢字" in text) == (encoding == "utf-8") and ("\\u6f22\\u5b57" in text) == (encoding != "utf-8")


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["--help"], ["bogus=1"]])
def test_output_that_nobody_reads(arguments: list[str], tmp_path: Path) -> None:
    """As in ... | head: quiet, whatever is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "alexnet_repro.train", *arguments]
    wrong = arguments == ["bogus=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": writer} if wrong else {"stdout": writer, "stderr": subprocess.PIPE}
    done = subprocess.run(command, cwd=tmp_path, check=False, **pipes)
    os.close(writer)
    assert not (done.stdout or done.stderr)
    assert done.returncode == WRONG_REQUEST if wrong else done.returncode in (DONE, FAILED)  # argparse is content
    for closing in (">&-", "2>&-"):
        command_line = ["sh", "-c", f'"$@" {closing}', "sh", *command]
        closed = subprocess.run(command_line, cwd=tmp_path, capture_output=True, check=False)
        assert closed.returncode == (WRONG_REQUEST if wrong else DONE) and b"Traceback" not in closed.stderr
        assert bool(closed.stdout) == (closing == "2>&-" and not wrong)


@pytest.fixture
def calm_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU])
def test_signals_of_schedulers_and_closed_terminals(number: signal.Signals, calm_signals: None) -> None:
    """They may come again, as SIGXCPU does each second, without cutting the saving short. nohup stays nohup."""
    with StopRequest() as stop:
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert stop.asked and stop.by == number.name
    signal.signal(number, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(number)
        assert not stop.asked


def test_a_terminal_that_is_gone_is_not_written_to() -> None:
    """Its streams go nowhere from the signal on; else the next line printed would end the run before it is saved."""
    code = """
import os, pty, signal, sys
from alexnet_repro.training.stop import StopRequest
kept = os.dup(1)
master, terminal = pty.openpty()
os.dup2(terminal, 1), os.dup2(terminal, 2), os.close(terminal)
with StopRequest() as stop:
    os.close(master)
    os.kill(os.getpid(), signal.SIGHUP)
    print("to nobody", flush=True)
    print("nor this", file=sys.stderr, flush=True)
os.write(kept, stop.by.encode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "SIGHUP"), done.stderr


@pytest.mark.parametrize("given", [{"WORLD_SIZE": "1"}, {"WORLD_SIZE": ""}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}])
def test_variables_of_one_process(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Ranks.from_env() == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match=r"not all of RANK.*or unset WORLD_SIZE for one process"):
        Ranks.from_env()


def contents(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_with_out_nothing_is_written_into_the_run_or_the_data(world: Path, tmp_path: Path) -> None:
    """Both may be mounted read-only."""
    before = contents(world)
    evaluate_in(world, f"out={tmp_path / 'out'}", "views=1")
    where = [f"runs_dir={world / 'runs'}", "runtime.workers=0", "devices=[cpu]", "embedded=10", "views=1"]
    figures(load("figures", FiguresConfig, ["run=one", *where, f"out={tmp_path / 'out'}"]))
    assert contents(world) == before
    assert {"report.html", "kernels.png", "neighbours.png", "tensorboard"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    drawn = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert {figure["name"] for figure in drawn} == {"curves", "kernels", "labels", "neighbours"}
    evaluate_in(world, f"out={tmp_path / 'both'}", "views=1", run="runs=[one,two]")
    assert contents(world) == before
    assert not list((tmp_path / "both").glob(".unfinished*"))


def test_a_run_moved_together_with_its_data(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p" / "data").mkdir(parents=True)
    (tmp_path / "p" / "data" / "mine").symlink_to(prepared)
    monkeypatch.chdir(tmp_path / "p")
    folder = RunFolder(Path("runs/r"))
    with folder.locked():
        folder.write_config(small_config(Path("data/mine"), Path("runs")))
    assert prepared_for(Path("runs/r"), None).folder == Path("data/mine")
    (tmp_path / "p").rename(tmp_path / "q")
    monkeypatch.chdir(tmp_path)
    assert prepared_for(Path("q/runs/r"), None).folder == tmp_path / "q" / "data" / "mine"
    (tmp_path / "q" / "data" / "mine").unlink()
    with pytest.raises(
        RequestError, match=r"^data/mine: the data set that q/runs/r was trained on, .* give data_path=DIR$"
    ):
        prepared_for(Path("q/runs/r"), None)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    code, said = outcome(lambda: write_atomically(tmp_path / "predictions.npz", write))
    assert code == FAILED and said == (
        f"{tmp_path}/predictions.npz: No space left on device; free some space and start the same command again"
    )
    assert list(tmp_path.iterdir()) == []


# What a viewer does for each value of EXIF's orientation, from the standard's words: where row 0 and column 0 of the
# stored image lie as one sees it.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda a: a.swapaxes(0, 1)[::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_predict_turns_photographs_of_phones_upright(orientation: int, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(predict_command._read(tmp_path / "phone.png", 8), UPRIGHT[orientation](stored))
    assert np.array_equal(prepare_image((tmp_path / "phone.png").read_bytes(), 8), stored)  # as ImageNet is
    Image.fromarray(stored).save(tmp_path / "phone.tif", exif=exif)  # which Pillow turns by itself
    assert np.array_equal(predict_command._read(tmp_path / "phone.tif", 8), UPRIGHT[orientation](stored))


def test_a_photograph_with_corrupt_exif_is_read_as_it_lies(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for number, exif in enumerate(
        (b"Exif\0\0no TIFF", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12")
    ):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(pixels).save(path, exif=exif, quality=95)
        assert np.array_equal(predict_command._read(path, 8), np.asarray(Image.open(path)))


def test_a_single_image_needs_no_list() -> None:
    assert load("predict", PredictConfig, ["run=a", "images=photo (1).jpg"]).images == ["photo (1).jpg"]
