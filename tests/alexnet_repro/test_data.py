"""Section 4.1 and the input path, against slow loops and the distributions as stated."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_repro.config import AugmentConfig
from alexnet_repro.data import InputTransform, PreparedData, draw_epoch, views_of
from alexnet_repro.data.augment import shuffled
from data_prep.command import RequestError

PAPER = AugmentConfig("paper", random_crop=True, mirror=True, colour_noise=0.1)


def test_draws_are_distributed_as_stated() -> None:
    draws = draw_epoch(PAPER, seed=3, epoch=4, images=40_000, margin=32)
    for offsets in (draws.top, draws.left):
        counts = np.bincount(offsets, minlength=33)
        assert counts.shape == (33,)  # 0 and 32 are reached, 33 is not
        assert counts.min() > 1212 - 5 * 35 and counts.max() < 1212 + 5 * 35  # five standard deviations
    assert abs(np.corrcoef(draws.top, draws.left)[0, 1]) < 0.025
    assert abs(draws.mirror.mean() - 0.5) < 0.0125
    np.testing.assert_allclose(np.cov(draws.colour.T), 0.01 * np.eye(3), atol=4e-4)


def test_draws_follow_from_seed_and_epoch_alone() -> None:
    one, same = draw_epoch(PAPER, 0, 1, 50, 32), draw_epoch(PAPER, 0, 1, 50, 32)
    np.testing.assert_array_equal(one.colour, same.colour)
    for other in (draw_epoch(PAPER, 0, 2, 50, 32), draw_epoch(PAPER, 1, 1, 50, 32)):
        assert (one.top != other.top).any() and (one.colour != other.colour).any()
    assert sorted(shuffled(0, 1, 50)) == list(range(50))
    assert (shuffled(0, 1, 50) != shuffled(0, 2, 50)).any()


def test_switched_off_it_is_the_centre_patch() -> None:
    draws = draw_epoch(AugmentConfig("none", False, False, 0.0), 0, 0, 5, 32)
    assert (draws.top == 16).all() and (draws.left == 16).all() and not draws.mirror.any() and not draws.colour.any()


def test_input_is_the_papers_arithmetic() -> None:
    """A loop over images: subtract the mean image, crop, mirror, add the colour shift (in this order)."""
    rng = np.random.default_rng(0)
    count, whole, side = 6, 20, 13
    images = rng.integers(0, 256, (count, whole, whole, 3), dtype=np.uint8)
    mean = rng.uniform(0, 255, (whole, whole, 3)).astype(np.float32)
    components = rng.normal(size=(3, 3)).astype(np.float32) * 20
    draws = draw_epoch(PAPER, 0, 0, count, whole - side)
    patches = np.stack(
        [x[t : t + side, left : left + side] for x, t, left in zip(images, draws.top, draws.left, strict=True)]
    )
    transform = InputTransform(mean, components, side, torch.device("cpu"), None)
    got = transform(*(torch.from_numpy(a) for a in (patches, draws.top, draws.left, draws.mirror, draws.colour)))
    for i in range(count):
        centred = images[i].astype(np.float64) - mean
        patch = centred[draws.top[i] :][:side, draws.left[i] :][:, :side]
        if draws.mirror[i]:
            patch = patch[:, ::-1]
        patch = patch + sum(draws.colour[i, k] * components[:, k].astype(np.float64) for k in range(3))
        np.testing.assert_allclose(got[i].numpy(), patch.transpose(2, 0, 1), atol=1e-4)  # float32 of 0..255


def test_colour_noise_has_the_covariance_of_the_formula(prepared: Path) -> None:
    """[p1 p2 p3][a1 l1, a2 l2, a3 l3]^T with l on the [0,1] scale, a ~ N(0, 0.1), in grey levels."""
    data = PreparedData(prepared)
    covariance = np.array(data.manifest.statistics["rgb_covariance"]) / 255**2
    values, vectors = np.linalg.eigh(covariance)
    expected = vectors @ np.diag((0.1 * values * 255) ** 2) @ vectors.T
    components = data.colour_components().astype(np.float64)
    np.testing.assert_allclose(0.01 * components @ components.T, expected, rtol=1e-5, atol=1e-9)


def test_ten_views() -> None:
    """As run in 2012: corners (0,0), (0,32), (32,0), (32,32), centre (16,16), and mirrors."""
    views = views_of(10, 32)
    places = {(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)}
    assert {(v.top, v.left, v.mirror) for v in views} == {(t, left, m) for t, left in places for m in (False, True)}
    assert len(views) == 10
    assert views[0] == views_of(1, 32)[0]
    assert (views[0].top, views[0].left, views[0].mirror) == (16, 16, False)


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no prepared data set here.*make prepare-imagenet"):
        PreparedData(tmp_path / "none")
