"""python -m alexnet_repro.figures run=NAME [figures=[kernels,curves,labels,neighbours,embedding]]: the paper's
Figures 3 and 4 for a run, its learning curves, and its last hidden layer for TensorBoard's projector.
"""

from alexnet_repro.config import Figure1Config, FiguresConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("figures", FiguresConfig)  # first, as the imports below take seconds

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import stats

from alexnet_repro.data import PreparedData
from alexnet_repro.data.loader import loader_workers
from alexnet_repro.report import illustrations
from alexnet_repro.report.drawings import choose, save_training_errors
from alexnet_repro.report.figure_store import FigureStore
from alexnet_repro.report.illustrations import save_embedding
from alexnet_repro.report.report import FACTS, read_facts, render
from alexnet_repro.runs.checkpoint import fingerprint
from alexnet_repro.runs.folder import RunFolder, report_folder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.runs.trained import load_trained, prepared_for
from data_prep.common.errors import RequestError
from data_prep.reader import SplitReader

Errors = list[float]  # of the epochs, as fractions
_NEED_DATA = {"labels", "neighbours", "embedding"}


def figures(config: FiguresConfig) -> None:
    drawing = _Drawing(config)
    drawing.check()
    for name in config.figures:
        print(getattr(drawing, name)(), flush=True)
    folder = drawing.store.folder
    if (folder / FACTS).is_file() and read_facts(folder)["fingerprint"] == drawing.store.drawn_from:
        print(f"report: {render(folder)}")


class _Drawing:
    """One method a figure; each returns where to look."""

    def __init__(self, config: FiguresConfig) -> None:
        self.config = config
        self.folder = RunFolder(config.folder)
        self.trained = load_trained(config, config.checkpoint)
        self.workers = loader_workers(config.runtime)

    def check(self) -> None:
        """RequestError before anything is drawn, if something that was asked for cannot be."""
        if "kernels" in self.config.figures and not illustrations.kernels_can_be_shown(self.trained):
            channels = self.trained.checkpoint.mean_image.shape[-1]
            raise RequestError(f"figures: kernels of {channels} channels cannot be shown as colours; leave kernels out")
        if _NEED_DATA & set(self.config.figures):
            self.trained.check_data(self.data, self.config.run)
            assert self.reader is not None

    @cached_property
    def store(self) -> FigureStore:
        return FigureStore(report_folder(self.config.folder, self.config.split), fingerprint(self.trained.checkpoint))

    @cached_property
    def data(self) -> PreparedData:
        return prepared_for(self.folder.config(), self.config.data_path)

    @cached_property
    def reader(self) -> SplitReader:
        return self.data.split(self.config.split)

    def numbers(self, count: int) -> np.ndarray:
        return choose(self.reader.labels, count, self.config.seed)

    def kernels(self) -> str:
        return str(illustrations.draw_kernels(self.store, self.trained))

    def curves(self) -> str:
        return str(illustrations.draw_curves(self.store, self.folder, self.config.run))

    def labels(self) -> str:
        numbers = self.numbers(self.config.pictures)
        kept = illustrations.judge(self.trained, self.data, self.reader, numbers, self.config.views)
        return str(illustrations.draw_labels(self.store, self.data, self.reader, numbers, kept))

    def neighbours(self) -> str:
        numbers = self.numbers(self.config.queries)
        count, size = self.config.neighbours, self.config.batch_size
        path = illustrations.draw_neighbours(
            self.store, self.trained, self.data, self.reader, numbers, count, size, self.workers
        )
        return str(path)

    def embedding(self) -> str:
        numbers = self.numbers(self.config.embedded)
        part = self.reader.subset(numbers)
        features = illustrations.hidden_of(self.trained, self.data, part, self.config.batch_size, self.workers)
        pictures = illustrations.PictureShelf(self.data, self.reader).take(numbers)
        path = save_embedding(
            self.folder.tensorboard,
            np.concatenate(list(features)),
            [picture.pixels for picture in pictures],
            [picture.label for picture in pictures],
        )
        return f"{path}: see it with make tensorboard, under Projector"


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
    main(jobs, figures)
