"""How a command starts: Hydra composes conf/ with the command line, and a typed schema checks the result.

What Hydra makes of the words typed: typed.py. How a command ends: endings.py. Several jobs (--multirun): sweep.py.
"""

import argparse
import difflib
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn, TypeVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

from data_prep.common.endings import leave, outcome, program, run_and_exit
from data_prep.common.errors import INTERRUPTED, RequestError
from data_prep.common.sweep import Job, checked_jobs, combinations, refuse_wrong_jobs, run_jobs
from data_prep.common.text import one_line
from data_prep.common.typed import keys_of, overrides_of, refuse_habits, refuse_options

Config = TypeVar("Config")


def command_line(config_name: str, schema: type[Config]) -> list[Job[Config]]:
    """The jobs that the command line asks for: one, or with --multirun one for each combination of the values given.

    Each is conf/<config_name>.yaml with the job's overrides, checked. Ends the process if there is nothing to run:
    after --help and --cfg job, and, with exit code 2, after a wrong request.
    """
    _open_closed_streams()
    jobs: list[Job[Config]] = []
    code, message = outcome(lambda: jobs.extend(_jobs(config_name, schema)))
    if not jobs:
        leave(code, message)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted_at_the_start)
    return jobs


def _open_closed_streams() -> None:
    """Started with 2>&-, Python has no sys.stderr, and the next file that is opened would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _interrupted_at_the_start(_number: int, _frame: object) -> NoReturn:
    """Ctrl-C while PyTorch is imported, which would print a traceback."""
    print(f"\n{program()}: interrupted before it began", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


def main(
    jobs: Sequence[Job[Config]],
    run: Callable[[Config], int | None],
    check: Callable[[Config], None] | None = None,
    writes: Callable[[Config], Path] | None = None,
) -> NoReturn:
    """Runs what `command_line` returned, and ends the process.

    A single job checks itself as it begins. Several begin only after `check` (RequestError for what can be known
    without running) has passed for each, and if no two of them write into one folder; `writes` gives a job's folder.
    """
    if signal.getsignal(signal.SIGINT) is _interrupted_at_the_start:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if len(jobs) == 1:
        run_and_exit(lambda: run(jobs[0].config))

    def check_and_run() -> None:
        refuse_wrong_jobs(jobs, check, writes)
        run_jobs(jobs, run)

    run_and_exit(check_and_run)


def load(config_name: str, schema: type[Config], overrides: Sequence[str] = ()) -> Config:
    """conf/<config_name>.yaml with `overrides`, checked; for code and tests that need a command's configuration."""
    keys = keys_of(schema)
    with _hydra(keys):
        composed = _composed(config_name, *overrides_of(overrides, keys))
    return checked(composed, schema)


@cache  # Hydra takes a tenth of a second for it
def _composed(config_name: str, *overrides: str) -> DictConfig:
    return hydra.compose(config_name, list(overrides))


def checked(config: DictConfig, schema: type[Config]) -> Config:
    """`config` as an instance of the dataclass `schema`.

    RequestError for an unknown key, a wrong type, a missing value, or a value that a check of the schema refuses.
    """
    try:
        result = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), config))
    except OmegaConfBaseException as error:
        raise RequestError(_refusal(error, keys_of(schema))) from None
    assert isinstance(result, schema)
    return result


def conf_folder() -> Path:
    """conf/: beside the packages in a checkout, inside alexnet_repro once installed."""
    packages = Path(__file__).resolve().parents[2]
    installed = packages / "alexnet_repro" / "conf"
    return installed if installed.is_dir() else packages / "conf"


@contextmanager
def _hydra(keys: Collection[str]) -> Iterator[None]:
    """Hydra, set up with conf/, for a command with these keys. What it refuses becomes a RequestError. A program's own
    Hydra is back afterwards.
    """
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RequestError(_refusal(error, keys)) from None
    finally:
        GlobalHydra.instance().hydra = outer


def _jobs(config_name: str, schema: type[Config]) -> list[Job[Config]]:
    """As `command_line`; none after --cfg job."""
    groups, keys = _groups(config_name), keys_of(schema)
    options, unknown = _parser(groups).parse_known_intermixed_args()  # options and overrides in any order
    refuse_options([word for word in unknown if word.startswith("-")], sys.argv[1:], keys, groups)
    refuse_habits(options.overrides, keys, groups)
    search = []
    if options.config_dir is not None:
        if not Path(options.config_dir).is_dir():
            raise RequestError(f"--config-dir={options.config_dir}: no such folder")
        quoted = str(Path(options.config_dir).resolve()).replace("'", r"\'")
        search = [f"hydra.searchpath=['file://{quoted}']"]
    with _hydra(keys):
        overrides = overrides_of(options.overrides, keys, options.multirun)
        given = combinations(overrides) if options.multirun else [overrides]
        composed = [hydra.compose(config_name, [*search, *chosen]) for chosen in given]
    if options.cfg:
        print(OmegaConf.to_yaml(composed[0]), end="")
        return []
    return checked_jobs(given, composed, lambda config: checked(config, schema))


def _groups(config_name: str) -> dict[str, list[str]]:
    """The groups of settings of a command, each with its choices."""
    defaults = OmegaConf.select(OmegaConf.load(conf_folder() / f"{config_name}.yaml"), "defaults", default=[])
    names = [group for default in defaults if OmegaConf.is_dict(default) for group in default]
    return {group: sorted(path.stem for path in (conf_folder() / group).glob("*.yaml")) for group in names}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(message)


def _parser(groups: dict[str, list[str]]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program(),
        description=sys.modules["__main__"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ from those in conf/")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("-c", "--cfg", choices=["job"], help="show all settings, with the overrides applied")
    either.add_argument("-m", "--multirun", action="store_true", help="run every combination of KEY=VALUE,VALUE,...")
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="look for groups of settings in DIR, too")
    if groups:
        lines = [f"  {group}={' '.join(names)}" for group, names in groups.items()]
        parser.epilog = "\n".join(["groups of settings, GROUP=NAME:", *lines])
    return parser


def _refusal(error: Exception, keys: Collection[str]) -> str:
    """What Hydra or OmegaConf refused, with the key, what was found, and what to do. `keys`: what the command has."""
    if isinstance(error, OverrideParseException):
        return f"cannot understand {error.override!r}; give key=value, with quotes around odd characters"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name}: no such choice; there are {', '.join(error.options)}"
    if isinstance(error.__cause__, OmegaConfBaseException):  # Hydra's error only says in which override
        error = error.__cause__
    if several := re.match(r"Ambiguous value for argument '(.*)'", str(error)):
        return f"{several[1]}: several values for one; --multirun takes each in turn"
    if not isinstance(error, OmegaConfBaseException) or not error.full_key:
        return one_line(error)
    key = error.full_key
    if isinstance(error, (KeyError, AttributeError)):
        if key in keys:
            return f"{key}: is not among these settings, or what it belongs to is null; write +{key}=... to add it"
        return f"unknown key {key!r}{_nearest(key, keys)}; --cfg job lists every key"
    if isinstance(error, MissingMandatoryValue):
        return f"{key}: needs a value; give {key}=..."
    reason = " ".join(str(error.msg or "").split()).split(" full_key:")[0]
    if isinstance(error, ValidationError):
        if str(error.value) == "None":  # None itself, or a node of OmegaConf that holds it
            return f"{key}=null: cannot be left out; give it a value"
        if isinstance(error.value, ListConfig):
            return f"{key}: must be one value, not a list"
        if "is not a ListConfig" in reason:
            return f"{key}: must be a list; write {key}=[first,second]"
        if "is not a subclass of" in reason:
            return f"{key}: has settings of its own; give those, {key}.KEY=..."
    return f"{key}: {reason}"


def _nearest(key: str, keys: Collection[str]) -> str:
    """', did you mean ...' where one of `keys`, or its last part, looks like `key`."""
    by_last = {known.split(".")[-1]: known for known in keys}
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.8)
    close += [by_last[last] for last in difflib.get_close_matches(key.split(".")[-1], by_last, n=1, cutoff=0.7)]
    return f", did you mean {close[0]!r}?" if close else ""
