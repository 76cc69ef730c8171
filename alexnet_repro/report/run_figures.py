"""What the figures of a trained run show. Each is added to its report folder, and enters the report from there."""

import contextlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_repro.data import PreparedData, views_of, whole_images
from alexnet_repro.data.loader import loading_for
from alexnet_repro.evaluation.inference import forward_for, last_hidden, predict
from alexnet_repro.evaluation.metrics import GUESSES
from alexnet_repro.evaluation.predictions import KeptView
from alexnet_repro.evaluation.retrieval import Nearest
from alexnet_repro.model.kernels import colourfulness
from alexnet_repro.report import plots
from alexnet_repro.report.figure_store import FigureStore
from alexnet_repro.report.plots import LabelledImage
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.runs.trained import TrainedModel
from data_prep.common.progress import progress_bar
from data_prep.common.text import short
from data_prep.format import as_image
from data_prep.reader import SplitReader

_EMBEDDING = "embedding"  # a folder of its own beneath the events of the training, which stay as they are
_SPRITE = 8192  # pixels: the projector takes no larger sheet of thumbnails
_THUMBNAIL, _NAME = 48, 60  # pixels, characters


def choose(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Images to show, drawn by `seed` and not by their looks: int64 [up to count], of as many classes as can be."""
    order = np.random.default_rng(seed).permutation(len(labels))
    _, first_of_class = np.unique(labels[order], return_index=True)  # in the order drawn, the first image of each class
    of_new_class = np.zeros(len(order), bool)
    of_new_class[first_of_class] = True
    return np.concatenate([order[of_new_class], order[~of_new_class]])[:count]


def add_curves(store: FigureStore, folder: RunFolder, run: str) -> Path:
    caption = (
        "Loss and errors after each epoch. Training: mean over the epoch, with augmentation and dropout; thin: the "
        "loss, a few steps at a time. Validation: the centre patch. Dotted: the learning rate changed to the value "
        "beside it."
    )
    history, steps = (read_metrics(folder.metrics, kind) for kind in ("epoch", "steps"))
    return store.add("curves", "Learning curves", caption, plots.draw_curves(history, steps, run))


def kernels_can_be_shown(trained: TrainedModel) -> bool:
    """Whether they are of three channels, shown as colours, or of one, shown as grey."""
    return trained.checkpoint.mean_image.shape[-1] in (1, 3)


def add_kernels(store: FigureStore, trained: TrainedModel) -> Path:
    measured = ", ".join(
        f"{mean:.2f} ± {deviation:.2f} in column {name}"
        for name, (mean, deviation) in colourfulness(trained.model).items()
    )
    count = sum(len(part.weight) for part in trained.model.conv1.parts())
    caption = (
        f"The {count} kernels of the first layer, one column's below the other's, each stretched to the full range by "
        "itself. Colourfulness (share of a kernel's squared weights off the grey axis; 0 is colour-blind, random "
        f"weights have 0.67), mean and standard deviation over the kernels: {measured}."
    )
    return store.add("kernels", "Figure 3: the first layer's kernels", caption, plots.draw_kernels(trained.model))


def classify(trained: TrainedModel, images: SplitReader, views: int) -> KeptView:
    """The most probable labels of a few images."""
    loading = loading_for(trained.runtime, trained.inputs.use_gpu)
    batches = whole_images(images, trained.image_size, len(images), loading)
    forward = forward_for(trained.model, trained.inputs, trained.runtime)
    probabilities = predict(forward, batches, views_of(views, trained.inputs.rule.margin))
    return KeptView.of(probabilities.average, probabilities.labels, GUESSES)


def add_labels(store: FigureStore, class_names: Sequence[str], images: SplitReader, kept: KeptView) -> Path:
    """Figure 4, left; `class_names`: in label order; `kept` has a row for each of `images`."""
    shown, guesses = _labelled_images(class_names, images), []
    for label, top, probabilities in zip(images.labels, kept.top, kept.probabilities, strict=True):
        best = zip(top[:GUESSES], probabilities[:GUESSES], strict=True)
        guesses.append([{"label": class_names[i], "probability": float(p), "right": bool(i == label)} for i, p in best])
    rows = [{**_described(store, image), "guesses": best} for image, best in zip(shown, guesses, strict=True)]
    caption = (
        f"{len(shown)} {images.folder.name} images, drawn at random, of different classes as far as there are; "
        "the right label above, the five most probable below, the right one in orange."
    )
    figure = plots.draw_labels(shown, guesses)
    return store.add("labels", "Figure 4, left: the most probable labels", caption, figure, rows)


def add_neighbours(
    store: FigureStore, trained: TrainedModel, data: PreparedData, queries: SplitReader, count: int, batch_size: int
) -> Path:
    """Figure 4, right: for each of `queries`, the `count` nearest images of the whole train split. (The script of 2012
    kept one neighbour from each file of training images; the text says nothing of that.)
    """
    train = data.split("train")
    nearest = Nearest(np.concatenate(list(last_hidden(trained, queries, batch_size))), count)
    with progress_bar(len(train), "training images", stays=False) as bar:
        for features in last_hidden(trained, train, batch_size):
            nearest.add(features)
            bar.update(len(features))
    shown: list[list[LabelledImage]] = []
    rows: list[dict[str, Any]] = []
    for query, numbers, distances in zip(
        _labelled_images(data.class_names, queries), nearest.numbers, nearest.distances, strict=True
    ):
        neighbours = _labelled_images(data.class_names, train.subset(numbers))
        shown.append([query, *neighbours])
        described = [
            {**_described(store, other), "distance": float(distance), "same": other.label == query.label}
            for other, distance in zip(neighbours, distances, strict=True)
        ]
        rows.append({**_described(store, query), "neighbours": described})
    caption = (
        f"First in each row a {queries.folder.name} image, then the {count} of all {len(train):,} training "
        "images whose last hidden layer is nearest to its own in Euclidean distance (centre patch); other classes than "
        "its own in blue."
    )
    return store.add(
        "neighbours", "Figure 4, right: the nearest training images", caption, plots.draw_neighbours(shown), rows
    )


def write_embedding(
    tensorboard: Path, trained: TrainedModel, data: PreparedData, images: SplitReader, batch_size: int
) -> Path:
    """The last hidden layer of `images` for TensorBoard's projector. Replaces what an earlier call wrote."""
    from torch.utils.tensorboard import SummaryWriter

    features = np.concatenate(list(last_hidden(trained, images, batch_size)))
    labelled = _labelled_images(data.class_names, images)
    side = min(_THUMBNAIL, _SPRITE // int(np.ceil(np.sqrt(len(labelled)))))
    small = [np.asarray(as_image(one.pixels).convert("RGB").resize((side, side))) for one in labelled]
    thumbnails = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
    labels = [short(one.label, _NAME) for one in labelled]
    folder = tensorboard / _EMBEDDING
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.closing(SummaryWriter(str(folder))) as writer, contextlib.redirect_stdout(io.StringIO()):
        writer.add_embedding(features, labels, thumbnails, tag="last hidden layer")
    return folder


def _labelled_images(class_names: Sequence[str], images: SplitReader) -> list[LabelledImage]:
    shown = []
    for number, name in enumerate(images.names()):
        pixels, label = images[number]
        shown.append(LabelledImage(str(name), pixels, class_names[label] if label >= 0 else "unknown"))
    return shown


def _described(store: FigureStore, image: LabelledImage) -> dict[str, str]:
    return {"picture": store.thumbnail(image.name, image.pixels), "name": image.name, "label": image.label}
