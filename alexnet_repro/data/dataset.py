"""A prepared data set, as training and evaluation see it."""

from pathlib import Path

import numpy as np

from alexnet_repro.config import AugmentConfig
from alexnet_repro.data.augment import ColourNoise
from alexnet_repro.data.inputs import InputRule
from data_prep.common.errors import RequestError
from data_prep.format import MEAN, PREPARE_AGAIN, Manifest
from data_prep.reader import SplitReader
from data_prep.sources.ilsvrc import ILSVRC2010, ILSVRC2012
from data_prep.statistics import principal_components

_MAY_LACK = 0.001  # of the training images, which a preparation may have rejected


class PreparedData:
    """The folder that data_prep.prepare wrote. RequestError if it is not there or not whole."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        self.classes = [info.wnid for info in self.manifest.classes]  # or folder names; in label order
        self.class_names = [info.words for info in self.manifest.classes]
        self.image_size = self.manifest.image_size
        self.channels = self.manifest.channels
        try:
            self.mean_image: np.ndarray = np.load(self.folder / MEAN, allow_pickle=False)  # float32 [S, S, C], 0..255
        except (OSError, ValueError) as error:
            raise RequestError(f"{self.folder / MEAN}: cannot be read ({error}); {PREPARE_AGAIN}") from None

    def split(self, name: str) -> SplitReader:
        return SplitReader(self.folder, self.manifest, name)

    def colour_noise(self, config: AugmentConfig) -> ColourNoise:
        """Section 4.1's [p1 p2 p3][a1 l1, a2 l2, a3 l3]^T without the a: column k is p_k * l_k, in grey levels.

        The l are the eigenvalues of the covariance on the [0, 1] scale (taken at 0..255 they would be 255 times as
        large again, and the noise would drown the images), or, as run in 2012, their square roots.
        """
        values, vectors = principal_components(np.array(self.manifest.statistics["rgb_covariance"]) / 255**2)
        scale = values if config.colour_scale == "eigenvalues" else np.sqrt(values)
        return ColourNoise((vectors * scale * 255).astype(np.float32), config.colour_divisor)

    def input_rule(self, config: AugmentConfig, size: int) -> InputRule:
        return InputRule(self.mean_image, size, config.mean, config.input_scale)

    def describe(self) -> str:
        counts = ", ".join(f"{info.images:,} {split}" for split, info in self.manifest.splits.items())
        return f"{self.manifest.name} ({len(self.classes)} classes; {counts} images; {self.manifest.source['layout']})"

    @property
    def fingerprint(self) -> str:
        """Two data sets with the same one have the same images."""
        return str(self.manifest.preparation["plan"])

    def identity(self) -> dict[str, str]:
        """What a checkpoint remembers of its data."""
        return {"name": self.manifest.name, "description": self.describe(), "plan": self.fingerprint}

    def whole_release(self) -> str | None:
        """ILSVRC-2010 or ILSVRC-2012, if these are all of it: only on them were the paper's tables measured."""
        images = {split: info.images for split, info in self.manifest.splits.items()}
        for release in (ILSVRC2010, ILSVRC2012):
            complete = release.complete
            train_whole = complete["train"] * (1 - _MAY_LACK) <= images["train"] <= complete["train"]
            others_whole = all(complete.get(split, n) == n for split, n in images.items() if split != "train")
            if len(self.classes) == release.classes and train_whole and others_whole:
                return f"ILSVRC-{release.year}"
        return None
