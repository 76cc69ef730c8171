"""python -m alexnet_repro.figures run=NAME [figures=[kernels,curves,labels,neighbours,embedding]]: the paper's
Figures 3 and 4 for a run, its learning curves, and its last hidden layer for TensorBoard's projector.
"""

from functools import cached_property

import numpy as np

from alexnet_repro import runtime
from alexnet_repro.config import FiguresConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation import illustrations
from alexnet_repro.evaluation.split_pass import chosen, fingerprint
from alexnet_repro.reporting.embedding import save_embedding
from alexnet_repro.reporting.figure4 import choose
from alexnet_repro.reporting.figure_store import FigureStore
from alexnet_repro.reporting.report import FACTS, read_facts, render, report_folder
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.trained import load_trained, prepared_for
from data_prep.command import RequestError, main
from data_prep.reader import SplitReader

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
        self.workers = runtime.loader_workers(config.runtime)

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
        part = chosen(self.reader, numbers)
        features = illustrations.hidden_of(self.trained, self.data, part, self.config.batch_size, self.workers)
        pictures = illustrations.PictureShelf(self.data, self.reader).take(numbers)
        path = save_embedding(
            self.folder.tensorboard,
            np.concatenate(list(features)),
            [picture.pixels for picture in pictures],
            [picture.label for picture in pictures],
        )
        return f"{path}: see it with make tensorboard, under Projector"


if __name__ == "__main__":
    main("figures", FiguresConfig, figures)
