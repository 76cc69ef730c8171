"""How every command of the project starts and ends: Hydra composes conf/, a typed schema checks it, and whatever goes
wrong ends in one line and an exit code: 0 done, 1 failed while running, 2 the request itself was wrong.
"""

import difflib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

Schema = TypeVar("Schema")

DONE, FAILED, WRONG_REQUEST = 0, 1, 2
_INTERRUPTED = 130

# Commands write only where they say: no folder, no log file of Hydra's own.
_QUIET_HYDRA = [
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.dir=runs",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]


class RequestError(ValueError):
    """The request was wrong. The message names the key or path, what was found and what to do, in one line."""


class RunError(RuntimeError):
    """The request was right, but the run cannot go on. One line, as above."""


def conf_folder() -> Path:
    """conf/: beside the packages in a checkout, inside alexnet_repro once installed."""
    packages = Path(__file__).resolve().parent.parent
    installed = packages / "alexnet_repro" / "conf"
    return installed if installed.is_dir() else packages / "conf"


def checked(config: DictConfig, schema: type[Schema]) -> Schema:
    """`config` as an instance of the dataclass `schema`.

    RequestError for an unknown key, a wrong type, a missing value, or a value that a check of the schema refuses.
    """
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), config)
        result = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise RequestError(_one_line_for(error)) from None
    assert isinstance(result, schema)
    return result


def main(config_name: str, schema: type[Schema], run: Callable[[Schema], int | None]) -> NoReturn:
    """Entry point of a command: composes conf/<config_name>.yaml with the command line, checks it, calls `run`."""
    program = f"python -m {_module_name()}"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, so that they end as ours do

    sys.argv[1:1] = _QUIET_HYDRA

    composed: list[DictConfig] = []

    def task(config: DictConfig) -> None:
        composed.append(config)
        _guarded(program, lambda: run(checked(config, schema)))

    entry = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=config_name)(task)
    try:
        _guarded(program, entry)
    except ValueError as error:  # how Hydra refuses some values of config groups; `task` handles its own errors
        if composed:
            raise
        _leave(program, " ".join(str(error).split()), WRONG_REQUEST)
    sys.exit(DONE)


def plain_main(call: Callable[[], int | None]) -> NoReturn:
    """Entry point of a command without configuration: the same endings as `main`."""
    _guarded(f"python -m {_module_name()}", call)
    sys.exit(DONE)


def _guarded(program: str, call: Callable[[], int | None]) -> None:
    try:
        code = call()
    except RequestError as error:
        _leave(program, str(error), WRONG_REQUEST)
    except (HydraException, OmegaConfBaseException) as error:
        _leave(program, _one_line_for(error), WRONG_REQUEST)
    except RunError as error:
        _leave(program, str(error), FAILED)
    except KeyboardInterrupt:
        _leave(program, "interrupted; what was finished is kept, and the same command goes on from there", _INTERRUPTED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        _leave(program, "out of GPU memory; use a smaller batch, or a GPU with more memory", FAILED)
    except OSError as error:
        _leave(program, f"{error.filename or 'input/output'}: {error.strerror or error}", FAILED)
    if code:
        sys.exit(code)


def _leave(program: str, message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(f"{program}: error: {message}", file=sys.stderr)
    sys.exit(code)


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return str(spec.name) if spec else Path(sys.argv[0]).stem


def _one_line_for(error: Exception) -> str:
    text = " ".join(str(error).split())
    if match := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text):
        return f"unknown key {match[1]!r}{_nearest(match[1])}; --cfg job lists every key"
    if match := re.search(r"Could not find '([^']+)/([^'/]+)' Available options in '[^']+': (.*?) Config search", text):
        return f"{match[1]}={match[2]}: no such choice; there are {', '.join(match[3].split())}"
    if isinstance(error, OverrideParseException):
        return f"cannot understand {error.override!r}; give key=value, with quotes around odd characters"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        reason = " ".join(str(error.msg or "").split())
        if "not in" in reason and "Key" in reason:
            return f"unknown key {error.full_key!r}{_nearest(error.full_key)}; --cfg job lists every key"
        if isinstance(error, MissingMandatoryValue) or "missing mandatory value" in reason.lower():
            return f"{error.full_key}: needs a value; give {error.full_key}=..."
        if "is not Optional" in reason or "value 'None' for field" in reason:
            return f"{error.full_key}=null: cannot be left out; give it a value"
        if "not a ListConfig" in reason:
            return f"{error.full_key}: must be a list; write {error.full_key}=[first,second]"
        if "of type 'ListConfig'" in reason:
            return f"{error.full_key}: must be one value, not a list"
        if "is not a subclass of" in reason:
            return f"{error.full_key}: has settings of its own; give those, {error.full_key}.KEY=..."
        return f"{error.full_key}: {reason.split(' full_key:')[0]}"
    return text


def _nearest(key: str) -> str:
    """', did you mean ...' where some file of conf/ has a key that looks like the last part of `key`."""
    words: set[str] = set()
    for path in conf_folder().rglob("*.yaml"):
        words.update(re.findall(r"[{,\s]([a-z_0-9]+):", "\n" + path.read_text()))
    last = key.split(".")[-1].lstrip("+~")
    close = [] if last in words else difflib.get_close_matches(last, sorted(words), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def load(config_name: str, schema: type[Schema], overrides: list[str] | None = None) -> Schema:
    """conf/<config_name>.yaml with `overrides`, checked; for code and tests that need a command's configuration."""
    return checked(compose(config_name, overrides), schema)


def compose(config_name: str, overrides: list[str] | None = None) -> Any:
    """conf/<config_name>.yaml with `overrides`, as Hydra composes it, not yet checked."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3"):
        return hydra.compose(config_name, overrides=overrides or [])
