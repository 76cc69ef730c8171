"""Section 4.1 and the input path, against slow loops and the distributions as stated."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_repro.config import AugmentConfig, TrainConfig
from alexnet_repro.data import (
    ColourNoise,
    ColumnInputs,
    InputRule,
    InputTransform,
    Loading,
    PreparedData,
    View,
    draw_epoch,
    epoch_batches,
    shuffled,
    view_draws,
    views_of,
)
from alexnet_repro.data.inputs import memory_format
from data_prep.common.cli import load
from data_prep.common.errors import RequestError

PAPER = load("train", TrainConfig).augment
CODE2012 = load("train", TrainConfig, ["augment=code2012"]).augment
NONE = load("train", TrainConfig, ["augment=none"]).augment


def test_draws_are_distributed_as_stated() -> None:
    draws = draw_epoch(PAPER, seed=3, epoch=4, images=40_000, margin=32)
    for offsets in (draws.top, draws.left):
        counts = np.bincount(offsets, minlength=33)
        assert counts.shape == (33,)  # 0 and 32 are reached, 33 is not
        assert counts.min() > 1212 - 5 * 35 and counts.max() < 1212 + 5 * 35  # five standard deviations
    assert abs(np.corrcoef(draws.top, draws.left)[0, 1]) < 0.025
    assert abs(draws.mirror.double().mean() - 0.5) < 0.0125
    np.testing.assert_allclose(np.cov(draws.colour.T), 0.01 * np.eye(3), atol=4e-4)


def test_draws_follow_from_seed_and_epoch_alone() -> None:
    one, same = draw_epoch(PAPER, 0, 1, 50, 32), draw_epoch(PAPER, 0, 1, 50, 32)
    assert torch.equal(one.colour, same.colour)
    for other in (draw_epoch(PAPER, 0, 2, 50, 32), draw_epoch(PAPER, 1, 1, 50, 32)):
        assert (one.top != other.top).any() and (one.colour != other.colour).any()
    assert sorted(shuffled(0, 1, 50)) == list(range(50))
    assert (shuffled(0, 1, 50) != shuffled(0, 2, 50)).any()


def test_as_run_in_2012_32_images_share_a_place_and_a_mirroring() -> None:
    """Four draws a batch of 128, uniform like the paper's; the colour noise is each image's own."""
    draws = draw_epoch(CODE2012, seed=0, epoch=0, images=32 * 20_000 + 5, margin=32)
    for values in (draws.top, draws.left, draws.mirror):
        groups = values[: 32 * 20_000].reshape(-1, 32)
        assert (groups == groups[:, :1]).all()
        assert len(values) == 32 * 20_000 + 5 and (values[-5:] == values[-1]).all()
    for offsets in (draws.top[::32], draws.left[::32]):
        counts = np.bincount(offsets, minlength=33)
        assert counts.shape == (33,) and abs(counts - 606).max() < 5 * 25  # five standard deviations
    assert abs(draws.mirror[::32].double().mean() - 0.5) < 0.02
    assert len(np.unique(draws.colour[:, 0])) > 0.99 * len(draws.colour)
    np.testing.assert_allclose(np.cov(draws.colour.T), 0.01 * np.eye(3), atol=2e-4)


def test_switched_off_it_is_the_centre_patch() -> None:
    draws = draw_epoch(NONE, 0, 0, 5, 32)
    assert (draws.top == 16).all() and (draws.left == 16).all() and not draws.mirror.any() and not draws.colour.any()
    assert (draws.top.dtype, draws.mirror.dtype, draws.colour.dtype) == (torch.int64, torch.bool, torch.float32)


@pytest.mark.parametrize("profile", [PAPER, CODE2012])
def test_input_is_the_arithmetic_of_the_profile(profile: AugmentConfig) -> None:
    """A loop over images in float64, in the order of each text.

    paper: minus the mean image, crop, mirror, plus the colour shift. code2012: crop, mirror, minus the central patch of
    the mean image, plus the shift, over 1.1; without noise nothing is divided. float32 of 0..255: 1e-4.
    Both ways of InputTransform, operation by operation and image by image, give the same to the bit.
    """
    rng = np.random.default_rng(0)
    count, whole, side = 40, 20, 13
    images = rng.integers(0, 256, (count, whole, whole, 3), dtype=np.uint8)
    mean = rng.uniform(0, 255, (whole, whole, 3)).astype(np.float32)
    components = rng.normal(size=(3, 3)).astype(np.float32) * 20
    draws = draw_epoch(profile, 0, 0, count, whole - side)
    patches = np.stack(
        [x[t : t + side, left : left + side] for x, t, left in zip(images, draws.top, draws.left, strict=True)]
    )
    rule = InputRule(mean, side, profile.mean, profile.input_scale)
    colour_noise = ColourNoise(components, profile.colour_divisor)
    plain, by_image = (InputTransform(rule, colour_noise, torch.device("cpu"), layout) for layout in (False, None))
    assert by_image.line_by_line and not plain.line_by_line
    for noise in (True, False):
        given = torch.from_numpy(patches), draws if noise else replace(draws, colour=None)
        assert torch.equal(plain(*given), by_image(*given))
        got = plain(*given).numpy()
        for i in range(count):
            rows, columns = slice(draws.top[i], draws.top[i] + side), slice(draws.left[i], draws.left[i] + side)
            shift = sum(draws.colour[i, k].item() * components[:, k].astype(np.float64) for k in range(3)) * noise
            if profile is PAPER:
                patch = (images[i].astype(np.float64) - mean)[rows, columns]
                patch = (patch[:, ::-1] if draws.mirror[i] else patch) + shift
            else:
                patch = images[i].astype(np.float64)[rows, columns]
                patch = (patch[:, ::-1] if draws.mirror[i] else patch) - mean[3:16, 3:16] + shift
                patch = patch / 1.1 if noise else patch
            np.testing.assert_allclose(got[i], patch.transpose(2, 0, 1), atol=1e-4)


def test_inputs_divided_as_other_reproductions_do() -> None:
    """[0,1] over a standard deviation of 0.226: the same pictures, 57.63 times smaller."""
    patches = torch.randint(0, 256, (2, 13, 13, 3), dtype=torch.uint8)
    corner = view_draws([View(0, 0, False)], 2, torch.device("cpu"))
    mean = np.full((20, 20, 3), 120, np.float32)
    rules = [InputRule(mean, 13, "at_patch", scale) for scale in (1.0, 1 / 57.63)]
    whole, divided = (InputTransform(rule, None, torch.device("cpu"), None)(patches, corner) for rule in rules)
    torch.testing.assert_close(divided * 57.63, whole)


def test_both_columns_see_the_same_numbers(prepared: Path) -> None:
    """On two devices of one kind, to the bit; `cpu` and `cpu:0` play them."""
    data = PreparedData(prepared)
    draws = draw_epoch(PAPER, 0, 0, 60, 8)
    batch = next(epoch_batches(data.split("train"), shuffled(0, 0, 60), draws, 67, 16, Loading(0)))
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    inputs = ColumnInputs(data.input_rule(PAPER, 67), devices, None, data.colour_noise(PAPER))
    first, second = inputs.of_batch({device: batch for device in devices}, with_noise=True)
    assert first is not second and torch.equal(first, second)


def test_colour_noise_has_the_covariance_of_the_formula(prepared: Path) -> None:
    """[p1 p2 p3][a1 l1, a2 l2, a3 l3]^T with l on the [0,1] scale, a ~ N(0, 0.1), in grey levels; and 0.1 times the
    standard deviations, as run in 2012, which makes 0.01 times the covariance itself.
    """
    data = PreparedData(prepared)
    covariance = np.array(data.manifest.statistics["rgb_covariance"])
    values, vectors = np.linalg.eigh(covariance / 255**2)
    expected = vectors @ np.diag((0.1 * values * 255) ** 2) @ vectors.T
    for profile, wanted in ((PAPER, expected), (CODE2012, 0.01 * covariance)):
        components = data.colour_noise(profile).components.astype(np.float64)
        np.testing.assert_allclose(0.01 * components @ components.T, wanted, rtol=1e-4, atol=1e-6)
    assert (data.colour_noise(PAPER).divisor, data.colour_noise(CODE2012).divisor) == (1.0, 1.1)


def test_images_lie_channels_last_on_a_cpu_unless_told_otherwise() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    last, first = torch.channels_last, torch.contiguous_format
    assert [memory_format(device, None) for device in (cpu, gpu)] == [last, first]
    assert [memory_format(device, chosen) for device in (cpu, gpu) for chosen in (True, False)] == [last, first] * 2
    rule = InputRule(np.zeros((12, 12, 3), np.float32), 12, "at_patch", 1.0)
    images, corner = torch.zeros(2, 12, 12, 3, dtype=torch.uint8), view_draws([View(0, 0, False)], 2, cpu)
    for chosen, layout in ((None, last), (False, first)):
        x = InputTransform(rule, None, cpu, chosen)(images, corner)
        assert x.is_contiguous(memory_format=layout)


def test_ten_views() -> None:
    """As run in 2012: corners (0,0), (0,32), (32,0), (32,32), centre (16,16), and mirrors."""
    views = views_of(10, 32)
    places = {(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)}
    assert {(v.top, v.left, v.mirror) for v in views} == {(t, left, m) for t, left in places for m in (False, True)}
    assert len(views) == 10
    assert views_of(1, 32) == views[:1]
    assert (views[0].top, views[0].left, views[0].mirror) == (16, 16, False)


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no prepared data set here.*make prepare-imagenet"):
        PreparedData(tmp_path / "none")
