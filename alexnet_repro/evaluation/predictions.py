"""predictions.npz: what a run predicted for every image of a split, kept so that no later step needs a second pass.

    about                json: runs, their checkpoints, what each was trained on; data, split, views
    names                text [N]: split/key, the image's name in the prepared data set
    labels               int64 [N]; -1 where the split has no labels
    classes, words       text [K]: wnids and names of the classes, in label order
    viewsV.top           int32 [N, kept]: the most probable labels, most probable first; of equals the lower label
    viewsV.probabilities float32 [N, kept]: of these labels
    viewsV.rank          int64 [N]: how many classes are more probable than the right one
    viewsV.own           float32 [N]: the probability of the right one

V is 1 and the number of views asked for, one of VIEWS. With all classes kept, the rows are the whole softmax output.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_repro.config.commands import VIEWS
from alexnet_repro.evaluation.metrics import error_rates, label_probabilities, label_ranks
from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically

FILE = "predictions.npz"
_ROWS = 4096  # sorted at a time, which bounds the memory
_KEYS = {"top": "top", "probabilities": "probabilities", "rank": "rank", "label_probability": "own"}  # in the file


@dataclass
class KeptView:
    """The arrays of one number of views, as above. Without labels `rank` and `label_probability` mean nothing."""

    top: np.ndarray
    probabilities: np.ndarray
    rank: np.ndarray
    label_probability: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray, keep: int) -> "KeptView":
        """float32 [N, K], int64 [N]; the `keep` most probable of K are kept."""
        images, keep = len(labels), min(keep, probabilities.shape[1])
        top, kept = np.empty((images, keep), np.int32), np.empty((images, keep), np.float32)
        for start in range(0, images, _ROWS):
            rows = slice(start, start + _ROWS)
            top[rows] = np.argsort(-probabilities[rows], axis=1, kind="stable")[:, :keep]
            kept[rows] = np.take_along_axis(probabilities[rows], top[rows], axis=1)
        return cls(top, kept, label_ranks(probabilities, labels), label_probabilities(probabilities, labels))

    def subset(self, numbers: np.ndarray) -> "KeptView":
        """The rows of these images, in this order: int [n]."""
        return KeptView(**{name: array[numbers] for name, array in vars(self).items()})

    def errors(self) -> dict[str, Any]:
        """As `metrics.error_rates`."""
        return error_rates(self.rank, self.label_probability)


@dataclass
class KeptPredictions:
    about: dict[str, Any]
    names: np.ndarray
    labels: np.ndarray
    classes: list[str]
    class_names: list[str]
    views: dict[int, KeptView]

    @property
    def labelled(self) -> bool:
        return bool((self.labels >= 0).all())

    @property
    def most_views(self) -> KeptView:
        return self.views[max(self.views)]

    def save(self, path: Path) -> None:
        arrays = {
            f"views{number}.{_KEYS[name]}": array
            for number, view in self.views.items()
            for name, array in vars(view).items()
        }
        common = {
            "about": np.array(json.dumps(self.about)),
            "names": self.names,
            "labels": self.labels,
            "classes": np.array(self.classes),
            "words": np.array(self.class_names),
        }
        write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **common, **arrays))

    @classmethod
    def load(cls, path: Path) -> "KeptPredictions":
        """RequestError if they cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays["about"]))
            views = {
                number: KeptView(**{name: arrays[f"views{number}.{key}"] for name, key in _KEYS.items()})
                for number in VIEWS
                if f"views{number}.top" in arrays
            }
            classes, class_names = ([str(text) for text in arrays[key]] for key in ("classes", "words"))
            return cls(about, arrays["names"], arrays["labels"], classes, class_names, views)
        except Exception as error:  # a damaged file can fail in any way
            raise RequestError(
                f"{path}: cannot be read as predictions ({type(error).__name__}); delete it and evaluate again"
            ) from None
