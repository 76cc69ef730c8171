"""What a person sees of a run: event files read back as TensorBoard reads them, dead units, norms, the live line."""

import copy
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
from networks import small
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor, nn

from alexnet_repro.config import TrainConfig
from alexnet_repro.reporting.events import EventFile
from alexnet_repro.reporting.health import DeadUnits, learning_rates, norms
from alexnet_repro.reporting.progress import TrainingBar, duration, epoch_line
from alexnet_repro.reporting.tensorboard import Dashboard
from alexnet_repro.train import train
from alexnet_repro.training.sgd import PaperSGD
from data_prep.command import load

ROW = {
    "epoch": 1,
    "step": 4,
    "learning_rate": 0.01,
    "train_loss": 2.25,
    "train_top1_error": 0.75,
    "train_top5_error": 0.375,
    "val_loss": 2.5,
    "val_top1_error": 0.625,
    "val_top5_error": 0.25,
    "images_per_second": 50.0,
    "data_wait": 0.5,
    "seconds": 64.0,
}
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
            first.epoch(step, ROW, HEALTH, kernels)
    first.batch(7, torch.zeros(4, 3, 8, 8), torch.zeros(3, 8, 8))
    first.close()  # killed at step 7, with the checkpoint of step 4
    again = Dashboard(tmp_path, 4, reference=(40.7, 18.2))
    again.start("seed: 0\ndevices: [cpu]", PAPER)
    for step in range(5, 9):
        again.train(step, {"loss": 2.0, "learning_rate/weights": 0.001})
    again.epoch(8, ROW | {"val_top1_error": 0.5}, HEALTH, kernels)
    again.finish()
    again.close()

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
    dashboard.close()
    first, second = read(tmp_path).Images("pictures/augmented_batch")
    pixels = np.array(Image.open(io.BytesIO(first.encoded_image_string)))
    np.testing.assert_array_equal(pixels[2:14, 16:28], pictures[1].permute(1, 2, 0))  # the second, after 2 + 12 + 2
    np.testing.assert_array_equal(pixels[16:28, 2:14], pictures[8].permute(1, 2, 0))  # eight in a row
    assert np.array(Image.open(io.BytesIO(second.encoded_image_string))).min() == 255


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
    dashboard.close()
    assert curve(read(tmp_path), "loss/train_step") == [(step, float(step)) for step in range(1, 102)]


def test_what_waits_for_a_full_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_repro.reporting.events._BYTES_THAT_WAIT", 4000)
    (tmp_path / "file").touch()
    dashboard = Dashboard(tmp_path / "file" / "tensorboard", 0)  # no folder can be made there
    for step in range(1, 1001):
        dashboard.epoch(step, {"val_loss": float(step)}, {}, None)
    (tmp_path / "file").unlink()
    dashboard.close()
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


class Recorded(nn.Module):
    """A ReLU that keeps all it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.outputs.append(x.clamp(min=0).clone())
        return self.outputs[-1].clone()

    def dead_share(self) -> float:
        x = torch.cat(self.outputs)
        maps = x.transpose(0, 1).reshape(x.shape[1], -1).numpy()
        return sum(bool((values == 0).all()) for values in maps) / len(maps)


@pytest.mark.parametrize("variant", ["paper", "code2012", "one_column"])
def test_dead_units_are_those_that_a_count_by_hand_finds(variant: str) -> None:
    model = small(f"model={variant}").eval()
    with torch.no_grad():
        for layer, share in (("conv1", 4), ("conv4", 2), ("fc6", 3)):  # some die for good, others on some images only
            model.layers()[layer].parts()[0].bias[::share] = -1e4
        model.layers()["fc7"].parts()[0].bias -= 0.3
    by_hand = copy.deepcopy(model)
    for layer in by_hand.layers().values():
        for then in layer.then:
            for index, module in enumerate(then):
                if isinstance(module, nn.ReLU):
                    then[index] = Recorded()
    batches = [torch.randn(n, 3, 67, 67, dtype=torch.float64) * scale for n, scale in ((3, 1.0), (2, 30.0))]
    with DeadUnits(model) as dead, torch.inference_mode():
        for batch in batches:
            model(batch)
    model(batches[0] * 100)  # after the pass: not counted
    with torch.inference_mode():
        for batch in batches:
            by_hand(batch)
    expected = {
        f"dead_relu/{name}.{column}": recorded.dead_share()
        for name, layer in by_hand.layers().items()
        for column, then in zip(layer.names, layer.then, strict=True)
        for recorded in then
        if isinstance(recorded, Recorded)
    }
    assert dead.shares() == pytest.approx(expected)
    assert 0.2 < expected["dead_relu/conv1.a"] < 1 and 0 < expected["dead_relu/fc7.a"] < 1


def test_networks_without_relu_have_no_dead_ones() -> None:
    model = small("model.activation=tanh")
    with DeadUnits(model) as dead:
        model(torch.zeros(1, 3, 67, 67, dtype=torch.float64))
    assert dead.shares() == {}


def test_dead_on_all_ranks_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ranks exchange has the same places on all, even on one that had no images."""
    model = small().eval()
    with torch.no_grad():
        model.layers()["fc7"].parts()[0].bias -= 0.3
    parts = torch.randn(3, 2, 3, 67, 67, dtype=torch.float64)
    with DeadUnits(model) as whole, torch.inference_mode():
        model(parts.flatten(0, 1))
    expected = whole.shares()
    sent: list[Tensor] = []

    def all_reduce(flags: Tensor, _: object) -> None:
        sent.append(flags.clone())
        flags.copy_(torch.stack(sent).amax(0))

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    for images in (*parts, None):
        with DeadUnits(model) as dead, torch.inference_mode():
            if images is not None:
                model(images)
        shares = dead.shares()
    assert shares == expected


def test_norms_are_those_of_w_and_of_section_5s_v() -> None:
    """In float64 against numpy. v keeps its scale over a division of the rate, and a rate of 0 leaves it."""
    model = small()
    optimiser = PaperSGD(model.parameters(), learning_rate=0.01, momentum=0.9, weight_decay=0.0005)
    assert norms(model, optimiser)["velocity_norm/conv1.a"] == 0
    w = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    rng = np.random.default_rng(0)
    for eps in (0.01, 0.01, 0.001, 0.0):
        optimiser.param_groups[0]["lr"] = eps
        for name, p in model.named_parameters():
            gradient = rng.normal(size=p.shape)
            p.grad = torch.from_numpy(gradient)
            if eps:
                v[name] = 0.9 * v[name] - 0.0005 * eps * w[name] - eps * gradient
                w[name] = w[name] + v[name]
        optimiser.step()
    found = norms(model, optimiser)
    assert len(found) == 2 * 15  # seven layers of two columns, and fc8
    for layer in ("conv1.a", "conv4.b", "fc8.a"):
        assert found[f"weight_norm/{layer}"] == pytest.approx(np.linalg.norm(w[f"{layer}.weight"]), rel=1e-12)
        assert found[f"velocity_norm/{layer}"] == pytest.approx(np.linalg.norm(v[f"{layer}.weight"]), rel=1e-9)
    assert learning_rates(optimiser) == {"learning_rate/weights": 0.0}


def test_norms_of_large_layers_keep_their_digits() -> None:
    """A sum of 2^24 squares in float32 is off by 1e-4."""
    model = small()
    weight = torch.rand(4096, 4096)
    model.layers()["fc6"].parts()[0].weight = nn.Parameter(weight)
    optimiser = PaperSGD(model.parameters(), learning_rate=0.01, momentum=0.9, weight_decay=0.0005)
    expected = np.linalg.norm(weight.numpy().astype(np.float64))
    assert norms(model, optimiser)["weight_norm/fc6.a"] == pytest.approx(expected, rel=1e-9)


def test_rates_of_biases_and_single_layers_have_curves_where_they_differ() -> None:
    def group(layer: str, bias: bool, rate: float) -> dict[str, object]:
        return {"params": [nn.Parameter(torch.zeros(1))], "layer": layer, "bias": bias, "lr": rate}

    groups = [group("", False, 0.01), group("", True, 0.02), group("conv1", False, 0.001), group("conv1", True, 0.001)]
    assert learning_rates(torch.optim.SGD(groups)) == {
        "learning_rate/weights": 0.01,
        "learning_rate/biases": 0.02,
        "learning_rate/conv1_weights": 0.001,
    }


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train_an_epoch(stream: io.StringIO) -> list[float]:
    """200 batches of 50 pictures, 2 s each, a quarter of it waiting, in epoch 3 of 5."""
    now = [0.0]
    settings = {"epoch": 3, "epochs": 5, "images": 10_000, "fixed_end": True, "between_epochs": 100.0}
    errors = {"train_top1_error": 0.7, "train_top5_error": 0.4}
    with TrainingBar(**settings, last=ROW, stream=stream, clock=lambda: now[0]) as bar:  # type: ignore[arg-type]
        for step in range(1, 101):
            now[0] += 2.0
            bar.update(50, 0.5, step, loss=2.0, learning_rate=0.01, **(errors if step > 50 else {}))
    return now


def test_the_live_line_in_a_file_is_a_plain_line_a_minute() -> None:
    stream = io.StringIO()
    train_an_epoch(stream)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert len(lines) == 3  # 200 seconds
    # At 90 of 200 batches 5,500 pictures are left at 25 a second: 220 s; then 100 s of validation and two epochs more.
    assert lines[2] == (
        "epoch 3/5 45 %  step 90  loss 2.000  left 3 min 40 s (run 22 min 00 s)  25.0 images/s  "
        "train error 70.0 %, top-5 40.0 %  val 62.5 %, top-5 25.0 %  rate 0.01  waits for data 25.0 %"
    )


def test_the_live_line_on_a_terminal_is_one_line_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    train_an_epoch(stream)
    drawn = [line for line in stream.getvalue().split("\r") if line.strip()]
    assert "\n" not in stream.getvalue() and stream.getvalue().endswith("\r")
    assert re.match(r"epoch 3/5  50 % \|\S+ +\|  step 100  loss 2\.000  left 3 min 20 s \(run 21 min 40 s\)", drawn[-1])


def test_the_line_that_closes_an_epoch() -> None:
    assert epoch_line(ROW, 90) == (
        "epoch 1/90  rate 0.01  train loss 2.250, top-1 error 75.0 %, top-5 37.5 %  "
        "val loss 2.500, top-1 62.5 %, top-5 25.0 %  "
        "50.0 images/s, waited for data 50.0 %, 1 min 04 s"
    )
    spans = {12.2: "12 s", 59.6: "1 min 00 s", 3599.8: "1 h 00 min", 5.5 * 86400: "5 d 12 h"}
    assert {seconds: duration(seconds) for seconds in spans} == spans
