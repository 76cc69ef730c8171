"""Error rates against brute force, ten views against a loop over the paper's sentence."""

import numpy as np
import pytest
import torch
from networks import SMALL_MODEL, assert_sensitive, model_config, sensitive
from sklearn.metrics import top_k_accuracy_score

from alexnet_repro.config import TrainConfig
from alexnet_repro.data import Batch, ColumnInputs, InputRule, views_of
from alexnet_repro.evaluation.inference import Probabilities, add_member, forward_for, predict, predict_batches
from alexnet_repro.evaluation.metrics import (
    class_errors,
    confusion_matrix,
    confusions,
    error_rates,
    label_probabilities,
    label_ranks,
    losses,
    most_confused,
    wrong,
)
from alexnet_repro.evaluation.predictions import KeptView
from alexnet_repro.model import AlexNet
from data_prep.common.cli import load


def test_top_k_error_against_sorting() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(12), size=300).round(2)  # rounding makes ties
    labels = rng.integers(0, 12, 300)
    for k in (1, 5, 12):
        missed = sum(label not in sorted(range(12), key=lambda c: (-row[c], c))[:k]
                    for row, label in zip(probabilities, labels, strict=True))  # fmt: skip
        assert wrong(label_ranks(probabilities, labels), k).mean() == missed / 300
    assert wrong(label_ranks(np.full((4, 6), np.nan), np.arange(4)), 5).all()  # a diverged network is never right
    assert label_ranks(np.array([[0.2, 0.5, 0.3]]), np.array([0]))[0] == 2


def test_top_k_error_against_scikit_learn() -> None:
    """Of equal probabilities scikit-learn takes the class with the higher index first, we the lower: so it sees the
    classes in reverse."""
    rng = np.random.default_rng(0)
    for decimals in (8, 2):  # without ties, and with many
        probabilities = rng.dirichlet(np.ones(30), size=500).round(decimals)
        labels = rng.integers(0, 30, 500)
        for k in (1, 5):
            theirs = top_k_accuracy_score(29 - labels, probabilities[:, ::-1], k=k, labels=np.arange(30))
            assert wrong(label_ranks(probabilities, labels), k).mean() == pytest.approx(1 - theirs, abs=1e-12)


def test_kept_predictions_are_the_most_probable_in_order() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(12), size=50).round(2).astype(np.float32)
    labels = rng.integers(0, 12, 50)
    kept = KeptView.of(probabilities, labels, keep=7)
    for row, top, values, rank, label in zip(
        probabilities, kept.top, kept.probabilities, kept.rank, labels, strict=True
    ):
        order = sorted(range(12), key=lambda c: (-row[c], c))
        assert top.tolist() == order[:7] and values.tolist() == row[order[:7]].tolist()
        assert rank == order.index(label)


def test_classes_and_confusions() -> None:
    labels = np.array([0, 0, 0, 1, 1, 3])
    probabilities = np.array([[4, 3, 2, 1], [1, 4, 3, 2], [1, 4, 2, 3], [4, 3, 2, 1], [1, 4, 2, 3], [4, 3, 2, 1]]) / 10
    kept = KeptView.of(probabilities.astype(np.float32), labels, 4)
    by_class = class_errors(kept.rank, labels, 4)
    assert [(c.label, c.images, round(c.top1_error, 3), c.top5_error) for c in by_class] == [
        (0, 3, 0.667, 0), (1, 2, 0.5, 0), (3, 1, 1, 0)]  # fmt: skip
    many = class_errors(np.array([0, 5, 9, 4, 1, 7]), labels, 4)  # of more classes: ranks as they would be
    assert [(round(c.top1_error, 3), round(c.top5_error, 3)) for c in many] == [(0.667, 0.667), (1, 0), (1, 1)]
    found = confusions(kept.top[:, 0], labels, 4, most=10)
    assert [(c.label, c.guess, c.count, c.images) for c in found] == [(0, 1, 2, 3), (1, 0, 1, 2), (3, 0, 1, 1)]
    assert most_confused(found, 3) == [0, 1, 3]
    assert confusion_matrix(kept.top[:, 0], labels, [0, 1]).tolist() == [[1, 2, 0], [1, 1, 0]]
    assert confusion_matrix(kept.top[:, 0], labels, [1, 3]).tolist() == [[1, 0, 1], [0, 0, 1]]


def test_ranks_and_matrices_are_whole_numbers_however_many_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of 7 as in one."""
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(9), size=50).astype(np.float32), rng.integers(0, 9, 50)
    whole = KeptView.of(probabilities, labels, keep=4)
    for module in ("metrics", "predictions"):
        monkeypatch.setattr(f"alexnet_repro.evaluation.{module}._ROWS", 7)
    for name, in_blocks in vars(KeptView.of(probabilities, labels, keep=4)).items():
        np.testing.assert_array_equal(in_blocks, getattr(whole, name), err_msg=name)
    assert (whole.rank.dtype, whole.top.dtype, whole.label_probability.dtype) == (np.int64, np.int32, np.float32)
    assert confusion_matrix(whole.top[:, 0], labels, [0, 1]).dtype == np.int64


def test_confusions_that_are_equally_frequent_come_in_label_order() -> None:
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 40, (2, 800))
    found = confusions(guesses, labels, 40, most=500)
    assert len({c.count for c in found}) > 2 and len(found) == 500  # many ties
    assert found == sorted(found, key=lambda c: (-c.count, c.label, c.guess))


def test_an_ensemble_is_the_weighted_mean_and_of_one_the_run_itself() -> None:
    rng = np.random.default_rng(0)
    runs = [
        Probabilities(*(rng.dirichlet(np.ones(5), size=8).astype(np.float32) for _ in range(2)), np.zeros(8, np.int64))
        for _ in range(3)
    ]
    alone = add_member(None, runs[0], 1.0)
    np.testing.assert_array_equal(alone.average, runs[0].average)
    np.testing.assert_array_equal(alone.centre, runs[0].centre)
    three = add_member(add_member(add_member(None, runs[0], 0.5), runs[1], 0.25), runs[2], 0.25)
    expected = runs[0].average / 2 + runs[1].average / 4 + runs[2].average / 4
    np.testing.assert_allclose(three.average, expected, rtol=1e-6)  # float32 rounding
    expected = runs[0].centre / 2 + runs[1].centre / 4 + runs[2].centre / 4
    np.testing.assert_allclose(three.centre, expected, rtol=1e-6)


def test_predictions_keep_nothing_of_their_batch() -> None:
    """The whole of its memory would stay taken as long as they are kept."""
    batch, rows = Batch(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.tensor([3, 1])), torch.rand(2, 5)
    (kept,) = predict_batches(lambda *_: (rows, rows), [batch], [])
    assert kept.labels.tolist() == [3, 1] and not np.shares_memory(kept.labels, batch.labels.numpy())


def test_log_loss() -> None:
    probabilities = np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)

    def log_loss(*labels: int) -> float:
        return float(losses(label_probabilities(probabilities, np.array(labels))).mean())

    np.testing.assert_allclose(log_loss(1, 0), -np.log(0.75) / 2, rtol=1e-6)
    impossible = -np.log(2.0**-126)  # the smallest normal float32
    np.testing.assert_allclose(log_loss(1, 1), (-np.log(0.75) + impossible) / 2, rtol=1e-6)


def test_of_a_single_image_the_loss_has_no_interval() -> None:
    """Infinite ends would be no JSON."""
    (rates, more) = (error_rates(np.zeros(n, int), np.linspace(0.25, 0.5, n)) for n in (1, 2))
    assert rates["log_loss_interval"] is None and rates["top1_error"] == 0
    assert more["log_loss_interval"][0] < more["log_loss"] < more["log_loss_interval"][1]


def test_five_of_ten_views_are_mirrored_and_the_softmax_outputs_averaged() -> None:
    """Section 4.1, image by image: five patches and their reflections, predictions of the softmax layer averaged.

    Catches views that are not mirrored, cut elsewhere, or counted twice, and a mean that is not the picture's own.
    Tolerance: float32, sums in another order.
    """
    model = sensitive(AlexNet(model_config(*SMALL_MODEL), classes=6)).eval()
    rng, tolerance = np.random.default_rng(0), 5e-6
    images = rng.integers(0, 256, (5, 75, 75, 3), dtype=np.uint8)
    mean = rng.uniform(100, 130, (75, 75, 3)).astype(np.float32)

    def probabilities(patch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(patch.transpose(2, 0, 1).copy())[None]).softmax(1)[0].numpy()

    def centre(images: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return np.stack([probabilities((image - mean)[4:71, 4:71]) for image in images])

    assert_sensitive(centre, images, mean, tolerance)
    inputs = ColumnInputs(InputRule(mean, 67, "at_patch", 1.0), [torch.device("cpu")] * 2, None)
    batch = Batch(torch.from_numpy(images), torch.arange(5))
    plain = load("train", TrainConfig, ["data.path=none", "runtime.fast=false"]).runtime
    got = predict(forward_for(model, inputs, plain), [batch], views_of(10, 8))
    np.testing.assert_allclose(got.centre, centre(images, mean), rtol=0, atol=tolerance)
    ten = []
    for mirrored in (False, True):
        for top, left in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4)):
            patches = [(image - mean)[top : top + 67, left : left + 67] for image in images]
            ten.append([probabilities(patch[:, ::-1] if mirrored else patch) for patch in patches])
    for view in range(10):  # each of them counts
        assert np.abs(np.mean(ten[:view] + ten[view + 1 :], axis=0) - np.mean(ten, axis=0)).max() >= 100 * tolerance
    np.testing.assert_allclose(got.average, np.mean(ten, axis=0), rtol=0, atol=tolerance)
    np.testing.assert_allclose(got.average.sum(1), 1, rtol=1e-5)

    nine = []  # as start_positions of convdata_cifar.py has them: none mirrored
    for top, left in ((0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8), (8, 0), (8, 4), (8, 8)):
        nine.append([probabilities((image - mean)[top : top + 67, left : left + 67]) for image in images])
    got = predict(forward_for(model, inputs, plain), [batch], views_of(9, 8))
    np.testing.assert_allclose(got.centre, centre(images, mean), rtol=0, atol=tolerance)
    np.testing.assert_allclose(got.average, np.mean(nine, axis=0), rtol=0, atol=tolerance)
    assert np.abs(np.mean(nine, axis=0) - np.mean(ten, axis=0)).max() >= 100 * tolerance
