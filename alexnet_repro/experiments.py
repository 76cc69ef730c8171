"""What the files of conf/experiment say of themselves in their heads, line by line as `# Key: text`."""

import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.command import conf_folder

_KEYS = ("claim", "section", "command", "expected", "cost", "needs")
_FIRST = "# @package _global_"
_SEED = "${seed}"


@dataclass(frozen=True)
class Experiment:
    """One claim of the paper, or one use of the machinery, that a command tries."""

    name: str
    claim: str
    section: str  # of the paper, or "none"
    command: str  # a whole command line
    expected: str
    cost: str
    needs: str  # the data, and what else
    run: str  # the run's name, with ${seed} where it has one
    then: str = ""  # command lines that follow
    seen: str = ""  # what came of it for this project, and where that stands
    members: str = "1"  # of the ensemble that it is about

    def runs_in(self, runs_dir: Path) -> list[Path]:
        """The folders of its runs by seed, or of its ensembles."""
        one = re.escape(self.run).replace(re.escape(_SEED), "[0-9]+")
        pattern = re.compile(r"\+".join([one] * int(self.members)))
        found = [path for path in runs_dir.iterdir() if pattern.fullmatch(path.name)] if runs_dir.is_dir() else []
        return sorted(found, key=lambda path: [(len(part), part) for part in re.split("[+-]", path.name)])


def experiments() -> list[Experiment]:
    """All of them, in the order of the paper's sections."""
    found = [_read(path) for path in sorted((conf_folder() / "experiment").glob("*.yaml"))]
    return sorted(found, key=lambda experiment: (experiment.section == "none", experiment.section))


def _read(path: Path) -> Experiment:
    """ValueError if the head lacks a key: a file of this project that is not as the others are."""
    text = path.read_text(encoding="utf-8")
    head = text.partition("\ndefaults:")[0]
    fields: dict[str, str] = {}
    key = ""
    for line in head.splitlines():
        if match := re.fullmatch(r"# ([A-Z][a-z ]*): (.*)", line):
            key = match[1].lower()
            fields[key] = match[2]
        elif line.startswith("#   ") and key:
            fields[key] += " " + line[1:].strip()
    run = re.search(r"^run: (.+)$", text, re.MULTILINE)
    if missing := [key for key in _KEYS if not fields.get(key)]:
        raise ValueError(f"{path}: its head lacks {', '.join(missing)}")
    if not text.startswith(_FIRST) or run is None:
        raise ValueError(f"{path}: must begin with {_FIRST!r} and set run")
    known = {key: fields[key] for key in (*_KEYS, "then", "seen", "members") if key in fields}
    return Experiment(name=path.stem, run=run[1], **known)
