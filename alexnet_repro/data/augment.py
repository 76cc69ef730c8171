"""Section 4.1: random patches, mirror images and colour noise, by the text or as run in 2012, as conf/augment/ says.

What is drawn for an image is a function of (seed, epoch, position in the epoch): never of processes or timing.
inputs.py applies it.
"""

from dataclasses import dataclass

import numpy as np
import torch

from alexnet_repro.config import AugmentConfig
from alexnet_repro.data.batch import Draws
from alexnet_repro.data.views import centre_of


def shuffled(seed: int, epoch: int, images: int) -> np.ndarray:
    """The order in which the images are shown in `epoch`: int64 [images]."""
    return np.random.default_rng([seed, epoch, 0]).permutation(images)


def draw_epoch(config: AugmentConfig, seed: int, epoch: int, images: int, margin: int, channels: int = 3) -> Draws:
    """What is drawn for the images of one epoch, in the order in which they are shown.

    margin: image side minus patch side, 32 for 256 and 224. Offsets are uniform on 0..margin, both ends included: 33 x
    33 patches (the paper counts 32 x 32 x 2 = 2048).
    """
    rng = np.random.default_rng([seed, epoch, 1])
    drawn = -(-images // config.shared_by)
    centre = np.full((2, drawn), centre_of(margin), dtype=np.int64)
    top, left = rng.integers(0, margin + 1, (2, drawn)) if config.random_crop else centre
    mirror = rng.random(drawn) < 0.5 if config.mirror else np.zeros(drawn, dtype=bool)
    top, left, mirror = (array.repeat(config.shared_by)[:images] for array in (top, left, mirror))
    colour = rng.standard_normal((images, channels), dtype=np.float32) * np.float32(config.colour_noise)
    return Draws(*(torch.from_numpy(array) for array in (top, left, mirror, colour)))


@dataclass(frozen=True)
class ColourNoise:
    components: np.ndarray  # float32 [C, C]: column k is what a_k multiplies, in grey levels
    divisor: float  # of the whole input, while the noise is on
