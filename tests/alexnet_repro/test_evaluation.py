"""Error rates against brute force, ten views against a loop over the paper's sentence."""

import numpy as np
import torch

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import Batch, ColumnInputs, InputRule, views_of
from alexnet_repro.evaluation.metrics import label_ranks, log_loss, top_k_error
from alexnet_repro.evaluation.predict import predict
from alexnet_repro.model import AlexNet, initialise
from data_prep.command import load


def test_top_k_error_against_sorting() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(12), size=300).round(2)  # rounding makes ties
    labels = rng.integers(0, 12, 300)
    for k in (1, 5, 12):
        wrong = sum(label not in sorted(range(12), key=lambda c: (-row[c], c))[:k]
                    for row, label in zip(probabilities, labels, strict=True))  # fmt: skip
        assert top_k_error(probabilities, labels, k) == wrong / 300
    assert top_k_error(np.full((4, 6), np.nan), np.arange(4), 5) == 1  # a diverged network is never right
    assert label_ranks(np.array([[0.2, 0.5, 0.3]]), np.array([0]))[0] == 2


def test_log_loss() -> None:
    probabilities = np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(log_loss(probabilities, np.array([1, 0])), -np.log(0.75) / 2, rtol=1e-6)
    assert np.isfinite(log_loss(probabilities, np.array([1, 1])))


def test_ten_views_are_the_mean_of_the_softmax_outputs() -> None:
    """Section 4.1, image by image: five patches and their reflections, predictions of the softmax layer averaged."""
    widths = ["model.input_size=67", "model.fc6.units=16", "model.fc7.units=16"]
    model = initialise(AlexNet(load("train", TrainConfig, widths).model, classes=6), seed=0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 75, 75, 3), dtype=np.uint8)
    mean = rng.uniform(100, 130, (75, 75, 3)).astype(np.float32)
    inputs = ColumnInputs(InputRule(mean, 67, "at_patch", 1.0), [torch.device("cpu")] * 2, None)
    zeros = torch.zeros(5, dtype=torch.int64)
    batch = Batch(torch.from_numpy(images), torch.arange(5), zeros, zeros, zeros.bool(), torch.zeros(5, 3))
    got = predict(model, [batch], views_of(10, 8), inputs)
    expected = np.zeros((5, 6))
    with torch.inference_mode():
        for i, image in enumerate(images):
            centred = image - mean
            patches = [centred[t : t + 67, left : left + 67] for t, left in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))]
            for patch in patches + [patch[:, ::-1] for patch in patches]:
                x = torch.from_numpy(patch.transpose(2, 0, 1).copy())[None]
                expected[i] += model(x).softmax(1)[0].numpy() / 10
            x = torch.from_numpy(patches[4].transpose(2, 0, 1).copy())[None]
            np.testing.assert_allclose(got.centre[i], model(x).softmax(1)[0].numpy(), rtol=1e-4)
    np.testing.assert_allclose(got.average, expected, rtol=1e-4)
    np.testing.assert_allclose(got.average.sum(1), 1, rtol=1e-5)
