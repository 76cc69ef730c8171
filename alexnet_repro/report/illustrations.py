"""Draws the figures of a trained run into its report folder."""

import contextlib
import io
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from alexnet_repro.data import Batch, Loading, PreparedData, views_of, whole_images
from alexnet_repro.evaluation.inference import forward_for, last_hidden, predict
from alexnet_repro.evaluation.predictions import KeptView
from alexnet_repro.evaluation.retrieval import Nearest
from alexnet_repro.model.kernels import colourfulness
from alexnet_repro.report.drawings import (
    Alike,
    Judged,
    Picture,
    save_curves,
    save_kernels,
    save_labels,
    save_neighbours,
)
from alexnet_repro.report.figure_store import FigureStore
from alexnet_repro.runs.folder import LAST, RunFolder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.runs.trained import TrainedModel
from data_prep.common.progress import progress_bar
from data_prep.common.text import short
from data_prep.preview import as_image
from data_prep.reader import SplitReader

FOLDER = "embedding"  # a run of its own beneath the training's events, which stay as they are
_SPRITE = 8192  # pixels: the projector takes no larger sheet of thumbnails
_THUMBNAIL, _NAME = 48, 60

_GUESSES = 5


def draw_curves(store: FigureStore, folder: RunFolder, run: str) -> Path:
    caption = (
        "Loss and errors after each epoch. Training: mean over the epoch, with augmentation and dropout; thin: the "
        "loss, a few steps at a time. Validation: the centre patch. Dotted: the learning rate changed to the value "
        "beside it."
    )
    history, steps = folder.checkpoint(LAST).history, read_metrics(folder.metrics, "steps")
    return store.add("curves", "Learning curves", caption, lambda path: save_curves(history, steps, path, run))


def kernels_can_be_shown(trained: TrainedModel) -> bool:
    """As colours, or as grey."""
    return trained.checkpoint.mean_image.shape[-1] in (1, 3)


def draw_kernels(store: FigureStore, trained: TrainedModel) -> Path:
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
    return store.add(
        "kernels", "Figure 3: what the first layer looks for", caption, lambda path: save_kernels(trained.model, path)
    )


class PictureShelf:
    """Pictures of one split, by number, as the figures want them."""

    def __init__(self, data: PreparedData, reader: SplitReader) -> None:
        self._words, self._reader = data.classes, reader

    def take(self, numbers: Iterable[int]) -> list[Picture]:
        wanted = [int(number) for number in numbers]
        names = self._reader.subset(np.array(wanted, np.int64)).names()
        pictures = []
        for number, name in zip(wanted, names, strict=True):
            pixels, label = self._reader[number]
            pictures.append(Picture(str(name), pixels, self._words[label] if label >= 0 else "unknown"))
        return pictures


def draw_labels(
    store: FigureStore, data: PreparedData, reader: SplitReader, numbers: np.ndarray, kept: KeptView
) -> Path:
    """Figure 4, left, of the pictures `numbers`; `kept` has a row for each of them."""
    judged = []
    rows = []
    for i, picture in enumerate(PictureShelf(data, reader).take(numbers)):
        top = kept.top[i][:_GUESSES]
        right = [bool(label == reader.labels[numbers[i]]) for label in top]
        guesses, probabilities = [data.classes[label] for label in top], [float(p) for p in kept.probabilities[i]]
        judged.append(Judged(picture, guesses, probabilities[: len(guesses)], right))
        found = [
            {"label": guess, "probability": p, "right": is_right}
            for guess, p, is_right in zip(guesses, probabilities, right, strict=False)
        ]
        rows.append({**_described(store, picture), "guesses": found})
    caption = (
        f"{len(judged)} {reader.folder.name} pictures, drawn at random, of different classes as far as there are; the "
        "right label above, the five most probable below, the right one in orange."
    )
    return store.add("labels", "Figure 4, left: what it says", caption, lambda path: save_labels(judged, path), rows)


def judge(trained: TrainedModel, data: PreparedData, reader: SplitReader, numbers: np.ndarray, views: int) -> KeptView:
    """What the network says of the pictures `numbers`."""
    batches = whole_images(reader.subset(numbers), data.image_size, len(numbers), Loading(0, trained.inputs.use_gpu))
    predictions = predict(
        forward_for(trained.model, trained.inputs, trained.runtime), batches, views_of(views, trained.margin)
    )
    return KeptView.of(predictions.average, predictions.labels, _GUESSES)


def draw_neighbours(
    store: FigureStore,
    trained: TrainedModel,
    data: PreparedData,
    reader: SplitReader,
    numbers: np.ndarray,
    count: int,
    batch_size: int,
    workers: int,
) -> Path:
    """Figure 4, right: the `count` nearest of the whole train split for each of the pictures `numbers` of `reader`."""
    queries = hidden_of(trained, data, reader.subset(numbers), batch_size, 0)
    train = data.split("train")
    nearest = Nearest(np.concatenate(list(queries)), count)
    with progress_bar(len(train), "training pictures", stays=False) as bar:
        for features in hidden_of(trained, data, train, batch_size, workers):
            nearest.add(features)
            bar.update(len(features))
    found, rows = [], []
    shelf = PictureShelf(data, train)
    asked = PictureShelf(data, reader).take(numbers)
    for picture, neighbours, distances in zip(asked, nearest.numbers, nearest.distances, strict=True):
        alike = shelf.take(neighbours)
        found.append(Alike(picture, alike, list(distances)))
        described = [
            {**_described(store, other), "distance": float(distance), "same": other.label == picture.label}
            for other, distance in zip(alike, distances, strict=True)
        ]
        rows.append({**_described(store, picture), "neighbours": described})
    caption = (
        f"First in each row a {reader.folder.name} picture, then the {count} of all {len(train):,} training pictures "
        "whose last hidden layer is nearest to its own in Euclidean distance (centre patch); other classes than its "
        "own in blue."
    )
    return store.add(
        "neighbours", "Figure 4, right: what looks alike to it", caption,
        lambda path: save_neighbours(found, path), rows,
    )  # fmt: skip


def hidden_of(
    trained: TrainedModel, data: PreparedData, reader: SplitReader, batch_size: int, workers: int
) -> Iterable[np.ndarray]:
    """The last hidden layer of every picture's centre patch, batch by batch: float32 [n, D]."""
    batches: Iterable[Batch] = whole_images(
        reader, data.image_size, batch_size, Loading(workers, trained.inputs.use_gpu)
    )
    (centre,) = views_of(1, trained.margin)
    return last_hidden(trained.model, batches, centre, trained.inputs, trained.runtime.precision)


def _described(store: FigureStore, picture: Picture) -> dict[str, str]:
    return {"picture": store.thumbnail(picture.name, picture.pixels), "name": picture.name, "label": picture.label}


def save_embedding(tensorboard: Path, features: np.ndarray, pictures: list[np.ndarray], labels: list[str]) -> Path:
    """float32 [N, D], uint8 [S, S, C] each, the class of each in words. Replaces what an earlier call wrote."""
    folder = tensorboard / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    across = int(np.ceil(np.sqrt(len(pictures))))
    side = min(_THUMBNAIL, _SPRITE // across)
    small = np.stack([np.asarray(as_image(p).convert("RGB").resize((side, side))) for p in pictures])
    images = torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255
    with contextlib.closing(SummaryWriter(str(folder))) as writer, contextlib.redirect_stdout(io.StringIO()):
        writer.add_embedding(features, [short(label, _NAME) for label in labels], images, tag="last hidden layer")
    return folder
