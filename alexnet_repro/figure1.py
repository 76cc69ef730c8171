"""python -m alexnet_repro.figure1 [runs_dir=runs]: Figure 1 from runs of experiment=cifar10_relu and cifar10_tanh.

The training error of an epoch is the mean over its batches, each before its update, as the code of 2012 printed it.
Where it passes the asked-for error is found on the straight line between two epochs.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from scipy import stats

from alexnet_repro.config import Figure1Config
from alexnet_repro.reporting.figures import save_training_errors
from alexnet_repro.reporting.metrics_log import read_metrics
from alexnet_repro.run_folder import RunFolder
from data_prep.command import RequestError, main

Errors = list[float]  # of the epochs, as fractions


def figure1(config: Figure1Config) -> None:
    runs = {kind: _errors(Path(config.runs_dir), kind, getattr(config, kind)) for kind in ("relu", "tanh")}
    reached: dict[str, dict[str, float]] = {}
    for kind, errors in runs.items():
        reached[kind] = {}
        for seed, error in errors.items():
            epochs = epochs_until(config.error, error)
            if epochs is None:
                print(f"{kind}, seed {seed}: {100 * error[-1]:.1f} % after {len(error)} epochs; not at "
                      f"{100 * config.error:g} % yet")  # fmt: skip
            else:
                reached[kind][seed] = epochs
                print(f"{kind}, seed {seed}: {100 * config.error:g} % after {epochs:.1f} epochs")
    short = [f"{kind}, seed {seed}" for kind in runs for seed in runs[kind].keys() - reached[kind].keys()]
    if short:  # a ratio of those alone that were quick would flatter one side
        print(f"no ratio before all are there: {', '.join(sorted(short))}")
    else:
        means = {kind: sum(found.values()) / len(found) for kind, found in reached.items()}
        both = sorted(reached["relu"].keys() & reached["tanh"].keys())
        ratios = [reached["tanh"][seed] / reached["relu"][seed] for seed in both]
        by_seed = f" (by seed: {', '.join(f'{ratio:.1f}' for ratio in ratios)}{_interval(ratios)})" if both else ""
        print(f"mean: relu {means['relu']:.1f}, tanh {means['tanh']:.1f} epochs; "
              f"ratio {means['tanh'] / means['relu']:.1f}{by_seed}; the paper: about 6")  # fmt: skip
    out = Path(config.out)
    save_training_errors({"ReLU": list(runs["relu"].values()), "tanh": list(runs["tanh"].values())}, config.error, out)
    print(out)


def epochs_until(error: float, errors: Sequence[float]) -> float | None:
    """After how many epochs the training error was `error`, between two epochs in a straight line; None if it was not.

    errors[i]: that of epoch i + 1.
    """
    if errors[0] <= error:
        return 1.0
    for epoch, (before, after) in enumerate(pairwise(errors), start=1):
        if after <= error:
            return epoch + (before - error) / (before - after)
    return None


def _interval(ratios: Sequence[float]) -> str:
    """Student's, of the mean over seeds, where there are several."""
    if len(ratios) < 2 or not (error := stats.sem(ratios)):
        return ""
    low, high = stats.t.interval(0.95, len(ratios) - 1, sum(ratios) / len(ratios), error)
    return f"; 95 % t interval {low:.2f} to {high:.2f}"


def _errors(runs_dir: Path, kind: str, name: str) -> dict[str, Errors]:
    """Of each run NAME-SEED, by its seed."""
    found = {}
    for folder in sorted(runs_dir.glob(f"{name}-*")):
        seed = folder.name.removeprefix(f"{name}-")
        if seed.isdigit() and (history := read_metrics(RunFolder(folder).metrics, "epoch")):
            found[seed] = [row["train_top1_error"] for row in history]
    if not found:
        raise RequestError(
            f"{runs_dir}: no run {name}-SEED with an epoch done; python -m alexnet_repro.train --multirun "
            f"experiment=cifar10_{kind} seed=0,1,2 makes them"
        )
    return found


if __name__ == "__main__":
    main("figure1", Figure1Config, figure1)
