"""How the schema refuses a value."""

from typing import Any

from data_prep.command import RequestError


def require(condition: bool, key: str, value: Any, constraint: str) -> None:
    if not condition:
        raise RequestError(f"{key}={value}: must be {constraint}")


def require_one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    require(value in choices, key, value, "one of " + ", ".join(choices))
