"""Several runs by one command (--multirun), and the table of what sets them apart."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, run_here
from omegaconf import OmegaConf

from alexnet_repro.compare import ablations
from alexnet_repro.config import AblationsConfig
from alexnet_repro.evaluation.intervals import paired_bootstrap, seed_interval
from alexnet_repro.evaluation.predictions import FILE, KeptPredictions
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.train import train
from data_prep.common import sweep
from data_prep.common.cli import load
from data_prep.common.errors import STOPPED, RequestError, RunError

TRAIN, EVALUATE = "alexnet_repro.train", "alexnet_repro.evaluate"
SHORT = ["schedule=constant", "schedule.epochs=1", *SMALL]


def _experiments(folder: Path) -> str:
    """The option that adds two tiny experiments to conf/."""
    (folder / "conf" / "experiment").mkdir(parents=True)
    for name, model in (("tiny", "paper"), ("tiny_no_lrn", "no_lrn")):
        text = f"# @package _global_\ndefaults: [override /model: {model}]\nrun: {name}-${{seed}}\n"
        (folder / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    return f"--config-dir={folder / 'conf'}"


def _same_weights(one: Path, other: Path) -> bool:
    a, b = (RunFolder(folder).checkpoint("last").weights for folder in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


def test_from_a_sweep_to_the_table(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs" / "abl"
    command = ["--multirun", _experiments(tmp_path), "experiment=tiny,tiny_no_lrn", "seed=0,1", "runs_dir=runs/abl"]
    command += [f"data.path={prepared}", *SHORT]
    trained = run_here(TRAIN, *command, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert [line for line in trained.stdout.splitlines() if line.startswith("job ")] == [
        f"job {number} of 4: experiment={name} seed={seed}"
        for number, (name, seed) in enumerate([(n, s) for n in ("tiny", "tiny_no_lrn") for s in (0, 1)], 1)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"conf", "runs"}
    names = {"tiny-0", "tiny-1", "tiny_no_lrn-0", "tiny_no_lrn-1"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["abl"]
    assert {path.name for path in runs.iterdir()} == names

    # Nothing that the jobs before left in the process has a part in the last one.
    train(replace(RunFolder(runs / "tiny_no_lrn-1").config(), runs_dir=str(tmp_path / "alone")))
    assert _same_weights(runs / "tiny_no_lrn-1", tmp_path / "alone" / "tiny_no_lrn-1")

    where = ["runs_dir=runs/abl", "runtime.workers=0", "devices=[cpu]"]
    evaluated = run_here(EVALUATE, "--multirun", "run=tiny-0,tiny-1,tiny_no_lrn-0", *where, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "job 3 of 3: run=tiny_no_lrn-0" in evaluated.stdout
    table = _table(capsys, runs)
    assert f"left out: tiny_no_lrn-1; `python -m alexnet_repro.evaluate run=tiny_no_lrn-1 runs_dir={runs} " in table
    assert "only one of the two has seed 1" in table and "(paired bootstrap), not of seeds" in table
    again = run_here(EVALUATE, "run=tiny_no_lrn-1", *where, cwd=tmp_path)
    assert again.returncode == 0, again.stderr

    rng = np.random.default_rng(0)  # untrained networks say the same of every picture; as if these had learned
    ranks = {name: rng.integers(0, 7, 30) for name in sorted(names)}
    for name, rank in ranks.items():
        kept = KeptPredictions.load(runs / name / "report" / FILE)
        kept.views[10].rank[:] = rank
        kept.save(runs / name / "report" / FILE)
    facts = json.loads(_table(capsys, runs, "json=true"))
    assert facts == json.loads((runs / "ablations.json").read_text())
    better, worse = (
        np.stack([np.load(runs / f"{name}-{seed}/report/{FILE}")["views10.rank"] >= 1 for seed in (0, 1)])
        for name in ("tiny", "tiny_no_lrn")
    )
    base, other = facts["groups"]
    assert (base["group"], other["group"], other["seeds"]) == ("tiny", "tiny_no_lrn", [0, 1])
    assert base["top1_error"] == pytest.approx(better.mean())
    assert other["top1_range"] == [worse.mean(axis=1).min(), worse.mean(axis=1).max()]
    difference = other["difference"]
    assert difference["top1"] == pytest.approx(worse.mean() - better.mean())
    low, high = seed_interval(worse.mean(axis=1) - better.mean(axis=1))
    assert difference["top1_interval"] == [low, high]
    assert difference["top1_zero_within"] == (low <= 0 <= high)
    # No pair of the paper's: the networks are smaller than its own.
    assert difference["paper"] is None
    shown = f"{100 * difference['top1']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})".replace("-", "−")
    assert shown in _table(capsys, runs) and shown in (runs / "ablations.md").read_text()


def _table(capsys: pytest.CaptureFixture[str], runs: Path, *overrides: str) -> Any:
    capsys.readouterr()
    ablations(load("ablations", AblationsConfig, [f"runs_dir={runs}", "baseline=tiny", *overrides]))
    return capsys.readouterr().out


def test_stopped_in_the_middle_and_continued(prepared: Path, tmp_path: Path) -> None:
    command = [f"data.path={prepared}", *SHORT, "schedule.epochs=4", "seed=0,1", "run=r-${seed}", "--multirun"]
    running = subprocess.Popen(
        [sys.executable, "-m", TRAIN, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    before = ""
    while "epoch 1/4" not in before:
        line = running.stdout.readline()
        assert line, running.communicate()
        before += line
    running.send_signal(signal.SIGINT)
    rest, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert "stopped by SIGINT" in rest and rest.endswith("stopped in job 1 of 2 (seed=0); the same command continues\n")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"r-0"}

    continued = run_here(TRAIN, *command, cwd=tmp_path)
    assert continued.returncode == 0, continued.stderr
    assert "continuing after" in continued.stdout and continued.stdout.count("done: 4 epochs") == 2
    train(replace(RunFolder(tmp_path / "runs" / "r-0").config(), runs_dir=str(tmp_path / "undisturbed")))
    assert _same_weights(tmp_path / "runs" / "r-0", tmp_path / "undisturbed" / "r-0")
    passed = run_here(TRAIN, *command, cwd=tmp_path)
    assert passed.returncode == 0 and passed.stdout.count("finished before: 4 epochs") == 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["seed=0,x", "run=r-${seed}"], r"job 2 of 2 \(seed=x\): seed: Value 'x'"),
        (
            ["seed=0,1", "run=r-${seed}", "model.input_size=67,80"],
            r"job [23] of 4 \(.*=80.*\): model\.input_size=80: larger",
        ),
        (["seed=0,1", "run=same"], r"job 1 of 2 \(seed=0\) and job 2 of 2 \(seed=1\) would both write into runs/same"),
        (["experiment=demo,none"], "experiment=none: no such choice; there are "),
    ],
)
def test_a_wrong_job_is_refused_before_any_begins(
    prepared: Path, overrides: list[str], said: str, tmp_path: Path
) -> None:
    result = run_here(TRAIN, *SHORT, f"data.path={prepared}", *overrides, "-m", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert re.match(rf"python -m {TRAIN}: error: {said}", result.stderr) and result.stderr.count("\n") == 1
    assert result.stdout == "" and list(tmp_path.iterdir()) == []


def test_a_job_that_fails_does_not_keep_the_others_from_running(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[int] = []

    def run(number: int) -> int | None:
        done.append(number)
        if number == 1:
            raise RunError("the loss is nan")
        if number == 2:
            raise ZeroDivisionError("nobody foresaw this")
        return STOPPED if number == 4 else None

    given = [["lr=1", f"seed={n}"] for n in range(6)]
    jobs = sweep.checked_jobs(given, [OmegaConf.create({"n": n}) for n in range(6)], lambda config: int(config.n))
    with pytest.raises(RunError, match=r"^2 of 6 jobs failed: job 2 of 6 \(seed=1\), job 3 of 6 \(seed=2\)$"):
        sweep.run_jobs(jobs, run)
    assert done == [0, 1, 2, 3, 4]
    out, err = capsys.readouterr()
    assert "error: job 2 of 6 (seed=1): the loss is nan\n" in err
    assert "Traceback" in err and "job 3 of 6 (seed=2): ZeroDivisionError: nobody foresaw this\n" in err
    assert out.endswith("job 5 of 6: seed=4\nstopped in job 5 of 6 (seed=4); the same command continues\n")
    sweep.run_jobs([jobs[0], jobs[4], jobs[5]], run)
    assert done[5:] == [0, 4]

    def interrupted(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run_jobs(jobs, interrupted)
    assert capsys.readouterr().out.endswith("job 1 of 6: seed=0\ninterrupted in job 1 of 6 (seed=0)\n")


def test_tables_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(RequestError, match="no runs here; train runs there"):
        _table(capsys, runs)
    for name, seed, overrides in (("tiny-0", 0, []), ("tiny-1", 1, ["optim.momentum=0.8"]), ("one", 0, [])):
        _evaluated(runs, name, seed, overrides)
    with pytest.raises(RequestError, match=r"tiny-0, tiny-1: .*also in optim.momentum; move one elsewhere"):
        _table(capsys, runs)
    _evaluated(runs, "tiny-1", 1, [], trained_on="q")
    with pytest.raises(RequestError, match=r"tiny-0, tiny-1: .*also in the images that they were trained on"):
        _table(capsys, runs)
    _evaluated(runs, "tiny-1", 1, [f"data.path={runs / 'moved'}"])  # the same pictures in another place
    with pytest.raises(RequestError, match=r"baseline=tin: no such group with predictions .*; there are one, tiny"):
        _table(capsys, runs, "baseline=tin")
    facts = json.loads(_table(capsys, runs, "json=true"))
    (difference,) = (group["difference"] for group in facts["groups"] if group["group"] == "one")
    wrong = [KeptPredictions.load(runs / name / "report" / FILE).views[10].rank >= 1 for name in ("tiny-0", "one")]
    assert difference["top1_interval"] == list(paired_bootstrap(*wrong, 10_000, 0))
    assert (difference["seeds"], difference["left_out"]) == ([0], [1])
    _evaluated(runs, "one", 0, [], plan="another")
    with pytest.raises(RequestError, match="not the same images; evaluate both on one data set"):
        _table(capsys, runs)


def _evaluated(runs: Path, name: str, seed: int, overrides: list[str], plan: str = "p", trained_on: str = "p") -> None:
    """A run's folder with a configuration and made-up predictions."""
    from alexnet_repro.config import TrainConfig
    from alexnet_repro.evaluation.predictions import KeptView

    (runs / name / "report").mkdir(parents=True, exist_ok=True)
    where = [f"runs_dir={runs}", f"run={name}", f"seed={seed}"]
    RunFolder(runs / name).write_config(load("train", TrainConfig, [*SMALL, *where, *overrides]))
    probabilities = np.random.default_rng(seed + len(name)).random((40, 7)).astype(np.float32)
    labels = np.arange(40) % 7
    member = {"checkpoint": "last", "trained_on": {"plan": trained_on}}
    about = {"members": [member], "data": {"name": "d", "plan": plan, "description": "d"}}
    names = np.array([f"val/{i}" for i in range(40)])
    view = {10: KeptView.of(probabilities, labels, 7)}
    KeptPredictions(about, names, labels, list("abcdefg"), list("abcdefg"), view).save(runs / name / "report" / FILE)
