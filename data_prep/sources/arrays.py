"""What the small sets share: images that lie in their files as arrays, a fixed number of each class, and torchvision.

A copy on this machine is read where it lies, compressed or not; only where there is none does torchvision download one.
Their official test set, the only other part that is published, is `val` here, as the tables of both sets use it.
"""

from itertools import chain
from pathlib import Path

import numpy as np

from data_prep.common.errors import RequestError
from data_prep.common.text import one_line
from data_prep.sources.base import Listing, PixelImage, Source, SourceImage


def source(
    layout: str, path: Path, names: list[str], splits: dict[str, list[SourceImage]], per_class: tuple[int, int]
) -> Source:
    """`names`: of the classes, in the order of the labels; `per_class`: images of each in a complete train and val."""
    keys = [str(label) for label in range(len(names))]
    sizes = dict(zip(("train", "val"), per_class, strict=True))
    side = next((image.shape[0] for image in splits["train"] if isinstance(image, PixelImage)), None)
    return Source(
        layout,
        path,
        {split: Listing(images) for split, images in splits.items()},
        dict(zip(keys, names, strict=True)),
        complete={split: size * len(names) for split, size in sizes.items()},
        per_class={split: dict.fromkeys(keys, size) for split, size in sizes.items()},
        side=side,
    )


def images(batches: list[np.ndarray], labels: list[int], split: str, path: Path, classes: int) -> list[SourceImage]:
    """uint8 [N, height, width, channels] each, and the labels of all of them. RequestError if they do not agree."""
    count = sum(map(len, batches))
    if count != len(labels):
        raise RequestError(f"{path}: {count} {split} images, but {len(labels)} labels; download it again")
    if odd := [label for label in labels if not 0 <= label < classes]:
        raise RequestError(f"{path}: label {odd[0]} in {split}; there are {classes} classes; download it again")
    return [
        PixelImage(f"{split}-{i:05d}", str(label), str(path), i, pixels.nbytes, pixels.tobytes(), pixels.shape)
        for i, (pixels, label) in enumerate(zip(chain.from_iterable(batches), labels, strict=True))
    ]


def download(name: str, folder: Path, files: str) -> None:
    """Has torchvision download a set, and check it. RequestError if it cannot; `files` could be put there instead."""
    import torchvision

    print(f"src={folder}: no copy of {name} there; torchvision downloads it")
    try:
        for train in (True, False):
            getattr(torchvision.datasets, name)(folder, train=train, download=True)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors
        raise RequestError(
            f"src={folder}: no copy of {name} there, and it cannot be downloaded ({one_line(error)}); put {files} there"
        ) from None
