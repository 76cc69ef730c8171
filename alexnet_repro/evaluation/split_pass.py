"""One pass of a trained run over a split. What is done is kept as it goes, so that a stopped pass goes on from there.

Every picture is shown once, in the order of the split, in batches that lie at the same places whether the pass was
stopped or not, and cuDNN is held to deterministic algorithms: on one machine the probabilities are the same to the bit.
"""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from alexnet_repro.data import Loading, PreparedData, views_of, whole_images
from alexnet_repro.data.loader import with_progress
from alexnet_repro.evaluation.inference import Forward, Predictions, forward_for, predict_batches
from alexnet_repro.runs.checkpoint import fingerprint
from alexnet_repro.runs.trained import TrainedModel
from data_prep.common.files import write_atomically

UNFINISHED = ".unfinished"
_SECONDS = 20.0  # between two writes: what an interruption costs at most, give or take a batch


def forget(folder: Path) -> None:
    """What a pass has kept in `folder`, once what came of it is safe."""
    shutil.rmtree(folder.parent, ignore_errors=True)


@dataclass
class SplitPass:
    trained: TrainedModel
    data: PreparedData
    split: str
    views: int
    batch_size: int
    loading: Loading
    report: Path  # the unfinished work lies beneath it
    seconds: float = 0.0  # spent on `computed` pictures by this process
    computed: int = 0
    folder: Path = field(init=False)
    forward: Forward = field(init=False)

    def __post_init__(self) -> None:
        inputs, runtime = self.trained.inputs, self.trained.runtime
        self.forward = forward_for(self.trained.model, inputs, runtime)
        follows_from = {
            "run": fingerprint(self.trained.checkpoint),
            "data": self.data.identity()["plan"],
            "split": self.split,
            "views": self.views,
            "batch_size": self.batch_size,
            "precision": runtime.precision,
            "form": type(self.forward).__name__,
            "devices": [device.type for device in inputs.devices],
            "torch": torch.__version__,
        }
        name = hashlib.sha256(json.dumps(follows_from).encode()).hexdigest()[:16]
        self.folder = self.report / UNFINISHED / name

    def run(self) -> Predictions:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self._forget_others()
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = self._kept()
        done = sum(len(part.labels) for part in parts)
        reader = self.data.split(self.split)
        if 0 < done < len(reader):
            print(f"continuing: {done} of {len(reader)} pictures are done already")
        started = time.monotonic()
        rest = reader.subset(slice(done, None))
        if len(rest):
            batches = whole_images(rest, self.data.image_size, self.batch_size, self.loading)
            shown = with_progress(batches, len(rest), "evaluate")
            views = views_of(self.views, self.trained.margin)
            unsaved, written = [], started
            for batch in predict_batches(self.forward, shown, views):
                unsaved.append(batch)
                done += len(batch.labels)
                if done == len(reader) or time.monotonic() - written >= _SECONDS:
                    parts.append(self._keep(unsaved, done))
                    unsaved, written = [], time.monotonic()
        self.seconds, self.computed = time.monotonic() - started, len(rest)
        return Predictions.joined(parts)

    def _keep(self, batches: list[Predictions], done: int) -> Predictions:
        part = Predictions.joined(batches)
        first = done - len(part.labels)
        write_atomically(self.folder / f"from-{first:09d}.npz", lambda file: np.savez(file, **vars(part)))
        return part

    def _kept(self) -> list[Predictions]:
        """What an earlier, stopped pass has left, up to the first gap."""
        parts: list[Predictions] = []
        done = 0
        while (path := self.folder / f"from-{done:09d}.npz").is_file():
            with np.load(path, allow_pickle=False) as arrays:
                parts.append(Predictions(arrays["centre"], arrays["average"], arrays["labels"]))
            done += len(parts[-1].labels)
        return parts

    def _forget_others(self) -> None:
        """Of other checkpoints or settings: only the pass that was asked for last goes on."""
        for other in self.folder.parent.glob("*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
