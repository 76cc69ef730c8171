"""`make mutants`: single faults are put into the code, one at a time, and the tests that reach it must notice.

    python tests/mutants.py [FILE ...]            the faults (mutants) of these files, by default of all that
                                                  pyproject.toml names; passes over what was tried before, so that a
                                                  stopped run goes on
    python tests/mutants.py --sample=40 FILE ...  of each file so many, drawn by chance; some may be tried already
    python tests/mutants.py --again FILE ...      those that no test noticed, once more: after tests were added
    python tests/mutants.py --survivors FILE ...  what no test noticed, as differences, and the share found by file

mutmut makes the mutants, finds out which tests reach a function, and keeps the outcome in mutants/. It notes which
functions a test calls; what a module's fixture calls it notes only for the first test that uses the fixture, and the
fixture's time for none: the two pytest hooks below note both for every such test. The rest of this file chooses files
and mutants, so that a stopped run goes on, and prints a table by file.
"""

import fnmatch
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a thread pool does not survive a fork

import mutmut.__main__ as program
import pytest
import yaml
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.workers.isolation import ForkRunner

FOUND = ("killed", "timeout", "segfault")  # by a test that failed, never ended, or broke off

_called: dict[int, tuple[set[str], float]] = {}  # by fixture of a module, with its seconds


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None, Any, Any]:
    noted, began = state()._stats, time.monotonic()
    before = set(noted)
    noted.clear()
    try:
        return (yield)
    finally:
        if fixturedef.scope == "module":
            _called[id(fixturedef)] = set(noted), time.monotonic() - began
        noted |= before


def pytest_runtest_call(item: Any) -> None:
    for fixtures in item._fixtureinfo.name2fixturedefs.values():
        for fixture in fixtures:
            functions, seconds = _called.get(id(fixture), ((), 0.0))
            state()._stats.update(functions)
            state().duration_by_test[item.nodeid] += seconds  # mutmut tries the fastest tests first


def status(exit_code: int | None) -> str:
    return str(status_by_exit_code[exit_code])


def names_in(files: list[str]) -> list[str]:
    """Patterns of mutmut's names, alexnet_repro.data.views.x_views_of__mutmut_1, for files or folders."""
    return [file.removesuffix(".py").strip("/").replace("/", ".") + ".*" for file in files]


def drawn(mutants: list[Any], most: int) -> list[Any]:
    """Of each file at most so many, always the same ones."""
    by_file: dict[Path, list[Any]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant[0].path, []).append(mutant)
    return [m for listed in by_file.values() for m in random.Random(0).sample(listed, min(most, len(listed)))]


def run(files: list[str], again: bool, sample: int | None) -> None:
    collect = program.collect_source_file_mutation_data

    def to_do(*, mutant_names: list[str]) -> Any:
        mutants, by_path = collect(mutant_names=mutant_names)
        chosen = mutants if sample is None else drawn(mutants, sample)
        wanted = [m for m in chosen if m[2] is None or (again and status(m[2]) not in FOUND)]
        return [m for m in wanted if not is_equivalent(change_of(m[1]), known)], by_path

    known = equivalents()

    def quickest(name: str) -> float:
        tests = state().tests_by_mangled_function_name.get(name.partition("__mutmut_")[0], set())
        return min((state().duration_by_test[test] for test in tests), default=0.0)

    program.collect_source_file_mutation_data = to_do
    program.estimated_worst_case_time = quickest  # by which it sorts: most are found by the first test
    # The tests have passed when mutmut noted what they reach, and need not before each start.
    ForkRunner.run_clean_tests = lambda self, tests: 0
    program._run(names_in(files) or ["*"], 1)


def change_of(name: str) -> tuple[str, str]:
    """The lines that a mutant takes away and those it adds, without indentation."""
    lines = get_diff_for_mutant(name).splitlines()[2:]
    before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return before, after


def equivalents() -> dict[tuple[str, str], str]:
    """Mutants that change nothing that anyone sees, by what they change, and why: equivalent_mutants.yaml."""
    listed = yaml.safe_load(Path(__file__).with_name("equivalent_mutants.yaml").read_text())
    return {(entry["was"], now): entry["why"] for entry in listed for now in entry["now"]}


def is_equivalent(change: tuple[str, str], known: dict[tuple[str, str], str]) -> bool:
    before, after = (re.sub(r",? ?(strict|non_blocking)=(True|False|None)|, (?=\))", "", line) for line in change)
    # zip's `strict` asserts what no input of ours breaks; `non_blocking` changes how long the host waits.
    return before == after or change in known


def table(files: list[str], survivors: bool) -> None:
    """Of each file: its mutants, those known to be equivalent, and of the others those tried and found."""
    mutants, by_path = program.collect_source_file_mutation_data(mutant_names=())
    known, equivalent, tried_equivalents = equivalents(), Counter[str](), Counter[str]()
    for data, name, exit_code in mutants:
        chosen = not files or any(fnmatch.fnmatch(name, pattern) for pattern in names_in(files))
        if not chosen or status(exit_code) in FOUND:
            continue
        if is_equivalent(change_of(name), known):
            equivalent[str(data.path)] += 1
            tried_equivalents[str(data.path)] += exit_code is not None
        elif survivors and exit_code is not None:
            print(f"# {name}: {status(exit_code)}\n- {change_of(name)[0]}\n+ {change_of(name)[1]}")
    print(f"{'file':45} {'mutants':>8} {'equivalent':>10} {'tried':>6} {'found':>6}  share")
    for path, data in sorted(by_path.items()):
        outcomes = [status(exit_code) for exit_code in data.exit_code_by_key.values()]
        found, same, untried = sum(o in FOUND for o in outcomes), equivalent[path], outcomes.count("not checked")
        tried = len(outcomes) - untried - tried_equivalents[path]
        if tried and (not files or any(Path(path).is_relative_to(file) for file in files)):
            print(f"{path:45} {len(outcomes):8} {same:10} {tried:6} {found:6}  {100 * found / tried:5.1f} %")


if __name__ == "__main__":
    options = {argument for argument in sys.argv[1:] if argument.startswith("--")}
    chosen = [argument for argument in sys.argv[1:] if argument not in options]
    sample = next((int(option.removeprefix("--sample=")) for option in options if option.startswith("--sample=")), None)
    if unknown := {option for option in options if not option.startswith("--sample=")} - {"--again", "--survivors"}:
        sys.exit(f"{sys.argv[0]}: {unknown.pop()}: no such option\n{__doc__}")
    if "--survivors" in options:
        table(chosen, survivors=True)
    else:
        run(chosen, "--again" in options, sample)
        table(chosen, survivors=False)
