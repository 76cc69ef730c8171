"""Several jobs of one command (--multirun): all checked before the first begins, then run one after the other."""

import gc
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Generic, TypeVar

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from data_prep.common.endings import outcome, program
from data_prep.common.errors import DONE, FAILED, INTERRUPTED, STOPPED, RequestError, RunError
from data_prep.common.text import one_line

Config = TypeVar("Config")


@dataclass(frozen=True)
class Job(Generic[Config]):
    name: str  # "job 2 of 6"
    overrides: str  # that set it apart from the others: "experiment=no_lrn seed=1"
    config: Config

    def __str__(self) -> str:
        return f"{self.name} ({self.overrides})"


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job: every combination of the values of `key=a,b`, `key=range(1,4)` and the like, those of
    the last key changing fastest. Hydra must be set up, as it knows the choices of `group=glob(*)`.
    """
    values: dict[str, list[str]] = {}  # of each key, whose last override counts
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    for override in parser.parse_overrides(list(overrides)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [str(override.input_line)]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise RequestError(f"{override.input_line}: names no values; write them out, or give range(first,end,step)")
    return [list(chosen) for chosen in product(*values.values())]


def checked_jobs(
    given: Sequence[Sequence[str]], composed: Sequence[DictConfig], check: Callable[[DictConfig], Config]
) -> list[Job[Config]]:
    """The jobs with the overrides `given`, whose configurations are what `check` makes of `composed`.

    A RequestError of `check` names the job if there are several.
    """
    differ = [place for place, values in enumerate(zip(*given, strict=True)) if len(set(values)) > 1]
    jobs = []
    for number, (overrides, config) in enumerate(zip(given, composed, strict=True), 1):
        name, shown = f"job {number} of {len(given)}", " ".join([overrides[place] for place in differ] or overrides)
        try:
            jobs.append(Job(name, shown, check(config)))
        except RequestError as error:
            raise RequestError(f"{name} ({shown}): {error}" if len(given) > 1 else str(error)) from None
    return jobs


def refuse_wrong_jobs(
    jobs: Sequence[Job[Config]], check: Callable[[Config], None] | None, writes: Callable[[Config], Path] | None
) -> None:
    """RequestError, which names the job, if `check` refuses one, or if two would write into the same folder."""
    writers: dict[Path, Job[Config]] = {}
    for job in jobs:
        try:
            if check:
                check(job.config)
        except RequestError as error:
            raise RequestError(f"{job}: {error}") from None
        folder = writes(job.config) if writes else None
        if folder and (other := writers.setdefault(folder.resolve(), job)) is not job:
            raise RequestError(f"{other} and {job} would both write into {folder}; give them different names")


def run_jobs(jobs: Sequence[Job[Config]], run: Callable[[Config], int | None]) -> None:
    """Runs one job after the other. A job that fails is reported, and the others run; one that is stopped or
    interrupted ends the sweep. RunError at the end, which names the jobs that failed.
    """
    failed: list[str] = []
    for job in jobs:
        print(f"{job.name}: {job.overrides}", flush=True)
        code, message = _run_job(run, job)
        gc.collect()  # networks refer to themselves in cycles, and the next one needs their memory
        if code == INTERRUPTED:
            print(f"interrupted in {job}", flush=True)
            raise KeyboardInterrupt
        if code == STOPPED:
            print(f"stopped in {job}; the same command continues", flush=True)
            break
        if code != DONE:
            failed.append(str(job))
            print(f"{program()}: error: {job}: {message or f'exit code {code}'}", file=sys.stderr, flush=True)
    if failed:
        raise RunError(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}")


def _run_job(run: Callable[[Config], int | None], job: Job[Config]) -> tuple[int, str | None]:
    """As `outcome`. After an error that was not foreseen, its traceback is shown, and the other jobs still run."""
    try:
        return outcome(lambda: run(job.config))
    except Exception as error:
        traceback.print_exc()
        return FAILED, f"{type(error).__name__}: {one_line(error)}"
