"""metrics.jsonl: what TensorBoard shows, for scripts. One JSON object a line; `kind` is steps or epoch."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.common.files import write_atomically


class MetricsLog:
    """Appends to the file; a full disk costs no line, and no run."""

    def __init__(self, path: Path, step: int, epochs: int) -> None:
        """A run that goes on after `step`, with so many epochs done, drops what lies beyond: it comes again."""
        self._path = path
        self._waiting = ""
        self._complained = False
        kept = "".join(_lines_up_to(path, step, epochs)).encode()
        write_atomically(path, lambda file: file.write(kept))
        self._length = len(kept)

    def add(self, kind: str, numbers: Mapping[str, Any]) -> None:
        """`numbers` has a `step`."""
        self._waiting += json.dumps({"kind": kind, **numbers}) + "\n"
        data = self._waiting.encode()
        try:
            with self._path.open("r+b") as file:
                file.truncate(self._length)  # half a line, from an attempt before
                file.seek(self._length)
                file.write(data)
        except OSError as error:
            if not self._complained:
                print(f"warning: {self._path}: cannot be written ({error.strerror}); its lines are kept until it can",
                      file=sys.stderr)  # fmt: skip
            self._complained = True
            return
        self._length += len(data)
        self._waiting, self._complained = "", False


def _lines_up_to(path: Path, step: int, epochs: int) -> Iterator[str]:
    """Without a last line that a kill cut short."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            numbers = json.loads(line)
            if numbers["epoch"] <= epochs if numbers["kind"] == "epoch" else numbers["step"] <= step:
                yield line + "\n"
        except (ValueError, KeyError, TypeError):
            continue


def read_metrics(path: Path, kind: str) -> list[dict[str, float]]:
    """The entries of one `kind`, steps or epoch, in a metrics.jsonl, in order; [] where there is none."""
    lines = map(json.loads, _lines_up_to(path, sys.maxsize, sys.maxsize))
    return [line for line in lines if line["kind"] == kind]
