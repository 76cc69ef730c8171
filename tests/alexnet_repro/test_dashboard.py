"""A run's event files, read back as TensorBoard reads them."""

import io
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from evidence import EPOCH_ROW
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torchvision.utils import make_grid

from alexnet_repro.config import TrainConfig
from alexnet_repro.model.kernels import kernel_grid
from alexnet_repro.monitor.events import EventFile
from alexnet_repro.monitor.tensorboard import Dashboard
from alexnet_repro.train import train
from data_prep.common.cli import load

HEALTH = {"weight_norm/conv1.a": 3.0, "velocity_norm/conv1.a": 0.5, "dead_relu/conv1.a": 0.125}
PAPER = {"learning_rate": 0.01, "weight_decay": 0.0005, "nesterov": False, "model": "paper"}


def read(folder: Path) -> EventAccumulator:
    everything = dict.fromkeys(("scalars", "images", "tensors"), 0)
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def curve(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in events.Scalars(tag)]


def charts(events: EventAccumulator) -> dict[str, str]:
    """Title and pattern of every chart of the layout that TensorBoard takes, the last one."""
    content = events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    layout = Layout.FromString(content)
    return {f"{c.title}/{chart.title}": chart.multiline.tag[0] for c in layout.category for chart in c.chart}


def test_what_lies_beyond_the_resumed_step_vanishes(tmp_path: Path) -> None:
    kernels = np.zeros((13, 26, 3), np.uint8)
    first = Dashboard(tmp_path, 0, reference=(40.7, 18.2))
    first.start("seed: 0", PAPER)
    for step in range(1, 8):
        first.train(step, {"loss": 3.0, "learning_rate/weights": 0.01})
        if step == 4:
            first.epoch(step, EPOCH_ROW, HEALTH, kernels)
    first.batch(7, torch.zeros(4, 3, 8, 8), torch.zeros(3, 8, 8))
    first.flush()  # killed at step 7, with the checkpoint of step 4
    again = Dashboard(tmp_path, 4, reference=(40.7, 18.2))
    again.start("seed: 0\ndevices: [cpu]", PAPER)
    for step in range(5, 9):
        again.train(step, {"loss": 2.0, "learning_rate/weights": 0.001})
    again.epoch(8, EPOCH_ROW | {"val_top1_error": 0.5}, HEALTH, kernels)
    again.finish()
    again.flush()

    events = read(tmp_path)
    assert curve(events, "loss/train_step") == [(step, 3.0) for step in range(1, 5)] + [
        (step, 2.0) for step in range(5, 9)
    ]
    assert curve(events, "error_percent/val_top1") == [(4, 62.5), (8, 50.0)]
    assert curve(events, "learning_rate/weights")[3:5] == [(4, pytest.approx(0.01)), (5, pytest.approx(0.001))]
    assert curve(events, "dead_relu_percent/conv1.a") == [(4, 12.5), (8, 12.5)]
    reference = curve(events, "error_percent/paper_ten_views_top5")
    assert [step for step, _ in reference] == [1, 4, 5, 8] and {round(v, 4) for _, v in reference} == {18.2}
    assert [image.step for image in events.Images("pictures/conv1_kernels")] == [4, 8]
    assert "pictures/augmented_batch" not in events.Tags()["images"] or not events.Images("pictures/augmented_batch")
    texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("configuration/text_summary")]
    assert texts == ["    seed: 0\n", "    seed: 0\n    devices: [cpu]\n"]

    hparams = events.PluginTagToContent("hparams")
    session = HParamsPluginData.FromString(hparams["_hparams_/session_start_info"]).session_start_info.hparams
    assert session["learning_rate"].number_value == 0.01 and session["nesterov"].string_value == "false"
    metrics = HParamsPluginData.FromString(hparams["_hparams_/experiment"]).experiment.metric_infos
    assert {"error_percent/val_top1", "error_percent/val_top5"} <= {info.name.tag for info in metrics}
    assert all(events.Scalars(info.name.tag) for info in metrics)  # the table looks its errors up there
    assert "_hparams_/session_end_info" in hparams


def config_for(prepared: Path, runs: Path, *overrides: str) -> TrainConfig:
    fixed = [f"data.path={prepared}", f"runs_dir={runs}", "run=r", "schedule=constant", "schedule.epochs=1"]
    return load("train", TrainConfig, [*SMALL, *fixed, *overrides])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_run_fills_every_chart_it_has(prepared: Path, tmp_path: Path, activation: str) -> None:
    train(config_for(prepared, tmp_path, f"model.activation={activation}"))
    folder = tmp_path / "r" / "tensorboard"
    assert len(list(folder.iterdir())) == 1  # one writer, and no run beside the run in TensorBoard's list
    events = read(folder)
    tags = events.Tags()["scalars"]
    shown = charts(events)
    for title, pattern in shown.items():
        assert any(re.match(pattern, tag) for tag in tags), f"{title} is empty"
    for tag in (
        "error_percent/val_top5",
        "loss/val",
        "learning_rate/weights",
        "weight_norm/fc8.a",
        "velocity_norm/conv5.b",
    ):
        assert any(re.match(pattern, tag) for pattern in shown.values()) and tag in tags, tag
    assert any(tag.startswith("dead_relu") for tag in tags) == (activation == "relu")
    assert not any("paper" in tag or "gpu" in tag for tag in tags)  # ten drawn classes on a CPU
    assert len(events.Images("pictures/conv1_kernels")) == len(events.Images("pictures/augmented_batch")) == 1
    assert "conv1" in events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()


def test_a_batch_is_shown_with_its_mean(tmp_path: Path) -> None:
    pictures = torch.randint(0, 256, (20, 3, 12, 12))
    mean = torch.rand(3, 12, 12) * 255
    dashboard = Dashboard(tmp_path, 0)
    dashboard.batch(1, pictures - mean, mean)
    dashboard.batch(2, pictures + 300.0, torch.zeros(3, 1, 1))  # beyond white is white
    dashboard.flush()
    first, second = read(tmp_path).Images("pictures/augmented_batch")
    pixels = np.array(Image.open(io.BytesIO(first.encoded_image_string)))
    np.testing.assert_array_equal(pixels[1:13, 15:27], pictures[1].permute(1, 2, 0))  # the second, after 1 + 12 + 2
    np.testing.assert_array_equal(pixels[15:27, 1:13], pictures[8].permute(1, 2, 0))  # eight in a row
    assert np.array(Image.open(io.BytesIO(second.encoded_image_string))).min() == 255


@pytest.mark.parametrize("shape", [(48, 3, 11, 11), (12, 3, 5, 5), (20, 3, 5, 5), (16, 1, 4, 4)], ids=str)
def test_kernels_lie_as_torchvision_lays_them(shape: tuple[int, ...]) -> None:
    kernels = torch.randn(shape)
    kernels[0] = 0.5  # all alike
    grid = make_grid(kernels, nrow=16, padding=2, normalize=True, scale_each=True, pad_value=1.0).permute(1, 2, 0)
    expected = (grid * 255).round().to(torch.uint8).numpy()
    gap = np.full((6, expected.shape[1], 3), 255, np.uint8)
    np.testing.assert_array_equal(kernel_grid([kernels, kernels]), np.concatenate([expected, gap, expected]))


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Writing beyond fails as on a full disk: up to the limit, then with OSError (Python ignores SIGXFSZ)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_once_and_costs_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dashboard = Dashboard(tmp_path, 0)
    dashboard.start("seed: 0", PAPER)
    written = next(tmp_path.iterdir())
    size = written.stat().st_size
    with files_no_longer_than(size + 1000):
        for step in range(1, 101):
            dashboard.train(step, {"loss": float(step)})
            if step % 20 == 0:
                dashboard.epoch(step, {"val_loss": 1.0}, {}, None)  # flushes
        assert written.stat().st_size == size  # whole records only: readers stop at half a one
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"warning: {written}: cannot be written (File too large)")
    dashboard.train(101, {"loss": 101.0})
    dashboard.flush()
    assert curve(read(tmp_path), "loss/train_step") == [(step, float(step)) for step in range(1, 102)]


def test_what_waits_for_a_full_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.common.files._MOST_WAITING", 4000)
    (tmp_path / "file").touch()
    dashboard = Dashboard(tmp_path / "file" / "tensorboard", 0)  # no folder can be made there
    for step in range(1, 1001):
        dashboard.epoch(step, {"val_loss": float(step)}, {}, None)
    (tmp_path / "file").unlink()
    dashboard.flush()
    points = curve(read(tmp_path / "file" / "tensorboard"), "loss/val")
    assert points[-1] == (1000, 1000.0) and 10 < len(points) < 200  # the latest, about 50 bytes each


def test_a_clock_set_back_does_not_turn_sessions_round(tmp_path: Path) -> None:
    late = tmp_path / "events.out.tfevents.9999990000.host.1.0"
    late.touch()
    names = [late.name]
    for _ in range(2):
        file = EventFile(tmp_path, 1)
        file.flush()
        names.append(file.path.name)
    assert names == sorted(names)
