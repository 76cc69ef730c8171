"""`make mutants`: single faults are put into the code, one at a time, and the tests that reach it must notice.

    python tests/mutants.py [FILE ...]            the faults (mutants) of these files, by default of all that
                                                  pyproject.toml names; passes over what was tried before, so that a
                                                  stopped run goes on
    python tests/mutants.py --again FILE ...      those that no test noticed, once more: after tests were added
    python tests/mutants.py --survivors FILE ...  what no test noticed, as differences, and the share found by file

mutmut makes the mutants, finds out which tests reach a function, and keeps the outcome in mutants/. What it lacks is in
this file: a choice of files that goes on where it was stopped, a table by file, and, as hooks of pytest, that a test
reaches what the fixtures of its module have called; mutmut would note that for the first test that asked for them.
"""

import fnmatch
import os
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a thread pool does not survive a fork

import mutmut.__main__ as program
import pytest
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.workers.isolation import ForkRunner

FOUND = ("killed", "timeout", "segfault")  # by a test that failed, never ended, or broke off

_called: dict[int, set[str]] = {}  # by fixture of a module
_KEPT = Path("kept").absolute()  # the sample, drawn and prepared once for all faults that are not of data_prep


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None, Any, Any]:
    name, fault = fixturedef.argname, os.environ["MUTANT_UNDER_TEST"]
    if name in ("archives", "prepared") and (name == "archives" or fault.startswith("alexnet_repro.")):
        make = fixturedef.func
        fixturedef.func = lambda **arguments: _kept(name, lambda: make(**arguments))  # type: ignore[misc]
    noted = state()._stats
    before = set(noted)
    noted.clear()
    try:
        return (yield)
    finally:
        if fixturedef.scope == "module":
            _called[id(fixturedef)] = set(noted)
        noted |= before


def _kept(name: str, make: Callable[[], Path]) -> Path:
    if not (_KEPT / name).exists():
        shutil.copytree(make(), _KEPT / name)
    return _KEPT / name


def pytest_runtest_call(item: Any) -> None:
    for fixtures in item._fixtureinfo.name2fixturedefs.values():
        for fixture in fixtures:
            state()._stats.update(_called.get(id(fixture), ()))


def status(exit_code: int | None) -> str:
    return str(status_by_exit_code[exit_code])


def names_in(files: list[str]) -> list[str]:
    """Patterns of mutmut's names, alexnet_repro.data.views.x_views_of__mutmut_1, for files or folders."""
    return [file.removesuffix(".py").strip("/").replace("/", ".") + ".*" for file in files]


def run(files: list[str], again: bool) -> None:
    collect = program.collect_source_file_mutation_data

    def to_do(*, mutant_names: list[str]) -> Any:
        mutants, by_path = collect(mutant_names=mutant_names)
        wanted = [m for m in mutants if m[2] is None or (again and status(m[2]) not in FOUND)]
        return wanted, by_path

    program.collect_source_file_mutation_data = to_do
    # The tests have passed when mutmut noted what they reach, and need not before each start.
    ForkRunner.run_clean_tests = lambda self, tests: 0
    program._run(names_in(files) or ["*"], 1)


def table(files: list[str], survivors: bool) -> None:
    mutants, by_path = program.collect_source_file_mutation_data(mutant_names=())
    if survivors:
        for _, name, exit_code in mutants:
            wanted = not files or any(fnmatch.fnmatch(name, pattern) for pattern in names_in(files))
            if wanted and exit_code is not None and status(exit_code) not in FOUND:
                print(f"# {name}: {status(exit_code)}\n{get_diff_for_mutant(name)}")
    print(f"{'file':45} {'mutants':>8} {'tried':>6} {'found':>6}  share")
    for path, data in sorted(by_path.items()):
        outcomes = [status(exit_code) for exit_code in data.exit_code_by_key.values() if exit_code is not None]
        found = sum(outcome in FOUND for outcome in outcomes)
        share = f"{100 * found / len(outcomes):.1f} %" if outcomes else "-"
        print(f"{path:45} {len(data.exit_code_by_key):8} {len(outcomes):6} {found:6}  {share:>7}")


if __name__ == "__main__":
    options = {argument for argument in sys.argv[1:] if argument.startswith("--")}
    chosen = [argument for argument in sys.argv[1:] if argument not in options]
    if unknown := options - {"--again", "--survivors"}:
        sys.exit(f"{sys.argv[0]}: {unknown.pop()}: no such option\n{__doc__}")
    if "--survivors" in options:
        table(chosen, survivors=True)
    else:
        run(chosen, "--again" in options)
        table(chosen, survivors=False)
