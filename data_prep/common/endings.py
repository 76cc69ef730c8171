"""How a command ends: every error that was foreseen as one line on stderr, and an exit code."""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_prep.common.errors import DONE, FAILED, INTERRUPTED, STOPPED, WRONG_REQUEST, RequestError, RunError
from data_prep.common.text import one_line

# What asks a command for an orderly end: Ctrl-C, kill, a closed terminal, and the warnings of batch schedulers before
# they kill. Windows lacks some.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOBODY_READS = (errno.EPIPE, errno.EIO)  # a closed pipe (... | head), a terminal that is gone


def run_and_exit(call: Callable[[], int | None]) -> NoReturn:
    """Ends the process with what `call` returns, None being DONE, or with the line and exit code of its error."""
    leave(*outcome(call))


def outcome(call: Callable[[], int | None]) -> tuple[int, str | None]:
    """(exit code, None) if `call` returns; (exit code, a line for stderr or None) after an error that was foreseen."""
    plain_output()
    try:
        return call() or DONE, None
    except SystemExit as end:  # --help
        return int(end.code or DONE), None
    except RequestError as error:
        return WRONG_REQUEST, str(error)
    except RunError as error:
        return FAILED, str(error)
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted; what was finished is kept, and the same command goes on from there"
    except NotImplementedError as error:
        if "MPS" not in str(error):
            raise
        lacking = one_line(error)[:120]
        return WRONG_REQUEST, f"devices=[mps]: PyTorch lacks an operation there ({lacking}); give devices=[cpu]"
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which is not imported for its name alone
            raise
        return FAILED, "out of GPU memory; use a smaller batch, or a GPU with more memory"
    except OSError as error:
        if error.errno in _NOBODY_READS and error.filename is None:
            return FAILED, None
        room = "; free some space and start the same command again" if error.errno in _FULL else ""
        return FAILED, f"{error.filename or 'input/output'}: {error.strerror or error}{room}"


def leave(code: int, message: str | None) -> NoReturn:
    try:
        for stream in (sys.stdout, sys.stderr):  # None where it was closed from the start
            if stream:
                stream.flush()
        if message:
            print(f"{program()}: error: {message}", file=sys.stderr)
    except OSError as error:
        if error.errno not in _NOBODY_READS:
            raise
        code = code or FAILED
        discard_unread_output()
    sys.exit(DONE if code == STOPPED else code)


def plain_output() -> None:
    """From now on, characters that the terminal or file cannot take are printed as escapes, not refused."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_unread_output() -> None:
    """Sends standard output and standard error to nowhere, each if nobody reads it any more."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream and not stream.closed and _unread(stream.fileno()):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _unread(descriptor: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(descriptor, 0)  # errors and hang-ups are reported in any case
    return bool(poll.poll(0))


def program() -> str:
    """The command as it was typed: python -m alexnet_repro.train."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else f"python {Path(sys.argv[0])}"
