"""One progress bar for both packages: tqdm's on a terminal, plain lines now and then in a log."""

import sys

from tqdm import tqdm

_LINE = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}{unit}, {rate_fmt}{postfix}, left {remaining}"


def progress_bar(
    total: int, what: str, *, done: int = 0, unit: str = " images", stays: bool = True, seconds: float = 30
) -> "tqdm[None]":
    """A bar over `total` units, `done` of which were finished before. Unless it `stays`, it is erased at the end.

    As lines: one every `seconds`; one at the start and the end, too, if it stays.
    """
    settings = {"total": total, "initial": done, "desc": what, "unit": unit, "unit_scale": unit == "B", "leave": stays}
    if sys.stderr.isatty():
        return tqdm(**settings, dynamic_ncols=True)
    return tqdm(
        **settings,
        file=_Lines(),
        bar_format=_LINE,
        miniters=1,  # look at the clock at every update; tqdm skips some, for a bar redrawn ten times a second
        mininterval=seconds,
        delay=0 if stays else seconds,
    )


class _Lines:
    """A stream for tqdm, which redraws one line again and again: each drawing becomes a line of its own."""

    def write(self, text: str) -> None:
        if text := text.strip():
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Every line was flushed as it was written."""
