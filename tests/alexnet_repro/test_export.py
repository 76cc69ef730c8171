"""Exported files in the runtimes they are for, against the probabilities of tests/alexnet_repro/reference.py."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import reference
import torch
import torchvision
from conftest import SMALL
from networks import sensitive
from safetensors import safe_open

from alexnet_repro.config import ExportConfig, TrainConfig
from alexnet_repro.export import export
from alexnet_repro.model import AlexNet
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import RunFolder
from data_prep.common.cli import load
from data_prep.common.errors import RequestError

WORDS = ["a", "b, quoted “b”", "c", "d", "e"]


@pytest.fixture(scope="module", params=["paper", "code2012"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The overrides that name a run with random weights, large enough that classes differ."""
    runs = tmp_path_factory.mktemp("runs")
    config = load(
        "train",
        TrainConfig,
        [*SMALL, *(f"{group}={request.param}" for group in ("model", "augment")), f"runs_dir={runs}", "run=r"],
    )
    model = sensitive(AlexNet(config.model, classes=len(WORDS)))
    rng = np.random.default_rng(0)
    folder = RunFolder(config.folder)
    with folder.locked():
        folder.write_config(config)
    Checkpoint(
        epoch=3, step=9, within={}, weights=dict(model.state_dict()), buffers={}, buffer_rates={}, history=[],
        classes=[f"n{i}" for i in range(len(WORDS))], words=WORDS,
        data={"name": "noise", "description": "noise for a test", "plan": "none"},
        mean_image=torch.from_numpy(rng.uniform(90, 150, (75, 75, 3)).astype(np.float32)),
        inputs={"mean": config.augment.mean, "scale": 1.0}, model=asdict(config.model),
    ).save(folder.checkpoint_path("last"))  # fmt: skip
    return [f"runs_dir={runs}", "run=r"]


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 75, 75, 3), dtype=np.uint8)


def checkpoint_of(run: list[str]) -> dict[str, Any]:
    return reference.read_checkpoint(Path(run[0].split("=")[1]) / "r" / "checkpoints" / "last.pt")


def assert_same(run: list[str], classify: Callable[[np.ndarray], np.ndarray], views: int) -> None:
    """For batches of other sizes than it was traced with. Catches a file that subtracts no mean or another, mirrors no
    view, cuts elsewhere, or mixes up the classes. Tolerance: float32, sums in another order.
    """
    checkpoint, tolerance = checkpoint_of(run), 5e-6
    images = pictures(5)
    reference.assert_sensitive_to_views(checkpoint, images, tolerance)
    for batch in (images, images[:1]):
        np.testing.assert_allclose(
            classify(batch), reference.probabilities(checkpoint, batch, views), rtol=0, atol=tolerance
        )


def exported(run: list[str], out: Path, *overrides: str) -> Path:
    export(load("export", ExportConfig, [*run, f"out={out}", *overrides]))
    return out


@pytest.mark.parametrize(("run", "views", "opset"), [("paper", 10, 18), ("code2012", 1, 20)], indirect=["run"])
def test_onnx_subtracts_the_mean_image_and_gives_the_references_probabilities(
    run: list[str], views: int, opset: int, tmp_path: Path
) -> None:
    path = exported(run, tmp_path / "net.onnx", "format=onnx", f"views={views}", f"opset={opset}")
    assert {entry.domain: entry.version for entry in onnx.load(path).opset_import}[""] == opset
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert_same(run, lambda images: session.run(["probabilities"], {"images": images})[0], views)
    about = session.get_modelmeta().custom_metadata_map
    assert about["opset"] == str(opset)
    assert about["input"] == "images, uint8 [N, 75, 75, 3]"
    assert json.loads(about["words"]) == WORDS
    for fact in ("RGB", "shorter side resized to 75", "central 75x75", "0..255", "minus the ", "mean image", "67x67"):
        assert fact in about["preprocessing"]


@pytest.mark.parametrize("views", [1, 10])
def test_torchscript_subtracts_the_mean_image_and_gives_the_references_probabilities(
    run: list[str], views: int, tmp_path: Path
) -> None:
    path = exported(run, tmp_path / "net.torchscript", "format=torchscript", f"views={views}")
    about = {"about.json": ""}
    loaded = torch.jit.load(str(path), _extra_files=about)
    assert_same(run, lambda images: loaded(torch.from_numpy(images)).numpy(), views)
    assert json.loads(about["about.json"])["output"] == "probabilities, float32 [N, 5]"
    assert "cpu" not in str(loaded.inlined_graph)  # so that it can be moved to a GPU


def test_safetensors_holds_the_weights_by_layer_and_column(run: list[str], tmp_path: Path) -> None:
    path = exported(run, tmp_path / "net.safetensors", "format=safetensors")
    wanted = checkpoint_of(run)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {*wanted["weights"], "mean_image"}
        assert torch.equal(file.get_tensor("conv3.b.weight"), wanted["weights"]["conv3.b.weight"])
        assert torch.equal(file.get_tensor("mean_image"), wanted["mean_image"])
        assert json.loads(file.metadata()["configuration"])["conv1"]["kernels"] == 8


def test_joined_columns_under_torchvisions_names(run: list[str], tmp_path: Path) -> None:
    """Its weights are those of grouped convolutions, as grouped.py has them, and torchvision's names in order."""
    path = exported(run, tmp_path / "net.safetensors", "format=safetensors", "names=torchvision")
    ours = dict(torchvision.models.AlexNet(num_classes=5).named_parameters())
    checkpoint = checkpoint_of(run)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {*ours, "mean_image"}
        assert torch.equal(file.get_tensor("mean_image"), checkpoint["mean_image"])
        grouped = reference.network_of(checkpoint).float().state_dict()
        for theirs, name in zip(ours, grouped, strict=True):
            assert torch.equal(file.get_tensor(theirs), grouped[name]), theirs


@pytest.mark.parametrize("run", ["paper"], indirect=True)
def test_wrong_requests(run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, said in (
        (["format=tflite"], "format=tflite: must be one of onnx, torchscript, safetensors"),
        (["format=safetensors", "views=10"], "views=10: must be left out"),
        (["format=torchscript", "opset=20"], "opset=20: must be left out"),
        (["format=onnx", "names=torchvision"], "names=torchvision: must be left out: it is for format=safetensors"),
        (["opset=99"], "opset=99: must be 18 to"),
        (["out=nowhere/net.onnx"], "out=nowhere/net.onnx: its folder does not exist"),
        (["out=."], r"out=\.: is no plain file"),
        (["out=/dev/null"], "out=/dev/null: is no plain file"),
    ):
        with pytest.raises(RequestError, match=said):
            export(load("export", ExportConfig, [*run, *wrong]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="needs the package safetensors; install the project's extra"):
        exported(run, tmp_path / "net.safetensors", "format=safetensors")
    assert list(tmp_path.iterdir()) == []
