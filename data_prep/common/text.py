"""Text as people read it: names and errors that came from elsewhere (classes, files), fractions and times."""

import unicodedata
from collections.abc import Sequence


def encodable(name: str) -> str:
    """A file's name, with the bytes of it that are not UTF-8 as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """One line without anything that steers a terminal: control characters and undecodable bytes as escapes."""
    return "".join(
        char if unicodedata.category(char)[0] not in "CZ" or char == " " else char.encode("unicode_escape").decode()
        for char in encodable(text)
    )


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def few(names: Sequence[str], most: int) -> str:
    """The first of them, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def short(words: str, width: int) -> str:
    """The first of a class's comma-separated names, cut off at `width` characters."""
    first = printable(" ".join(words.split()).split(",")[0].strip()) or "?"
    return first if len(first) <= width else first[: width - 1].rstrip() + "…"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def percent_interval(ends: Sequence[float]) -> str:
    """An interval of a fraction, in percent without the unit: 40.7–41.6."""
    low, high = ends
    return f"{100 * low:.1f}–{100 * high:.1f}"


def points(fraction: float, digits: int = 1) -> str:
    """A difference, in percentage points."""
    return f"{100 * fraction:+.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min, 5 d 03 h."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24:02d} h"
