"""How a command ends: every error that was foreseen as one line on stderr, and an exit code."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_prep.common.errors import DONE, FAILED, INTERRUPTED, STOPPED, WRONG_REQUEST, RequestError, RunError


def run_and_exit(call: Callable[[], int | None]) -> NoReturn:
    """Ends the process with what `call` returns, None being DONE, or with the line and exit code of its error."""
    leave(*outcome(call))


def outcome(call: Callable[[], int | None]) -> tuple[int, str | None]:
    """What `call` returns and None; or, after an error that was foreseen, an exit code and a line about it."""
    try:
        return call() or DONE, None
    except RequestError as error:
        return WRONG_REQUEST, str(error)
    except RunError as error:
        return FAILED, str(error)
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted; what was finished is kept, and the same command goes on from there"
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which is not imported for its name alone
            raise
        return FAILED, "out of GPU memory; use a smaller batch, or a GPU with more memory"
    except OSError as error:
        return FAILED, f"{error.filename or 'input/output'}: {error.strerror or error}"


def leave(code: int, message: str | None) -> NoReturn:
    if message:
        sys.stdout.flush()
        print(f"{program()}: error: {message}", file=sys.stderr)
    sys.exit(DONE if code == STOPPED else code)


def program() -> str:
    """The command as it was typed: python -m alexnet_repro.train."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else f"python {Path(sys.argv[0])}"
