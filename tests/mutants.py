"""Hooks for `make mutants`: a test reaches what the fixtures of its module have called, too.

mutmut notes which functions a test calls, and later tries the faults in them on that test alone. What a fixture of a
whole module calls it would note for the first test that asked for it.
"""

from collections.abc import Generator
from typing import Any

import pytest
from mutmut.state import state

_called: dict[int, set[str]] = {}  # by fixture


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None, Any, Any]:
    noted = state()._stats
    before = set(noted)
    noted.clear()
    try:
        return (yield)
    finally:
        if fixturedef.scope == "module":
            _called[id(fixturedef)] = set(noted)
        noted |= before


def pytest_runtest_call(item: Any) -> None:
    for fixtures in item._fixtureinfo.name2fixturedefs.values():
        for fixture in fixtures:
            state()._stats.update(_called.get(id(fixture), ()))
