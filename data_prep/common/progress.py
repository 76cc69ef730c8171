"""The bar that a person watches; where stderr is no terminal, plain lines now and then, as a log wants them."""

import sys
from typing import TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0
_LINE = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}{unit}, {rate_fmt}{postfix}, left {remaining}"


def progress_bar(
    total: int,
    what: str,
    *,
    done: int = 0,
    unit: str = " images",
    scaled: bool = False,
    stays: bool = True,
    seconds: float = _SECONDS_BETWEEN_LINES,
) -> "tqdm[None]":
    """tqdm's bar, of which `done` were there before. Unless it `stays`, it vanishes at the end.

    As lines: one every `seconds`; one at the start and the end, too, if it stays.
    """
    settings = {"total": total, "initial": done, "desc": what, "unit": unit, "unit_scale": scaled, "leave": stays}
    if sys.stderr.isatty():
        return tqdm(**settings, dynamic_ncols=True)
    return tqdm(
        **settings,
        file=_Lines(sys.stderr),
        bar_format=_LINE,
        miniters=1,  # look at the clock every time; tqdm's own guess would be of bars that move ten times a second
        mininterval=seconds,
        delay=0 if stays else seconds,
    )


class _Lines:
    """What tqdm draws over and over in one line, as lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text := text.strip():
            print(text, file=self._stream, flush=True)

    def flush(self) -> None:
        """Done with every line."""
