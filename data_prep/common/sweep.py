"""Several jobs of one command (--multirun): all checked before the first begins, then one after the other."""

import gc
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from data_prep.common.endings import one_line_for, outcome
from data_prep.common.errors import DONE, FAILED, INTERRUPTED, STOPPED, RequestError

Schema = TypeVar("Schema")


@dataclass(frozen=True)
class Job(Generic[Schema]):
    config: Schema
    name: str  # "job 2 of 6"
    overrides: str  # what sets it apart: "experiment=no_lrn seed=1"

    def __str__(self) -> str:
        return f"{self.name} ({self.overrides})"


def checked_jobs(
    composed: Sequence[tuple[DictConfig, list[str]]],
    checked: Callable[[DictConfig], Schema],
    check: Callable[[Schema], None] | None,
    writes: Callable[[Schema], Path] | None,
) -> list[Job[Schema]]:
    """`composed`: of each job, its configuration and overrides. RequestError, which names the job, if one is wrong, and
    if two would write into one folder. One job alone makes its checks itself, as it begins.
    """
    if not composed:  # --cfg, --help and the like
        return []
    if len(composed) == 1:
        return [Job(checked(composed[0][0]), "job 1 of 1", " ".join(composed[0][1]))]
    jobs: list[Job[Schema]] = []
    writers: dict[Path, Job[Schema]] = {}
    for number, (config, overrides) in enumerate(_apart(composed), 1):
        name = f"job {number} of {len(composed)}"
        try:
            job = Job(checked(config), name, overrides)
            if check:
                check(job.config)
        except OmegaConfBaseException as error:
            raise RequestError(f"{name} ({overrides}): {one_line_for(error)}") from None
        except RequestError as error:
            raise RequestError(f"{name} ({overrides}): {error}") from None
        folder = writes(job.config) if writes else None
        if folder and (other := writers.setdefault(folder.resolve(), job)) is not job:
            raise RequestError(f"{other} and {job} would both write into {folder}; give them different names")
        jobs.append(job)
    return jobs


def run_jobs(program: str, jobs: Sequence[Job[Schema]], run: Callable[[Schema], int | None]) -> tuple[int, str | None]:
    """The exit code of all together, and the last line for stderr, if there is one. A job that fails is reported, and
    the others run; one that was stopped or interrupted ends the sweep.
    """
    failed: list[str] = []
    for job in jobs:
        print(f"{job.name}: {job.overrides}", flush=True)
        code, message = _survived(run, job)
        gc.collect()  # networks hold themselves in circles, and the next one needs the room
        if code == INTERRUPTED:
            return code, f"{job}: {message}"
        if code == STOPPED:
            print(f"stopped in {job}; the same command continues", flush=True)
            break
        if code != DONE:
            failed.append(str(job))
            print(f"{program}: error: {job}: {message or f'ended with exit code {code}'}", file=sys.stderr, flush=True)
    if failed:
        return FAILED, f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}"
    return DONE, None


def _survived(run: Callable[[Schema], int | None], job: Job[Schema]) -> tuple[int, str | None]:
    """As `outcome`, and errors that nobody foresaw are shown whole: the jobs of a night do not depend on one."""
    try:
        return outcome(lambda: run(job.config))
    except Exception as error:
        traceback.print_exc()
        return FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"


def _apart(composed: Sequence[tuple[DictConfig, list[str]]]) -> list[tuple[DictConfig, str]]:
    """Of each job its configuration and the overrides that are not those of all; all of them if nothing differs."""
    overrides = [given for _, given in composed]
    differ = [place for place, column in enumerate(zip(*overrides, strict=True)) if len(set(column)) > 1]
    shown = differ or range(len(overrides[0]))
    return [(config, " ".join(given[place] for place in shown)) for config, given in composed]
