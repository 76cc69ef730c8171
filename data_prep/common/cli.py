"""How every command of the project starts: Hydra composes conf/, and a typed schema checks it. How it ends: endings.py;
several jobs of one command: sweep.py.
"""

import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.common import sweep
from data_prep.common.endings import conf_folder, one_line_for, outcome
from data_prep.common.errors import DONE, FAILED, INTERRUPTION, STOPPED, WRONG_REQUEST, RequestError, RunError

__all__ = [
    "DONE", "FAILED", "STOPPED", "WRONG_REQUEST", "RequestError", "RunError", "checked", "compose", "conf_folder",
    "load", "main", "plain_main",
]  # fmt: skip

Schema = TypeVar("Schema")

# Commands write only where they say: no folder, no log file of Hydra's own.
_QUIET_HYDRA = [
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]
_MULTIRUN = ("--multirun", "-m")


def checked(config: DictConfig, schema: type[Schema]) -> Schema:
    """`config` as an instance of the dataclass `schema`.

    RequestError for an unknown key, a wrong type, a missing value, or a value that a check of the schema refuses.
    """
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), config)
        result = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise RequestError(one_line_for(error)) from None
    assert isinstance(result, schema)
    return result


def main(
    config_name: str,
    schema: type[Schema],
    run: Callable[[Schema], int | None],
    check: Callable[[Schema], None] | None = None,
    writes: Callable[[Schema], Path] | None = None,
) -> NoReturn:
    """Entry point of a command: composes conf/<config_name>.yaml with the command line, checks it, calls `run`.

    With --multirun it calls `run` for one job after the other, in this process, once every one of them has passed: its
    schema, `check` (RequestError for what else can be found out without doing it), and that no two of them write into
    the same folder, `writes`.
    """
    program = f"python -m {_module_name()}"
    jobs: list[sweep.Job[Schema]] = []

    def ask() -> None:
        composed = _composed(config_name)
        jobs.extend(sweep.checked_jobs(composed, lambda config: checked(config, schema), check, writes))

    code, message = outcome(ask)
    if message is None and len(jobs) == 1:
        code, message = outcome(lambda: run(jobs[0].config))
    elif message is None and jobs:
        try:
            code, message = sweep.run_jobs(program, jobs, run)
        except KeyboardInterrupt:  # between two jobs
            code, message = INTERRUPTION
    _leave(program, code, message)


def plain_main(call: Callable[[], int | None]) -> NoReturn:
    """Entry point of a command without configuration: the same endings as `main`."""
    _leave(f"python -m {_module_name()}", *outcome(call))


def _composed(config_name: str) -> list[tuple[DictConfig, list[str]]]:
    """What the command line asks for: the configuration of each job, and the job's overrides. Hydra does no more than
    this: jobs run when it is done, so that none begins before all are known. Empty for --cfg, --help and the like.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, so that they end as ours do
    composed: list[tuple[DictConfig, list[str]]] = []

    def task(config: DictConfig) -> None:
        composed.append((config, list(HydraConfig.get().overrides.task)))

    # Made by Hydra for its multirun.yaml, where there are several jobs.
    scratch = Path(tempfile.gettempdir()) / f"hydra-{uuid.uuid4().hex}"
    quoted = str(scratch).replace("\\", "\\\\").replace("'", "\\'")
    sys.argv[1:] = _arguments(sys.argv[1:], [*_QUIET_HYDRA, f"hydra.sweep.dir='{quoted}'"])
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=config_name)(task)()
    except OmegaConfBaseException:
        raise
    except ValueError as error:  # how Hydra refuses some values of config groups
        raise RequestError(" ".join(str(error).split())) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not composed and set(_MULTIRUN) & set(sys.argv):
        raise RequestError("--multirun: no job was composed here; leave hydra/launcher and hydra/sweeper as they are")
    return composed


def _arguments(given: list[str], ours: list[str]) -> list[str]:
    """With our overrides before the first that was given, which may change them, and options not in between: Hydra does
    not take overrides in two places.
    """
    multirun = [argument for argument in given if argument in _MULTIRUN]
    others = [argument for argument in given if argument not in _MULTIRUN]
    overrides = [place for place, argument in enumerate(others) if argument[0:1] != "-" and "=" in argument]
    first = overrides[0] if overrides else len(others)
    if others and not others[0].startswith("-"):
        first = 0
    return [*multirun, *others[:first], *ours, *others[first:]]


def _leave(program: str, code: int, message: str | None) -> NoReturn:
    if message:
        sys.stdout.flush()
        print(f"{program}: error: {message}", file=sys.stderr)
    sys.exit(DONE if code == STOPPED else code)


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return str(spec.name) if spec else Path(sys.argv[0]).stem


def load(config_name: str, schema: type[Schema], overrides: list[str] | None = None) -> Schema:
    """conf/<config_name>.yaml with `overrides`, checked; for code and tests that need a command's configuration."""
    return checked(compose(config_name, overrides), schema)


def compose(config_name: str, overrides: list[str] | None = None) -> Any:
    """conf/<config_name>.yaml with `overrides`, as Hydra composes it, not yet checked."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3"):
        return hydra.compose(config_name, overrides=overrides or [])
