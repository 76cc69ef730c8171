"""A comparison is worth something only if both sides make the same thing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import prepare_config
from PIL import Image
from torchvision.datasets import ImageFolder

from alexnet_repro.benchmark_input import SideBySide, benchmark_input
from alexnet_repro.config import InputBenchmarkConfig
from alexnet_repro.data import PreparedData
from data_prep.common.cli import load
from data_prep.common.errors import RequestError
from data_prep.prepare import prepare


def config(src: Path, *more: str) -> InputBenchmarkConfig:
    return load("benchmark_input", InputBenchmarkConfig, [f"src={src}", "steps=1", *more])


def write_picture(path: Path, side: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)


def test_both_sides_make_the_same_input(tmp_path: Path) -> None:
    """Square pictures, shrunk by both with the same filter, the centre cut, the mean image's centre subtracted."""
    for number in range(5):
        for split in ("train", "val"):
            write_picture(tmp_path / "src" / split / f"class{number}" / "picture.png", 120 + 30 * number, number)
    out = tmp_path / "raw"
    prepare(prepare_config(tmp_path / "src", out, encoding="raw", image_size=100))
    originals = ImageFolder(tmp_path / "src" / "train")
    plain = config(tmp_path, "augment=none", "augment.mean=centre", "model.input_size=67", "batch_size=2")
    data = PreparedData(out)
    both = SideBySide(plain, {"raw": data}, originals)
    ours, theirs = (torch.cat(list(run())) for run in both.full().values())  # type: ignore[arg-type]
    for batch, mapped in zip(both.our_patches(data), both.mapped_patches(data), strict=True):
        np.testing.assert_array_equal(batch.images.numpy(), mapped)
    labels = data.split("train").labels[both.order]  # pictures were shuffled into the shards; here each has its class
    assert ours.shape == (5, 3, 67, 67)
    for image, label in zip(ours, labels, strict=True):
        (position,) = np.flatnonzero(both.order == label)
        torch.testing.assert_close(image, theirs[position], atol=1e-4, rtol=0)  # float32 of 0..255


def test_the_command_reports_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    for number in range(3):
        write_picture(tmp_path / f"picture{number}.png", 260, number)
    try:
        benchmark_input(config(tmp_path, "images=2", "runtime.keep_freed_memory=false"))
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith(" x") for line in lines) == 8
    assert sum(line.endswith(" images/s") for line in lines) == 6  # raw, jpeg and nothing, at two sizes
    assert any(line.startswith("2 images of ") for line in lines)


def test_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"src=.*nowhere: is no folder"):
        benchmark_input(config(tmp_path / "nowhere"))
    with pytest.raises(RequestError, match=r"src=.*: found no images"):
        benchmark_input(config(tmp_path))
