"""The loader against slow loops over single pictures; its faults, each injected."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_repro.config import AugmentConfig
from alexnet_repro.data import Loading, PreparedData, draw_epoch, epoch_batches, shuffled, whole_images

PAPER = AugmentConfig("paper", random_crop=True, mirror=True, colour_noise=0.1)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_every_picture_once_and_cut_where_drawn(prepared: Path, workers: int) -> None:
    data = PreparedData(prepared)
    reader = data.split("train")
    order, draws = shuffled(0, 0, 60), draw_epoch(PAPER, 0, 0, 60, 8)
    batches = list(epoch_batches(reader, order, draws, 67, 16, Loading(workers)))
    assert [len(b.labels) for b in batches] == [16, 16, 16, 12]
    images = torch.cat([b.images for b in batches]).numpy()
    for position, picture in enumerate(order):
        pixels, label = reader[picture]
        top, left = draws.top[position], draws.left[position]
        np.testing.assert_array_equal(images[position], pixels[top : top + 67, left : left + 67])
        assert batches[position // 16].labels[position % 16] == label


def test_evaluation_sees_every_picture_once_in_order(prepared: Path) -> None:
    reader = PreparedData(prepared).split("val")
    batches = list(whole_images(reader, 75, 7, Loading(0)))
    assert torch.equal(torch.cat([b.labels for b in batches]), torch.from_numpy(reader.labels))
    np.testing.assert_array_equal(torch.cat([b.images for b in batches]).numpy()[29], reader[29][0])
