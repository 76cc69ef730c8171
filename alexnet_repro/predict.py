"""python -m alexnet_repro.predict run=NAME images=[a.jpg,b.jpg]: the five most probable labels of any picture."""

import sys
from pathlib import Path

import numpy as np
import torch

from alexnet_repro.config import PredictConfig
from alexnet_repro.data import Batch, views_of
from alexnet_repro.evaluation.predict import predict as probabilities_of
from alexnet_repro.trained import load_trained
from data_prep.command import FAILED, RequestError, main
from data_prep.resize import prepare_picture

_BAR = 30


def predict(config: PredictConfig) -> int | None:
    if missing := [name for name in config.images if not Path(name).is_file()]:
        raise RequestError(f"images: {missing[0]} does not exist or is no file; give images=[a.jpg,b.jpg]")
    trained = load_trained(config, config.checkpoint)
    words = trained.checkpoint.words
    if trained.checkpoint.mean_image.shape[-1] != 3:
        raise RequestError(f"run={config.run}: was trained on pictures without colour; this command reads RGB")
    broken = 0
    for name in config.images:
        try:
            pixels = prepare_picture(Path(name).read_bytes(), trained.image_size)
        except (OSError, ValueError) as error:
            print(f"{name}: cannot be read as a picture ({error})", file=sys.stderr)
            broken += 1
            continue
        p = probabilities_of(trained.model, [_one(pixels)], views_of(config.views, trained.margin), trained.inputs)
        _show(name, p.average[0], words)
    return FAILED if broken else None


def _one(pixels: np.ndarray) -> Batch:
    zero = torch.zeros(1, dtype=torch.int64)
    images = torch.from_numpy(pixels.copy())[None]
    return Batch(images, zero, zero, zero, torch.zeros(1, dtype=torch.bool), torch.zeros(1, pixels.shape[-1]))


def _show(name: str, probabilities: np.ndarray, words: list[str]) -> None:
    print(name)
    for label in np.argsort(-probabilities, kind="stable")[:5]:
        bar = "█" * round(_BAR * float(probabilities[label]))
        print(f"  {100 * probabilities[label]:5.1f} %  {bar:<{_BAR}}  {words[label]}")


if __name__ == "__main__":
    main("predict", PredictConfig, predict)
