"""metrics.jsonl: what TensorBoard shows, for scripts. One JSON object a line; `kind` is steps or epoch."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.common.files import AppendOnlyFile, write_atomically


class MetricsLog:
    """Appends to the file, as AppendOnlyFile does: a full disk stops no run."""

    def __init__(self, path: Path, step: int, epochs: int) -> None:
        """A run that continues after `step`, with `epochs` done, drops the lines beyond: it writes them again."""
        kept = "".join(_lines_up_to(path, step, epochs)).encode()
        write_atomically(path, lambda file: file.write(kept))
        self._file = AppendOnlyFile(path, len(kept))

    def add(self, kind: str, numbers: Mapping[str, Any]) -> None:
        """`numbers` has a `step`."""
        self._file.append((json.dumps({"kind": kind, **numbers}) + "\n").encode())
        self._file.flush()


def _lines_up_to(path: Path, step: int, epochs: int) -> Iterator[str]:
    """The lines up to `step` and `epochs`, without a last one that a kill cut short."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
            key, most = ("epoch", epochs) if entry["kind"] == "epoch" else ("step", step)
            if entry[key] <= most:
                yield line + "\n"
        except (ValueError, KeyError, TypeError):
            continue


def read_metrics(path: Path, kind: str) -> list[dict[str, float]]:
    """The entries of one `kind`, steps or epoch, in a metrics.jsonl, in order; [] where there is none."""
    lines = map(json.loads, _lines_up_to(path, sys.maxsize, sys.maxsize))
    return [line for line in lines if line["kind"] == kind]
