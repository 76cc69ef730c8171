"""python -m alexnet_repro.figures run=NAME [figures=[kernels,curves,labels,neighbours,embedding]]: the paper's
Figures 3 and 4 for a run, its learning curves, and its last hidden layer for TensorBoard's projector.

Figure 1, of several runs, is drawn by python -m alexnet_repro.figure1.
"""

from alexnet_repro.config import Figure1Config, FiguresConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("figures", FiguresConfig)  # first, as the imports below take seconds

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation.comparison import epochs_until
from alexnet_repro.evaluation.intervals import seed_interval
from alexnet_repro.report import run_figures
from alexnet_repro.report.figure_store import FigureStore
from alexnet_repro.report.plots import draw_training_errors, save
from alexnet_repro.report.report import REPORT, read_report, render
from alexnet_repro.runs.checkpoint import fingerprint
from alexnet_repro.runs.folder import RunFolder, make_writable, report_folder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.runs.trained import load_trained, prepared_for
from data_prep.common.errors import RequestError
from data_prep.common.text import percent
from data_prep.reader import SplitReader

_NEED_DATA = {"labels", "neighbours", "embedding"}


def figures(config: FiguresConfig) -> None:
    run = _Run(config)
    for name in config.figures:
        print(_DRAW[name](run), flush=True)
    folder = run.store.folder
    if (folder / REPORT).is_file() and read_report(folder)["fingerprint"] == run.store.drawn_from:
        print(f"report: {render(folder)}")


class _Run:
    """What the figures of a run are drawn from."""

    data: PreparedData  # only for figures that need it
    split: SplitReader

    def __init__(self, config: FiguresConfig) -> None:
        """RequestError, before anything is drawn, if one of the figures cannot be."""
        self.config = config
        self.folder = RunFolder(config.folder)
        out = Path(config.out) if config.out else report_folder(config.folder, config.split)
        self.trained = load_trained(config, config.checkpoint)
        if "kernels" in config.figures and not run_figures.kernels_can_be_shown(self.trained):
            channels = self.trained.checkpoint.mean_image.shape[-1]
            raise RequestError(f"figures: kernels of {channels} channels cannot be shown as colours; leave kernels out")
        if _NEED_DATA & set(config.figures):
            self.data = prepared_for(config.folder, config.data_path)
            self.trained.check_data(self.data, config.run)
            self.split = self.data.split(config.split)
        make_writable(out)
        self.store = FigureStore(out, fingerprint(self.trained.checkpoint))

    def chosen(self, count: int) -> SplitReader:
        """Images of the split, drawn by config.seed."""
        return self.split.subset(run_figures.choose(self.split.labels, count, self.config.seed))


def _labels(run: _Run) -> Path:
    images = run.chosen(run.config.pictures)
    kept = run_figures.classify(run.trained, images, run.config.views)
    return run_figures.add_labels(run.store, run.data.class_names, images, kept)


def _neighbours(run: _Run) -> Path:
    queries, count, size = run.chosen(run.config.queries), run.config.neighbours, run.config.batch_size
    return run_figures.add_neighbours(run.store, run.trained, run.data, queries, count, size)


def _embedding(run: _Run) -> str:
    images = run.chosen(run.config.embedded)
    tensorboard = Path(run.config.out) / run.folder.tensorboard.name if run.config.out else run.folder.tensorboard
    path = run_figures.write_embedding(tensorboard, run.trained, run.data, images, run.config.batch_size)
    return f"{path}: see it with make tensorboard, under Projector"


_DRAW: dict[str, Callable[[_Run], Path | str]] = {  # each returns where to look
    "kernels": lambda run: run_figures.add_kernels(run.store, run.trained),
    "curves": lambda run: run_figures.add_curves(run.store, run.folder, run.config.run),
    "labels": _labels,
    "neighbours": _neighbours,
    "embedding": _embedding,
}


def figure1(config: Figure1Config) -> None:
    """Prints after how many epochs each run reached the training error `config.error`, and draws the curves."""
    runs = {kind: _training_errors(Path(config.runs_dir), getattr(config, kind)) for kind in ("relu", "tanh")}
    error = f"{100 * config.error:g} %"
    reached: dict[str, dict[str, float]] = {"relu": {}, "tanh": {}}
    not_yet = []
    for kind, by_seed in runs.items():
        for seed, errors in by_seed.items():
            name = f"{kind}, seed {seed}"
            if (epochs := epochs_until(config.error, errors)) is None:
                not_yet.append(name)
                print(f"{name}: {percent(errors[-1])} after {len(errors)} epochs; not at {error} yet")
            else:
                reached[kind][seed] = epochs
                print(f"{name}: {error} after {epochs:.1f} epochs")
    if not_yet:  # a ratio of those alone that were quick would flatter one side
        print(f"no ratio before all are there: {', '.join(sorted(not_yet))}")
    else:
        relu, tanh = (sum(epochs.values()) / len(epochs) for epochs in reached.values())
        seeds = sorted(reached["relu"].keys() & reached["tanh"].keys())
        ratios = [reached["tanh"][seed] / reached["relu"][seed] for seed in seeds]
        paired = f" (by seed: {', '.join(f'{ratio:.1f}' for ratio in ratios)}{_interval(ratios)})" if ratios else ""
        print(f"mean: relu {relu:.1f}, tanh {tanh:.1f} epochs; ratio {tanh / relu:.1f}{paired}; the paper: 6")
    curves = {"ReLU": list(runs["relu"].values()), "tanh": list(runs["tanh"].values())}
    save(draw_training_errors(curves, config.error), Path(config.out))
    print(config.out)


def _interval(ratios: Sequence[float]) -> str:
    """Student's t interval of the mean over seeds, if there are several."""
    if len(ratios) < 2:
        return ""
    low, high = seed_interval(np.array(ratios))
    return f"; 95 % t interval of their mean {low:.2f} to {high:.2f}"


def _training_errors(runs_dir: Path, name: str) -> dict[str, list[float]]:
    """By seed, the errors of the epochs of each run NAME-SEED, as fractions. RequestError if there is no such run."""
    found = {}
    for folder in sorted(runs_dir.glob(f"{name}-*")):
        seed = folder.name.removeprefix(f"{name}-")
        if seed.isdigit() and (history := read_metrics(RunFolder(folder).metrics, "epoch")):
            found[seed] = [row["train_top1_error"] for row in history]
    if not found:
        raise RequestError(
            f"{runs_dir}: no run {name}-SEED with an epoch done; python -m alexnet_repro.train --multirun "
            f"experiment={name} seed=0,1,2 makes them"
        )
    return found


if __name__ == "__main__":
    main(jobs, figures)
