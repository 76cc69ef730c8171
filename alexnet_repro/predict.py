"""python -m alexnet_repro.predict run=NAME images=[a.jpg,folder]: the five most probable labels of any image."""

from alexnet_repro.config import PredictConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("predict", PredictConfig)  # first, as the imports below take seconds

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alexnet_repro.data import Batch, views_of
from alexnet_repro.data.loader import loader_workers
from alexnet_repro.evaluation import inference
from alexnet_repro.runs.trained import load_trained
from data_prep.common.errors import FAILED, RequestError
from data_prep.common.text import printable
from data_prep.resize import prepare_image
from data_prep.sources.inventory import begins_as_image, is_system

_BAR = 30  # characters


def predict(config: PredictConfig) -> int | None:
    files = _files(config.images)
    trained = load_trained(config, config.checkpoint)
    if trained.checkpoint.mean_image.shape[-1] != 3:
        raise RequestError(f"run={config.run}: was trained on images without colour; this command reads RGB")
    forward = inference.forward_for(trained.model, trained.inputs, config.runtime)
    views, checkpoint = views_of(config.views, trained.inputs.rule.margin), trained.checkpoint
    answers: list[dict[str, Any]] = []
    failed = False
    with ThreadPoolExecutor(max(1, loader_workers(config.runtime))) as pool:  # Pillow decodes outside Python's lock
        for start in range(0, len(files), config.batch_size):
            chunk = files[start : start + config.batch_size]
            images = list(pool.map(lambda file: _read(file, trained.image_size), chunk))
            readable = [image for image in images if isinstance(image, np.ndarray)]
            rows: Iterator[np.ndarray] = iter(())
            if readable:
                stacked = torch.from_numpy(np.stack(readable))
                unknown = torch.zeros(len(readable), dtype=torch.int64)  # the labels
                rows = iter(inference.predict(forward, [Batch(stacked, unknown)], views).average)
            for file, image in zip(chunk, images, strict=True):
                answer: dict[str, Any] = {"image": str(file)}
                if isinstance(image, str):
                    answer["error"] = image
                    failed = True
                else:
                    answer["labels"] = inference.most_probable(next(rows), checkpoint.classes, checkpoint.words)
                if config.json:
                    answers.append(answer)
                else:
                    _show(answer)
    if config.json:
        print(json.dumps(answers, indent=1))  # in ASCII, so that any file name survives
    return FAILED if failed else None


def _files(names: list[str]) -> list[Path]:
    """Files as they are named; of folders, at any depth, those with an image's ending or an image's first bytes.
    RequestError if none.
    """
    endings = {ending.lower() for ending in Image.registered_extensions()}
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(Path(top, file) for top, _, found in os.walk(path) for file in found)
            chosen = [file for file in inside if not is_system(file.name) and (
                file.suffix.lower() in endings or begins_as_image(_head(file)))]  # fmt: skip
            if not chosen:
                raise RequestError(f"images: {printable(name)}: no images in this folder; name the files themselves")
            if len(chosen) < len(inside):
                left = f"{len(inside) - len(chosen)} files are no images: left out"
                print(f"{printable(name)}: {left}", file=sys.stderr)
            files += chosen
        elif path.exists():
            files.append(path)
        else:
            raise RequestError(
                f"images: {printable(name)} does not exist; give images=[a.jpg,folder], with quotes around odd names"
            )
    return files


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(16)
    except OSError:
        return b""


def _read(file: Path, size: int) -> np.ndarray | str:
    """uint8 [size, size, 3], or why the file cannot be read."""
    try:
        return prepare_image(file.read_bytes(), size, upright=True)
    except (OSError, ValueError, MemoryError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        return printable(" ".join(reason.split()))


def _show(answer: dict[str, Any]) -> None:
    name = printable(answer["image"])
    if "error" in answer:
        sys.stdout.flush()
        print(f"{name}: cannot be read as an image ({answer['error']})", file=sys.stderr)
        return
    print(name)
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    block = "█" if "█".encode(encoding, "ignore") else "#"
    for row in answer["labels"]:
        bar = block * round(_BAR * row["probability"])
        print(f"  {100 * row['probability']:5.1f} %  {bar:<{_BAR}}  {printable(row['words'])}")


if __name__ == "__main__":
    main(jobs, predict)
