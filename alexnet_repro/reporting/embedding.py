"""The last hidden layer of some pictures for TensorBoard's projector."""

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from alexnet_repro.reporting.text import short
from data_prep.preview import as_picture

FOLDER = "embedding"  # a run of its own beneath the training's events, which stay as they are
_SPRITE = 8192  # pixels: the projector takes no larger sheet of thumbnails
_THUMBNAIL, _NAME = 48, 60


def save_embedding(tensorboard: Path, features: np.ndarray, pictures: list[np.ndarray], labels: list[str]) -> Path:
    """float32 [N, D], uint8 [S, S, C] each, the class of each in words. Replaces what an earlier call wrote."""
    folder = tensorboard / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    across = int(np.ceil(np.sqrt(len(pictures))))
    side = min(_THUMBNAIL, _SPRITE // across)
    small = np.stack([np.asarray(as_picture(p).convert("RGB").resize((side, side))) for p in pictures])
    images = torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255
    with contextlib.closing(SummaryWriter(str(folder))) as writer, contextlib.redirect_stdout(io.StringIO()):
        writer.add_embedding(features, [short(label, _NAME) for label in labels], images, tag="last hidden layer")
    return folder
