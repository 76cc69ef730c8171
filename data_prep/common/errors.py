"""The errors that a command ends with, and exit codes. Imports nothing of ours, so that any file may import it."""

from typing import Any

DONE, FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130
STOPPED = -1  # returned by a command that was asked to stop and has saved its work; the process exits with DONE


class RequestError(ValueError):
    """The request was wrong. The message names the key or path, what was found and what to do, in one line."""


class RunError(RuntimeError):
    """The request was right, but the run cannot go on. One line, as above."""


def require(condition: bool, key: str, value: Any, constraint: str) -> None:
    """RequestError if a setting's value breaks its constraint: "seed=-1: must be 0 or more"."""
    if not condition:
        raise RequestError(f"{key}={value}: must be {constraint}")


def require_one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    require(value in choices, key, value, "one of " + ", ".join(choices))
