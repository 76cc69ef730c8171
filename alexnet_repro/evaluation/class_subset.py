"""Errors on a part of the classes (ImageNet-100, a list of one's own): evaluate classes=FILE."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation.inference import Probabilities
from data_prep.common.errors import RequestError
from data_prep.reader import SplitReader


def read_classes(path: Path) -> dict[str, str]:
    """The first word of each line, a wnid or the name of a folder, and the rest of the line, its name, if there is one.
    Empty lines and lines that begin with # are ignored. RequestError if the file cannot be read, names no class, or
    one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise RequestError(f"classes={path}: cannot be read ({reason}); give a file with one wnid a line") from None
    entries = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    classes = [entry[0] for entry in entries]
    if not classes:
        raise RequestError(f"classes={path}: names no class; give a file with one wnid a line")
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise RequestError(f"classes={path}: names {twice[0]} twice; each line must begin with another wnid")
    return {entry[0]: entry[-1].strip() for entry in entries}


@dataclass(frozen=True)
class ClassSubset:
    """The classes that are asked about, among all that a network tells apart.

    The images are those of the chosen classes. With `others` left_out the network's outputs for the other classes are
    left out: the probabilities of the chosen ones are divided by their sum. With kept they stay, and may be guessed.
    """

    chosen: list[str]
    known: list[str]  # of the network, in label order
    others: str

    @property
    def outputs(self) -> list[str]:
        """The classes in the order of the probabilities that `restricted` gives."""
        chosen = set(self.chosen)
        return self.known if self.others == "kept" else [name for name in self.known if name in chosen]

    def reader(self, data: PreparedData, split: str) -> SplitReader:
        """The images of the chosen classes, labelled by their places in `outputs`. RequestError if a class is unknown
        to the data or the network, or if there is no image.
        """
        for name in self.chosen:
            for where, classes in ((f"the data set {data.folder}", data.classes), ("the network", self.known)):
                if name not in classes:
                    raise RequestError(f"classes: {name} is no class of {where}; remove it from the list")
        place, chosen = {name: number for number, name in enumerate(self.outputs)}, set(self.chosen)
        new_label = np.array([place[name] if name in chosen else -1 for name in data.classes], np.int64)
        whole = data.split(split)
        numbers = np.flatnonzero((whole.labels >= 0) & (new_label[whole.labels] >= 0))
        if not len(numbers):
            raise RequestError(f"classes: split {split} of {data.folder} has no image of these; choose others")
        part = whole.subset(numbers)
        part.labels = new_label[part.labels]
        return part

    def names(self, class_names: Sequence[str]) -> list[str]:
        """The names of all `known` classes -> those of `outputs`."""
        return [class_names[self.known.index(name)] for name in self.outputs]

    def restricted(self, probabilities: Probabilities) -> Probabilities:
        """From probabilities of all `known` classes, those of `outputs`; rows sum to 1."""
        if self.others == "kept":
            return probabilities
        columns = [self.known.index(name) for name in self.outputs]
        parts = (full[:, columns] for full in (probabilities.centre, probabilities.average))
        tiny = np.finfo(np.float32).tiny  # so that a row of zeros stays one
        centre, average = (part / np.maximum(part.sum(axis=1, keepdims=True), tiny) for part in parts)
        return replace(probabilities, centre=centre, average=average)

    def __str__(self) -> str:
        treated = "kept" if self.others == "kept" else "left out"
        return f"{len(self.chosen)} of {len(self.known)} classes, the outputs of the others {treated}"
