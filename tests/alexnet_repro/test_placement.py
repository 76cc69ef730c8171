"""Columns on devices: what is chosen, what crosses over and when, and that no placement changes a result."""

import re
from typing import ClassVar

import pytest
import torch
from networks import small

from alexnet_repro.model import choose_devices, exchange, place
from data_prep.common.cli import conf_folder
from data_prep.common.errors import RequestError

CPU = torch.device("cpu")

# All that may cross over: at the seam of a normalisation, and the classes of a head in shares.
SEAMS = ["model=code2012_bottleneck", "model.conv6.kernels=8", "model.bottleneck.units=10", "model.norm.across=layer"]


def test_placement_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cpu = torch.device("cpu")
    assert choose_devices(2) == ([cpu, cpu], None)
    devices, warning = choose_devices(2, gpus=2)
    assert devices == [cpu, cpu]
    assert warning == "gpus=2, but this machine has no GPU: all columns run on cpu"
    with pytest.raises(RequestError, match="cuda:0 does not exist"):
        choose_devices(2, devices=["cuda:0", "cpu"])
    assert choose_devices(2, devices=["cpu"]) == ([cpu, cpu], None)
    for wrong in ({"gpus": 3}, {"gpus": -1}, {"devices": ["cpu"] * 3}, {"devices": ["tpu0"]}):
        with pytest.raises(RequestError):
            choose_devices(2, **wrong)  # type: ignore[arg-type]


class RecordingStream:
    """Stands for a CUDA stream where there is none, and writes down who waits for whom and what happens on it."""

    log: ClassVar[list[tuple[str, ...]]] = []
    current: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: "RecordingStream") -> None:
        self.log.append(("wait", self.name, other.name))

    def __enter__(self) -> None:
        self.current.append(self.name)

    def __exit__(self, *_: object) -> None:
        self.current.remove(self.name)


def test_the_exchange_between_gpus_as_far_as_a_cpu_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients, and the order of waiting: a copy waits for its source before any reader is told to wait, or
    the copies of one direction would wait for those of the other. `cpu` and `cpu:0` play the two GPUs.

    Backward waits for the streams of forward: autograd sets them in its threads on one GPU of a node only.
    """
    log, current = RecordingStream.log, RecordingStream.current
    devices = [CPU, torch.device("cpu", 0)]
    plain_to = torch.Tensor.to

    def to(tensor: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        log.append(("copy", *current))
        return plain_to(tensor, *args, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(exchange, "_between_gpus", lambda source, target: True)
    monkeypatch.setattr(exchange, "_copy_stream", lambda device, direction: RecordingStream(f"{direction} {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: RecordingStream(f"main {device}"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append(("keep", stream.name)))
    monkeypatch.setattr(torch.Tensor, "to", to)
    columns = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in devices]
    log.clear()
    gathered = exchange.gather(columns, devices)
    forward = list(log)
    log.clear()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: RecordingStream(f"another {device}"))
    weights = [torch.randn_like(whole) for whole in gathered]
    sum((whole * weight).sum() for whole, weight in zip(gathered, weights, strict=True)).backward()

    for whole in gathered:
        assert torch.equal(whole, torch.cat(columns, 1))
    for column, grad in zip(columns, sum(weights).chunk(2, dim=1), strict=True):
        torch.testing.assert_close(column.grad, grad)
    # Here every source is `cpu`; forward goes to `cpu` and `cpu:0`, two columns each, and the gradients come back.
    for events, targets in ((forward, ["cpu"] * 2 + ["cpu:0"] * 2), (list(log), ["cpu"] * 4)):
        assert events == (
            [("wait", "out cpu", "main cpu")] * 4
            + [event for target in targets for event in (("copy", "out cpu", f"in {target}"), ("keep", "out cpu"))]
            + [event for target in targets
               for event in (("wait", f"main {target}", f"in {target}"), ("keep", f"main {target}"))]
        )  # fmt: skip


@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="needs a GPU")
@pytest.mark.parametrize("devices", [["cuda:0", "cuda:0"], ["cuda:0", "cpu"], ["cpu", "cuda:0"], ["cuda:0", "cuda:1"]])
@pytest.mark.parametrize("settings", [[], SEAMS], ids=["paper", "seams and shares"])
def test_placements_agree(devices: list[str], settings: list[str]) -> None:
    """Catches an exchange that reads before its copy is there. Tolerance: float64, sums in another order."""
    if "cuda:1" in devices and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = torch.randn(3, 3, 67, 67, dtype=torch.float64) * 50
    model = small(*settings).eval()
    expected = model(x)
    expected.sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}  # type: ignore[union-attr]
    model.zero_grad()
    placed = place(model, choose_devices(2, devices=devices)[0])
    result = placed(x)
    result.sum().backward()
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-10, atol=1e-12)
    for name, parameter in placed.named_parameters():
        torch.testing.assert_close(parameter.grad.cpu(), gradients[name], rtol=1e-9, atol=1e-12)  # type: ignore[union-attr]


def test_graphs_wait_for_the_copies_of_what_they_write_again(monkeypatch: pytest.MonkeyPatch) -> None:
    RecordingStream.log.clear()
    monkeypatch.setattr(exchange, "_copy_stream", lambda device, direction: RecordingStream(f"{direction} {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: RecordingStream(f"main {device}"))
    exchange.wait_for_copies([torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")])
    assert RecordingStream.log == [("wait", f"main cuda:{gpu}", f"out cuda:{gpu}") for gpu in (0, 1)]


@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="needs a GPU")
def test_nothing_makes_the_host_wait_within_a_step() -> None:
    devices = choose_devices(2)[0]
    model = place(small("model=code2012").float(), devices).train()
    images = [torch.randn(3, 3, 67, 67, device=device) for device in devices]
    model(images).sum().backward()  # the first pass sets libraries up
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.seed_dropout(0, 2)
        model(images).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_only_exchange_and_placement_know_devices() -> None:
    """A tensor that changes device anywhere else would be an exchange that Figure 2 does not have. kernels.py draws
    weights, for people.
    """
    folder = conf_folder().parent / "alexnet_repro" / "model"
    apart = {"exchange.py", "placement.py", "kernels.py"}  # kernels.py draws weights, and computes no layer
    for path in (path for path in folder.glob("*.py") if path.name not in apart):
        found = re.findall(r"\.to\([^)]*(?:device|cuda|cpu)|\.(?:cuda|cpu)\(|non_blocking", path.read_text())
        assert not found, path
