"""How a command ends: its errors in one line each, and its exit codes: 0 done, 1 failed while running, 2 the request
itself was wrong, 130 interrupted.
"""

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from data_prep.common.errors import DONE, FAILED, INTERRUPTION, WRONG_REQUEST, RequestError, RunError


def conf_folder() -> Path:
    """conf/: beside the packages in a checkout, inside alexnet_repro once installed."""
    packages = Path(__file__).resolve().parents[2]
    installed = packages / "alexnet_repro" / "conf"
    return installed if installed.is_dir() else packages / "conf"


def outcome(call: Callable[[], int | None]) -> tuple[int, str | None]:
    """What `call` comes to: what it returns, or an exit code and the line for an error that was foreseen."""
    try:
        return call() or DONE, None
    except RequestError as error:
        return WRONG_REQUEST, str(error)
    except (HydraException, OmegaConfBaseException) as error:
        return WRONG_REQUEST, one_line_for(error)
    except RunError as error:
        return FAILED, str(error)
    except KeyboardInterrupt:
        return INTERRUPTION
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        return FAILED, "out of GPU memory; use a smaller batch, or a GPU with more memory"
    except OSError as error:
        return FAILED, f"{error.filename or 'input/output'}: {error.strerror or error}"


def one_line_for(error: Exception) -> str:
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
