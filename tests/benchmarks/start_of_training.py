"""python tests/benchmarks/start_of_training.py [--plot=FILE.png] runs/A runs/B ...: the step at which each run's loss
left ln(classes), and a plot of these steps against the number of classes.

From metrics.jsonl; train the runs with log_every=10. docs/claims.md has the commands of a measurement.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_repro.data import PreparedData
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.training.chance import LEFT, MEASURED
from data_prep.common.endings import run_and_exit


def main(folders: list[str], plot: Path | None = None) -> None:
    steps: dict[str, list[tuple[int, int]]] = defaultdict(list)  # by recipe: classes, step
    for folder in map(RunFolder, map(Path, folders)):
        config, entries = folder.config(), read_metrics(folder.metrics, "steps")
        classes = len(PreparedData(config.data.path).classes)
        left = step_that_left(entries, classes)
        last = int(entries[-1]["step"]) if entries else 0
        found = f"left ln({classes}) at step {left}" if left else f"still at ln({classes}) at step {last}"
        model, optim = config.model, config.optim
        print(
            f"{folder.path}: {found}; {model.name}, width {model.width:g}, input {model.input_size}, batch "
            f"{optim.batch_size}, rate {optim.learning_rate:g}, entries every {config.log_every} steps"
        )
        if left:
            steps[f"{model.name}, width {model.width:g}, input {model.input_size}"].append((classes, left))
    if plot:
        steps["paper, width 1, input 224"] += MEASURED.items()
        draw(steps, plot)


def step_that_left(entries: Sequence[Mapping[str, float]], classes: int, together: int = 3) -> int | None:
    """The first step at which the mean loss of `together` entries in a row is below LEFT times ln(classes); None if
    there is none. `entries`: of metrics.jsonl, of kind steps.
    """
    for end in range(together, len(entries) + 1):
        few = entries[end - together : end]
        if sum(entry["loss"] for entry in few) / together < LEFT * math.log(classes):
            return int(few[-1]["step"])
    return None


def draw(steps: dict[str, list[tuple[int, int]]], file: Path) -> None:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="classes", ylabel="step at which the loss left ln(classes)"
    )
    for recipe, points in sorted(steps.items()):
        few = sorted({classes for classes, _ in points})
        means = [sum(own) / len(own) for k in few if (own := [step for classes, step in points if classes == k])]
        (line,) = axes.plot(few, means, label=recipe)
        axes.plot(*zip(*points, strict=True), "o", color=line.get_color(), markersize=4)
    classes = sorted({classes for points in steps.values() for classes, _ in points})
    axes.set_xticks(classes, [str(k) for k in classes])
    axes.set_xticks([], minor=True)
    axes.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    plots = [argument.removeprefix("--plot=") for argument in arguments if argument.startswith("--plot=")]
    runs = [argument for argument in arguments if not argument.startswith("--")]
    run_and_exit(lambda: main(runs, Path(plots[-1]) if plots else None))
