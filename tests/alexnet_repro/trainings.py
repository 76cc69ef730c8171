"""Trainings in processes of their own, to be killed. A fork server imports PyTorch and Numba once for all of them."""

import multiprocessing
import os
import pkgutil
import signal
import sys
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

from conftest import SMALL

from alexnet_repro.config import TrainConfig
from data_prep.common.cli import load


@cache
def _fork_server() -> ForkServerContext:
    """One that has imported them, in place of one that a preparation may have started without it."""
    forkserver._forkserver._stop()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alexnet_repro.train", "alexnet_repro.model.cpu_norms"])
    return context


def small_config(prepared: Path, runs: Path, *overrides: str) -> TrainConfig:
    """Two epochs of four steps, a tenth of the rate in the second, saved after every step."""
    fixed = [f"data.path={prepared}", f"runs_dir={runs}", "run=r", "schedule=constant", "schedule.epochs=2"]
    division = "schedule.changes=[{after: 1, weights: 0.1, biases: 0.1}]"
    return load("train", TrainConfig, [*SMALL, *fixed, division, "save_minutes=1e-9", "log_every=1", *overrides])


def start(
    config: TrainConfig,
    log: Path,
    kill_before: str | None = None,
    call: int = 0,
    number: int = signal.SIGKILL,
    environment: Mapping[str, str] | None = None,
) -> ForkServerProcess:
    """`kill_before`: a function, as package.module:name, at whose call number `call` the process sends itself the
    signal `number`. `environment`: variables that it gets besides those of this process.
    """
    process = _fork_server().Process(target=_train, args=(config, log, kill_before, call, number, environment or {}))
    process.start()
    return process


def _train(
    config: TrainConfig, log: Path, kill_before: str | None, call: int, number: int, environment: Mapping[str, str]
) -> None:
    from alexnet_repro.train import train

    os.environ.update(environment)
    with log.open("a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    if kill_before is None:
        train(config)
        return
    real = pkgutil.resolve_name(kill_before)
    calls = 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return real(*arguments, **options)

    with mock.patch(kill_before.replace(":", "."), deadly):
        train(config)
