"""The rooms of the house lie on floors: a module imports from its own room or from the floors below.

docs/architecture.md draws them. Read from the sources, so that imports within functions count as well.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the ground up. Rooms of one line do not import each other.
FLOORS = [
    ["data_prep.common"],
    ["data_prep"],
    ["alexnet_repro.config"],
    ["alexnet_repro.model", "alexnet_repro.runtime", "alexnet_repro.monitor"],
    ["alexnet_repro.data", "alexnet_repro.weights"],
    ["alexnet_repro.runs"],
    ["alexnet_repro.paper"],
    ["alexnet_repro.evaluation"],
    ["alexnet_repro.training", "alexnet_repro.report"],
    ["alexnet_repro"],  # the commands
]
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """The modules of ours that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= modules else names | {str(node.module)}
    return found & modules


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    paths = {module_name(p): p for package in ("data_prep", "alexnet_repro") for p in (ROOT / package).rglob("*.py")}
    return {module: imports_of(path, set(paths)) - {module} for module, path in paths.items()}


def upward(imports: dict[str, set[str]]) -> list[str]:
    """Imports from a floor above, or from another room of the same floor."""
    wrong = []
    for module, imported in imports.items():
        for other in imported:
            mine, theirs = room_of(module), room_of(other)
            if mine != theirs and ROOMS[theirs] >= ROOMS[mine]:
                wrong.append(f"{module} imports {other}")
    return sorted(wrong)


def test_no_room_imports_from_above(imports: dict[str, set[str]]) -> None:
    assert upward(imports) == []


def test_no_two_files_import_each_other(imports: dict[str, set[str]]) -> None:
    """A package's __init__ gathers its files' names; its own files do not import it, so that there is no circle."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_an_arrow_turned_round_is_seen(imports: dict[str, set[str]]) -> None:
    assert upward({**imports, "alexnet_repro.model.layers": {"alexnet_repro.training.sgd"}}) == [
        "alexnet_repro.model.layers imports alexnet_repro.training.sgd"
    ]
    assert upward({**imports, "data_prep.common.files": {"data_prep.format"}}) != []
