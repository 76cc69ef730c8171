"""One pass of a trained run over a split, which can be interrupted and continued.

What has been computed is written beneath the report folder every few seconds, and an interrupted pass starts after it.
Every image is computed once, in the order of the split, in batches with the same boundaries whether the pass was
interrupted or not, and cuDNN uses deterministic algorithms: on one machine the probabilities are the same to the bit.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alexnet_repro.config import EvaluateConfig
from alexnet_repro.data import PreparedData, views_of, whole_images
from alexnet_repro.data.loader import loading_for, with_progress
from alexnet_repro.evaluation.inference import Probabilities, forward_for, predict_batches
from alexnet_repro.runs.checkpoint import fingerprint
from alexnet_repro.runs.trained import TrainedModel
from data_prep.common.files import write_atomically
from data_prep.reader import SplitReader

_SECONDS = 20.0  # between two writes: what an interruption costs at most, give or take a batch


@dataclass
class SplitPass:
    probabilities: Probabilities
    fingerprint: str  # of the weights
    seconds: float  # spent by this process
    computed: int  # images, by this process


def run_pass(
    trained: TrainedModel, data: PreparedData, reader: SplitReader, config: EvaluateConfig, pass_folder: Path
) -> SplitPass:
    """Probabilities for `reader`, the split of `data` or a part of it. Its parts are written beneath `pass_folder`,
    for the caller to remove.
    """
    forward = forward_for(trained.model, trained.inputs, trained.runtime)
    weights = fingerprint(trained.checkpoint)
    follows_from = {  # all that the probabilities depend on: parts of another pass are not taken up
        "run": weights,
        "data": data.fingerprint,
        "split": config.split,
        "views": config.views,
        "batch_size": config.batch_size,
        "precision": trained.runtime.precision,
        "form": type(forward).__name__,
        "devices": [device.type for device in trained.inputs.devices],
        "torch": torch.__version__,
    }
    if config.classes is not None:
        follows_from["images"] = hashlib.sha256(reader.index.tobytes() + reader.labels.tobytes()).hexdigest()
    folder = pass_folder / hashlib.sha256(json.dumps(follows_from).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():  # only the pass that was asked for last can be continued
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)

    parts = _read_parts(folder)
    done = sum(len(part.labels) for part in parts)
    if 0 < done < len(reader):
        print(f"continuing: {done} of {len(reader)} images are done already")
    rest = reader.subset(slice(done, None))
    started = written = time.monotonic()
    if len(rest):
        loading = loading_for(config.runtime, trained.inputs.use_gpu)
        batches = whole_images(rest, data.image_size, config.batch_size, loading)
        shown = with_progress(batches, len(rest), "evaluate")
        unwritten: list[Probabilities] = []
        with _deterministic_cudnn():
            for batch in predict_batches(forward, shown, views_of(config.views, trained.inputs.rule.margin)):
                unwritten.append(batch)
                done += len(batch.labels)
                if done == len(reader) or time.monotonic() - written >= _SECONDS:
                    part = Probabilities.joined(unwritten)
                    _write_part(folder, done - len(part.labels), part)
                    parts.append(part)
                    unwritten, written = [], time.monotonic()
    return SplitPass(Probabilities.joined(parts), weights, time.monotonic() - started, len(rest))


def _write_part(folder: Path, first: int, part: Probabilities) -> None:
    """`first`: the number of its first image in the split."""
    write_atomically(folder / f"from-{first:09d}.npz", lambda file: np.savez(file, **vars(part)))


def _read_parts(folder: Path) -> list[Probabilities]:
    """What an interrupted pass has written, up to the first gap."""
    parts: list[Probabilities] = []
    done = 0
    while (path := folder / f"from-{done:09d}.npz").is_file():
        with np.load(path, allow_pickle=False) as arrays:
            parts.append(Probabilities(arrays["centre"], arrays["average"], arrays["labels"]))
        done += len(parts[-1].labels)
    return parts


@contextmanager
def _deterministic_cudnn() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
