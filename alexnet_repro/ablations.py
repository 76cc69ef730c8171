"""python -m alexnet_repro.ablations runs_dir=runs/ablations baseline=NAME: what each change is worth, over seeds.

Takes every run in runs_dir that was evaluated; prints a table, and leaves it there as ablations.md and ablations.json.
"""

import json
from pathlib import Path

from alexnet_repro.config import AblationsConfig
from alexnet_repro.evaluation.evaluated import EvaluatedRun, NotEvaluated, load_evaluated, refuse_other_pictures
from alexnet_repro.evaluation.seed_groups import ablation_facts, grouped
from alexnet_repro.reporting.ablation_table import ablation_table
from alexnet_repro.run_folder import RunFolder
from data_prep.command import RequestError, main
from data_prep.format import write_atomically


def ablations(config: AblationsConfig) -> None:
    folder = Path(config.runs_dir)
    runs, lacking = _runs(config, folder)
    if not runs:
        missing = f"{', '.join(lacking)} have no predictions of split={config.split} views={config.views}"
        raise RequestError(f"runs_dir={folder}: {missing if lacking else 'no runs here'}; train runs there, and "
                           "evaluate them")  # fmt: skip
    refuse_other_pictures(runs)
    groups = grouped(runs)
    if config.baseline not in groups:
        raise RequestError(f"baseline={config.baseline}: no such group with predictions in {folder}; there are "
                           f"{', '.join(groups)}")  # fmt: skip
    facts = ablation_facts(config, groups, lacking)
    document, table = json.dumps(facts, indent=1), ablation_table(facts)
    for name, text in (("ablations.json", document + "\n"), ("ablations.md", table)):
        _write(folder / name, text)
    print(document if config.json else f"{table}\nwritten: {folder / 'ablations.md'}, {folder / 'ablations.json'}")


def _runs(config: AblationsConfig, folder: Path) -> tuple[list[EvaluatedRun], list[str]]:
    """The runs with predictions, in the order of their names, and the names of those without. Ensembles are no runs."""
    runs, lacking = [], []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not RunFolder(path).exists():
            continue
        try:
            runs.append(load_evaluated(config.runs_dir, path.name, config.split, config.views))
        except NotEvaluated:
            lacking.append(path.name)
    return runs, lacking


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    main("ablations", AblationsConfig, ablations, writes=lambda config: Path(config.runs_dir))
