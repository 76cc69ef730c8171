"""Names that came from elsewhere - classes, files - on their way to a screen."""

import unicodedata
from os import fsencode


def printable(text: str) -> str:
    """One line without anything that steers a terminal: control characters and undecodable bytes as escapes."""
    decodable = fsencode(text).decode("utf-8", "backslashreplace") if _has_surrogates(text) else text
    return "".join(
        char if unicodedata.category(char)[0] not in "CZ" or char == " " else char.encode("unicode_escape").decode()
        for char in decodable
    )


def short(words: str, width: int) -> str:
    """The first of a class's comma-separated names, cut off at `width` characters."""
    first = printable(" ".join(words.split()).split(",")[0].strip()) or "?"
    return first if len(first) <= width else first[: width - 1].rstrip() + "…"


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)
