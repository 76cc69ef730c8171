"""python -m alexnet_repro.predict run=NAME images=[a.jpg,folder]: the five most probable labels of any picture."""

from alexnet_repro.config import PredictConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("predict", PredictConfig)  # first, as the imports below take seconds

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alexnet_repro.data import Batch, views_of
from alexnet_repro.data.loader import loader_workers
from alexnet_repro.evaluation.inference import forward_for
from alexnet_repro.evaluation.inference import predict as probabilities_of
from alexnet_repro.runs.trained import load_trained
from data_prep.common.errors import FAILED, RequestError
from data_prep.common.text import printable
from data_prep.resize import prepare_picture

_BAR = 30
_GUESSES = 5


def predict(config: PredictConfig) -> int | None:
    files = _pictures(config.images)
    trained = load_trained(config, config.checkpoint)
    if trained.checkpoint.mean_image.shape[-1] != 3:
        raise RequestError(f"run={config.run}: was trained on pictures without colour; this command reads RGB")
    forward = forward_for(trained.model, trained.inputs, config.runtime)
    views = views_of(config.views, trained.margin)
    answers: list[dict[str, Any]] = []
    broken = 0
    for opened in _opened(files, trained.image_size, config.batch_size, loader_workers(config.runtime)):
        good = [one for one in opened if one.pixels is not None]
        rows: Iterator[np.ndarray] = iter(())
        if good:
            batch = _batch([one.pixels for one in good if one.pixels is not None])
            rows = iter(probabilities_of(forward, [batch], views).average)
        for one in opened:  # in the order in which they were given
            if one.pixels is None:
                answers.append({"image": str(one.file), "error": one.reason})
                broken += 1
            else:
                answers.append({"image": str(one.file), "labels": _labels(next(rows), trained.checkpoint)})
            if not config.json:
                _show(answers.pop())
    if config.json:
        print(json.dumps(answers, indent=1))  # in ASCII, so that any file name survives
    return FAILED if broken else None


def _pictures(names: list[str]) -> list[Path]:
    """Files as they are named; of folders, what is named like a picture, at any depth. RequestError if none."""
    endings = {ending.lower() for ending in Image.registered_extensions()}
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(Path(top, file) for top, _, found in os.walk(path) for file in found)
            chosen = [file for file in inside if file.suffix.lower() in endings and not file.name.startswith(".")]
            if not chosen:
                raise RequestError(f"images: {printable(name)}: no pictures in this folder; name the files themselves")
            if len(chosen) < len(inside):
                print(
                    f"{printable(name)}: {len(inside) - len(chosen)} files are not named like pictures: left aside",
                    file=sys.stderr,
                )
            files += chosen
        elif path.exists():
            files.append(path)
        else:
            raise RequestError(
                f"images: {printable(name)} does not exist; give images=[a.jpg,folder], with quotes around odd names"
            )
    return files


@dataclass
class _Opened:
    file: Path
    pixels: np.ndarray | None  # uint8 [S, S, 3]
    reason: str = ""  # why there are none


def _open(file: Path, size: int) -> _Opened:
    try:
        return _Opened(file, prepare_picture(file.read_bytes(), size))
    except (OSError, ValueError, MemoryError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        return _Opened(file, None, printable(" ".join(reason.split())))


def _opened(files: list[Path], size: int, batch_size: int, workers: int) -> Iterator[list[_Opened]]:
    """Batch by batch; Pillow decodes outside Python's lock, so threads do."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(files), batch_size):
            yield list(pool.map(lambda file: _open(file, size), files[start : start + batch_size]))


def _batch(pictures: list[np.ndarray]) -> Batch:
    count = len(pictures)
    zeros = torch.zeros(count, dtype=torch.int64)
    images = torch.from_numpy(np.stack(pictures))
    return Batch(images, zeros, zeros, zeros, zeros.bool(), torch.zeros(count, images.shape[-1]))


def _labels(probabilities: np.ndarray, checkpoint: Any) -> list[dict[str, Any]]:
    top = np.argsort(-probabilities, kind="stable")[:_GUESSES]
    return [
        {
            "wnid": checkpoint.classes[label],
            "words": checkpoint.words[label],
            "probability": float(probabilities[label]),
        }
        for label in top
    ]


def _show(answer: dict[str, Any]) -> None:
    name = printable(answer["image"])
    if "error" in answer:
        sys.stdout.flush()
        print(f"{name}: cannot be read as a picture ({answer['error']})", file=sys.stderr)
        return
    print(name)
    for row in answer["labels"]:
        bar = "█" * round(_BAR * row["probability"])
        print(f"  {100 * row['probability']:5.1f} %  {bar:<{_BAR}}  {printable(row['words'])}")


if __name__ == "__main__":
    main(jobs, predict)
