"""The network in a notebook or a script: docs/python.md. A thin layer over what the commands use; it prints nothing,
writes nothing and changes no setting of PyTorch. Errors are RequestError, a ValueError, or what the docstrings say.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from alexnet_repro.config import AugmentConfig, TrainConfig
from alexnet_repro.data import (
    Batch,
    ColourNoise,
    ColumnInputs,
    InputRule,
    InputTransform,
    PreparedData,
    View,
    draw_epoch,
    view_draws,
    views_of,
)
from alexnet_repro.evaluation.inference import most_probable, view_by_view
from alexnet_repro.evaluation.metrics import GUESSES
from alexnet_repro.model import AlexNet, choose_devices, initialise, place
from alexnet_repro.runs.folder import LAST, RunFolder
from alexnet_repro.runs.trained import with_weights
from data_prep.common.cli import load
from data_prep.format import as_image
from data_prep.resize import prepare_image, prepared_square

__all__ = [
    "AlexNet", "PreparedDataset", "TrainedAlexNet", "Transform", "initialise", "load_run", "place", "transform",
]  # fmt: skip


AnyImage = Image.Image | Tensor | str | Path  # of any size and mode; uint8 [C, H, W]; or a file


class Transform:
    """An image -> the network's input: resized and cropped to a square (section 2), a patch of it, minus the mean.

    Called as the transforms of torchvision are, with a Pillow image of any size and mode, a file, or uint8 [C, H, W];
    returns float32 [C, size, size] on the CPU. A batch, uint8 [N, C, H, W], becomes [N, C, size, size].
    """

    def __init__(self, rule: InputRule, augment: AugmentConfig | None = None, noise: ColourNoise | None = None) -> None:
        """`augment`: patches, mirror images and colour `noise` are drawn (section 4.1), by PyTorch's global generator;
        None: the centre patch.
        """
        self.rule, self.augment = rule, augment
        self._to_input = InputTransform(rule, noise, torch.device("cpu"), channels_last=None)

    def __call__(self, image: AnyImage) -> Tensor:
        if isinstance(image, Tensor) and image.dim() == 4:
            return torch.stack([self(one) for one in image])
        if self.augment is None:
            draws = view_draws(views_of(1, self.rule.margin), 1, torch.device("cpu"))
        else:
            seed = int(torch.randint(2**62, ()))
            draws = draw_epoch(self.augment, seed, 0, 1, self.rule.margin, self.rule.mean_image.shape[-1])
        view = View(int(draws.top), int(draws.left), bool(draws.mirror))
        return self._to_input(view.cut(self.whole(image)[None], self.rule.size), draws)[0]

    def whole(self, image: AnyImage) -> Tensor:
        """The same image as a prepared data set has it: uint8 [S, S, C]."""
        size, _, channels = self.rule.mean_image.shape
        if isinstance(image, str | Path):
            return torch.from_numpy(prepare_image(Path(image).read_bytes(), size, channels, upright=True).copy())
        if isinstance(image, Tensor):
            if image.dtype != torch.uint8 or image.dim() != 3:
                raise ValueError(
                    f"image: {image.dtype} {list(image.shape)}; must be uint8 [C, H, W], or a Pillow image"
                )
            image = as_image(image.permute(1, 2, 0).cpu().numpy())
        if not isinstance(image, Image.Image):
            raise ValueError(f"image: {type(image).__name__}; must be a file, a Pillow image, or uint8 [C, H, W]")
        return torch.from_numpy(np.array(prepared_square(image, size, channels))).view(size, size, channels)


def transform(path: str | Path, size: int = 224, train: bool = False, augment: str = "paper") -> Transform:
    """The Transform for a network that is trained on the prepared data set at `path`, with inputs of `size` pixels.

    `train`: patches, mirror images and colour noise are drawn; otherwise it is the centre patch. `augment`: how, and
    how the mean is subtracted: a file of conf/augment/.
    """
    data, config = PreparedData(path), load("train", TrainConfig, [f"augment={augment}"]).augment
    if size > data.image_size:
        raise ValueError(f"size={size}: must be at most the side of the images of {path}, {data.image_size}")
    rule = data.input_rule(config, size)
    return Transform(rule, config, data.colour_noise(config)) if train else Transform(rule)


class PreparedDataset(Dataset[tuple[Any, int]]):
    """A split of a prepared data set: (transform(image), label) each, in the order of its shards; without a transform,
    the Pillow image. For a DataLoader with any number of worker processes.
    """

    def __init__(
        self, path: str | Path, split: str = "train", transform: Callable[[Image.Image], Any] | None = None
    ) -> None:
        data = PreparedData(path)
        self.classes, self.words = data.classes, data.class_names
        self.transform = transform
        self._reader = data.split(split)
        self.targets: list[int] = self._reader.labels.tolist()

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        if not -len(self) <= number < len(self):
            raise IndexError(f"image {number} of {len(self)}")
        pixels, label = self._reader[number % len(self)]
        image = as_image(pixels)
        return (image if self.transform is None else self.transform(image)), label


class TrainedAlexNet(AlexNet):
    """The network of a run, with what turns images into its input and its outputs into names."""

    transform: Transform
    classes: list[str]  # wnids, or folder names, in the order of the outputs
    words: list[str]  # names of the classes

    def forward(self, images: Tensor | Sequence[Tensor], joined: bool = True) -> Any:
        """float32 [N, C, size, size] -> logits [N, classes]. ValueError for other shapes."""
        if torch.compiler.is_compiling():
            return super().forward(images, joined)
        size, channels = self.config.input_size, self.transform.rule.mean_image.shape[-1]
        if isinstance(images, Tensor) and images.shape[1:] != (channels, size, size):
            raise ValueError(f"input: {list(images.shape)}; must be [N, {channels}, {size}, {size}], as net.transform "
                             "makes it of a batch, or of one image with [None] behind it")  # fmt: skip
        return super().forward(images, joined)

    def probabilities(self, images: AnyImage | Sequence[AnyImage], views: int = 10) -> Tensor:
        """Softmax outputs averaged over the ten views of section 4.1, the centre patch (views=1) or nine positions
        (views=9), in test mode: float32 [N, classes] on the CPU; of one image [classes]. ValueError for other `views`.

        `images`: Pillow images, files or uint8 tensors [C, H, W], one or a sequence; or uint8 [N, C, H, W].
        """
        chosen = views_of(views, self.transform.rule.margin)
        single = isinstance(images, Image.Image | str | Path) or (isinstance(images, Tensor) and images.dim() == 3)
        several = [images] if single else list(images)  # type: ignore[arg-type]
        if not several:
            raise ValueError("images: none were given")
        whole = torch.stack([self.transform.whole(image) for image in several])  # type: ignore[arg-type]
        inputs = ColumnInputs(self.transform.rule, self.column_devices(), channels_last=None)
        batch = Batch(whole, torch.zeros(len(whole), dtype=torch.int64))
        was_training = self.training
        try:
            _, average = view_by_view(self, batch, chosen, inputs, "fp32")
        finally:
            self.train(was_training)
        return average.cpu().clone()[0 if single else slice(None)]  # out of inference mode: an ordinary tensor

    def predict(self, image: AnyImage, views: int = 10, count: int = GUESSES) -> list[dict[str, Any]]:
        """The `count` most probable classes, most probable first: {"wnid": ..., "words": ..., "probability": ...} each.

        `image`: one; `views`: as in `probabilities`.
        """
        return most_probable(self.probabilities([image], views)[0].numpy(), self.classes, self.words, count)


def load_run(
    path: str | Path, checkpoint: str = LAST, devices: str | torch.device | Sequence[str | torch.device] | None = None
) -> TrainedAlexNet:
    """The network of a run's folder, runs/NAME, in evaluation mode: an nn.Module from inputs to logits [N, classes].

    `checkpoint`: last, best or epoch-0010. `devices`: one for all columns, or one a column; None: the CPU.
    """
    loaded = RunFolder(Path(path)).checkpoint(checkpoint)
    net = with_weights(TrainedAlexNet, loaded)
    net.transform = Transform(loaded.input_rule())
    net.classes, net.words = list(loaded.classes), list(loaded.words)
    if devices is not None:
        names = [devices] if isinstance(devices, str | torch.device) else devices
        chosen, _ = choose_devices(net.config.columns, None, [str(name) for name in names])
        place(net, chosen)
    return net
