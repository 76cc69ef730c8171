"""Whatever happens to a run, it ends to the bit where an undisturbed one does, or says in one line why it cannot."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from trainings import small_config, start

from alexnet_repro.data import PreparedData
from alexnet_repro.model import AlexNet, initialise
from alexnet_repro.runs.checkpoint import Checkpoint, load_checkpoint
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.train import run, train
from alexnet_repro.training import saver
from alexnet_repro.training.batches import Batches
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.state import TrainingState
from alexnet_repro.training.stop import StopRequest
from data_prep.common.errors import RequestError, RunError

TIMINGS = ("seconds", "images_per_second", "data_wait")
ENOUGH = 120  # seconds


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run of two epochs, and the seconds it took once it had started."""
    runs = tmp_path_factory.mktemp("undisturbed")
    process, began = start(small_config(prepared, runs), runs / "log"), time.monotonic()
    process.join(ENOUGH)
    assert process.exitcode == 0, (runs / "log").read_text()
    return runs / "r", time.monotonic() - began


def numbers_of(checkpoint: Checkpoint) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in checkpoint.history]


def assert_same_end(run: Path, undisturbed: Path) -> None:
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"last.pt", "best.pt", "previous.pt"}
    for name in ("last", "best"):
        ours, theirs = (load_checkpoint(r / "checkpoints" / f"{name}.pt") for r in (run, undisturbed))
        assert (ours.epoch, ours.step, ours.within) == (theirs.epoch, theirs.step, theirs.within)
        for mine, other in [
            (ours.weights, theirs.weights),
            *((ours.buffers[b], theirs.buffers[b]) for b in theirs.buffers),
        ]:
            for parameter, tensor in other.items():
                assert torch.equal(mine[parameter], tensor), (name, parameter)
        assert ours.buffer_rates == theirs.buffer_rates
        assert numbers_of(ours) == numbers_of(theirs)
    lines = [(run / "metrics.jsonl").read_text() for run in (run, undisturbed)]
    steps = [[line.split('"images_per_second"')[0] for line in text.splitlines()] for text in lines]
    assert steps[0] == steps[1]  # every step and epoch once, in order, with the same numbers


WHERE = [
    ("torch:save", 3),  # a checkpoint within an epoch
    ("torch:save", 5),  # the one that ends an epoch
    ("os:fsync", 8),
    ("pathlib:Path.replace", 7),
    ("pathlib:Path.replace", 8),  # between `last` becoming `previous` and its successor becoming `last`
    ("alexnet_repro.training.saver:_link", 1),  # before `best`
    ("alexnet_repro.evaluation.inference:label_ranks", 2),  # an evaluation
    ("alexnet_repro.runs.metrics_log:MetricsLog.add", 5),  # the epoch's line in metrics.jsonl
]


@pytest.mark.parametrize("where", [*WHERE, *range(5)], ids=str)
def test_killed_at_any_moment(
    where: tuple[str, int] | int, prepared: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    """SIGKILL at a place, or at one of 5 random times, two of them with a loader process; then left in peace."""
    loader = f"runtime.workers={int(where in (3, 4))}"
    config, log = small_config(prepared, tmp_path, loader), tmp_path / "log"
    expected, seconds = undisturbed
    chance = random.Random(str(where))
    if isinstance(where, tuple):
        process = start(config, log, *where)
        process.join(ENOUGH)
        assert process.exitcode == -signal.SIGKILL, log.read_text()
    else:
        process = start(config, log)
        process.join(chance.uniform(0, seconds))
        process.kill()
        process.join()
    process = start(config, log)
    process.join(ENOUGH)
    assert process.exitcode == 0, log.read_text()
    assert_same_end(tmp_path / "r", expected)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENOUGH
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines_of(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


@pytest.fixture
def command(prepared: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A training as a user starts it, that would go on for long; it has just done its first step."""
    from conftest import SMALL

    settings = [f"data.path={prepared}", "run=r", "schedule.epochs=1000", "schedule.patience=null", "log_every=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet_repro.train", *SMALL, *settings, "runtime.workers=1"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    metrics = tmp_path / "runs" / "r" / "metrics.jsonl"
    wait_for(lambda: lines_of(metrics) > 0 or process.poll() is not None)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(
    number: signal.Signals, command: subprocess.Popen[str], tmp_path: Path
) -> None:
    """SIGINT and SIGHUP go to the whole process group, loader and all, as from a terminal."""
    (os.kill if number == signal.SIGTERM else os.killpg)(command.pid, number)
    out, err = command.communicate(timeout=ENOUGH)
    assert command.returncode == 0, err
    assert "Traceback" not in err
    checkpoint = RunFolder(tmp_path / "runs" / "r").checkpoint("last")
    assert checkpoint.step >= 1
    assert f"stopped by {number.name} after {checkpoint.epoch} epochs" in out
    assert f"step {checkpoint.step}; all is saved, and the same command continues" in out


def test_a_second_signal_stops_at_once(command: subprocess.Popen[str]) -> None:
    command.send_signal(signal.SIGSTOP)  # so that both are there before the first is seen to
    command.send_signal(signal.SIGTERM)
    command.send_signal(signal.SIGINT)
    command.send_signal(signal.SIGCONT)
    command.communicate(timeout=ENOUGH)
    assert command.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)


def test_stopped_and_continued_it_ends_where_an_undisturbed_one_does(
    prepared: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    config, log = small_config(prepared, tmp_path, "save_minutes=1000"), tmp_path / "log"
    loop, watch = "alexnet_repro.training.loop:Trainer", "alexnet_repro.training.watch:Watch"
    # Within an epoch, before its validation, before it is saved, and within the other.
    for where in ((f"{watch}.step", 2), (f"{loop}._validate", 1), (f"{watch}.epoch", 1), (f"{watch}.step", 2)):
        process = start(config, log, *where, signal.SIGTERM)
        process.join(ENOUGH)
        assert process.exitcode == 0 and log.read_text().splitlines()[-1].startswith("stopped"), log.read_text()
    process = start(config, log)
    process.join(ENOUGH)
    assert process.exitcode == 0, log.read_text()
    assert_same_end(tmp_path / "r", undisturbed[0])


@pytest.mark.parametrize("damage", ["one bit", "cut short"])
def test_a_damaged_last_checkpoint(
    damage: str, prepared: Path, undisturbed: tuple[Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "r")
    last = tmp_path / "r" / "checkpoints" / "last.pt"
    data = bytearray(last.read_bytes())
    last.unlink()  # `best` is the same file
    weights = load_checkpoint(undisturbed[0] / "checkpoints" / "last.pt").weights["fc6.a.weight"]
    data[data.index(weights.numpy().tobytes()[:64])] ^= 1
    last.write_bytes(data if damage == "one bit" else data[: len(data) // 2])
    train(small_config(prepared, tmp_path))
    said = capsys.readouterr().out
    assert "last.pt: cannot be read as a checkpoint" in said and "the one before it is used, of step 8" in said
    assert_same_end(tmp_path / "r", undisturbed[0])
    for name in ("last", "previous"):
        (tmp_path / "r" / "checkpoints" / f"{name}.pt").write_bytes(b"no checkpoint")
    with pytest.raises(RequestError, match=r"best\.pt or another over \S*last\.pt to go on from there"):
        train(small_config(prepared, tmp_path))


def test_a_full_disk_costs_nothing_but_time(
    prepared: Path,
    undisturbed: tuple[Path, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No room from the third to the fourteenth attempt, the last four of them after the run's end."""
    real, attempts = Checkpoint.save, 0

    def save(checkpoint: Checkpoint, path: Path) -> None:
        nonlocal attempts
        attempts += 1
        if 3 <= attempts <= 14:
            path.with_name(path.name + ".partial").write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(checkpoint, path)

    monkeypatch.setattr(Checkpoint, "save", save)
    monkeypatch.setattr(saver, "RETRY_SECONDS", 0.01)
    train(small_config(prepared, tmp_path))
    said = capsys.readouterr().err
    assert "the checkpoint of step 3 cannot be written (No space left on device); the ones before are kept" in said
    assert said.count("cannot be written") <= 2  # once for `last`, once for `best`
    assert "the checkpoint of step 8 is written" in said
    assert_same_end(tmp_path / "r", undisturbed[0])


def test_whatever_a_failed_write_becomes_it_is_the_disk(prepared: Path, undisturbed: tuple[Path, float]) -> None:
    """torch.save makes a RuntimeError of some failed writes. A limit on the size of files plays the full disk."""
    checkpoint = load_checkpoint(undisturbed[0] / "checkpoints" / "last.pt")
    size = (undisturbed[0] / "checkpoints" / "last.pt").stat().st_size
    path = undisturbed[0].parent / "limited.pt"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in (100, 1000, size // 3, size // 2, size - 100):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(OSError, match="File too large"):
                checkpoint.save(path)
            assert not list(path.parent.glob("limited*"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_stopped_with_a_full_disk_it_says_what_is_lost(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(checkpoint: Checkpoint, path: Path) -> None:
        if checkpoint.step == 1:  # while the main thread computes step 2, or waits after it
            signal.raise_signal(signal.SIGTERM)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Checkpoint, "save", save)
    with pytest.raises(RunError, match=r"the checkpoint of step [23] could not be written; .* Free some space"):
        train(small_config(prepared, tmp_path))


def test_a_loss_that_is_no_number_stops_before_the_update(prepared: Path, tmp_path: Path) -> None:
    """A rate of 1e10 in the second epoch: step 5 leaves weights that are huge, and the loss of step 6 is none."""
    config = small_config(prepared, tmp_path, "schedule.changes=[{after: 1, weights: 1e12, biases: 1e12}]")
    data, folder = PreparedData(prepared), RunFolder(config.folder)
    model = initialise(AlexNet(config.model, len(data.classes)), config.seed)
    with folder.locked():
        folder.write_config(config)
    state, ranks, stop = TrainingState(config, data, model), Ranks(), StopRequest()
    batches = Batches(config, data, model.column_devices(), ranks, stop)
    said = r"step 6: the loss is (nan|inf); stopped before the update\. Largest activations: fc\d\.\w (nan|inf|.+e\+)"
    with pytest.raises(RunError, match=said):
        run(folder, state, batches, ranks, stop)
    kept = folder.checkpoint("last")
    assert kept.step == state.step == 5
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, kept.weights[name]), name


def test_weights_that_are_no_numbers_are_not_saved(prepared: Path, tmp_path: Path) -> None:
    """With a rate so high that the update itself overflows."""
    change = "schedule.changes=[{after: 1, weights: 1e38, biases: 1e38}]"
    with pytest.raises(RunError, match="step 5: some weights are not finite; not saved"):
        train(small_config(prepared, tmp_path, change))
    kept = RunFolder(tmp_path / "r").checkpoint("last")
    assert kept.step == 4 and kept.finite()


def test_a_refused_start_leaves_the_run_as_it_is(
    prepared: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    """Other images, a run under way, names that are none: config.yaml stays that of the run."""
    shutil.copytree(undisturbed[0], tmp_path / "r")
    other = tmp_path / "other"
    shutil.copytree(prepared, other)
    manifest = (other / "manifest.json").read_text()
    plan = json.loads(manifest)["preparation"]["plan"]
    (other / "manifest.json").write_text(manifest.replace(plan, "another"))
    before = (tmp_path / "r" / "config.yaml").read_text()
    change = ["allow_changes=[optim.momentum]", "optim.momentum=0.5"]
    with pytest.raises(RequestError, match="is another data set"):
        train(small_config(other, tmp_path, *change))
    with RunFolder(tmp_path / "r").locked(), pytest.raises(RequestError, match="another process is at work"):
        train(small_config(prepared, tmp_path, *change))
    with pytest.raises(RequestError, match="allow_changes=nonsense: no setting has this name"):
        train(small_config(prepared, tmp_path, "allow_changes=[nonsense]"))
    assert (tmp_path / "r" / "config.yaml").read_text() == before


def test_changes_are_refused_unless_allowed_by_name(
    prepared: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "r")
    changes = ["optim.momentum=0.5", "schedule.epochs=3"]
    with pytest.raises(
        RequestError, match=r"allow the change with 'allow_changes=\[optim\.momentum,schedule\.epochs\]'"
    ):
        train(small_config(prepared, tmp_path, *changes))
    with pytest.raises(RequestError, match=r"\(optim\.momentum was 0\.9, now 0\.5\)"):
        train(small_config(prepared, tmp_path, *changes, "allow_changes=[schedule.epochs]"))
    train(small_config(prepared, tmp_path, *changes, "allow_changes=[optim.momentum,schedule]"))
    assert RunFolder(tmp_path / "r").checkpoint("last").epoch == 3
    assert RunFolder(tmp_path / "r").config().optim.momentum == 0.5


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.conv1.kernels", "16", r"conv1\.a\.weight: is \[8, 3, 11, 11\] in this network and \[4, 3, 11, 11\] in"),
        ("model.fc7", "null", r"fc7\.a\.weight: is absent in this network and \[16, 32\] in the checkpoint"),
    ],
)
def test_a_network_of_other_shapes_is_refused(
    key: str, value: str, said: str, prepared: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "r")
    longer = ["schedule.epochs=3", f"{key}={value}", f"allow_changes=[schedule.epochs,{key}]"]
    with pytest.raises(RequestError, match=said):
        train(small_config(prepared, tmp_path, *longer))
