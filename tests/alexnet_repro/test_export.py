"""Exported files in the runtimes they are for, against the probabilities that `evaluate` and `predict` compute."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import SMALL, run_module
from safetensors import safe_open

from alexnet_repro.config import ExportConfig, PredictConfig, TrainConfig
from alexnet_repro.data import Batch, views_of
from alexnet_repro.evaluation.predict import predict
from alexnet_repro.export import export
from alexnet_repro.model import AlexNet, initialise
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.trained import load_trained
from alexnet_repro.training.checkpoint import Checkpoint, weights_of
from data_prep.command import RequestError, load

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
    model = initialise(AlexNet(config.model, classes=len(WORDS)), seed=1)
    with torch.no_grad():
        for parameter in model.fc8.parameters():
            parameter.mul_(20)
    rng = np.random.default_rng(0)
    folder = RunFolder(config.folder)
    with folder.locked():
        folder.keep_config(config)
    Checkpoint(
        epoch=3, step=9, within={}, weights=weights_of(model), buffers={}, buffer_rates={}, history=[],
        classes=[f"n{i}" for i in range(len(WORDS))], words=WORDS,
        data={"name": "noise", "description": "noise for a test", "plan": "none"},
        mean_image=torch.from_numpy(rng.uniform(90, 150, (75, 75, 3)).astype(np.float32)),
        inputs={"mean": config.augment.mean, "scale": 1.0}, model=asdict(config.model),
    ).save(folder.checkpoint_path("last"))  # fmt: skip
    return [f"runs_dir={runs}", "run=r"]


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 75, 75, 3), dtype=np.uint8)


def expected(run: list[str], images: np.ndarray, views: int) -> np.ndarray:
    trained = load_trained(load("predict", PredictConfig, [*run, "images=[none]", "devices=[cpu]"]), "last")
    zeros = torch.zeros(len(images), dtype=torch.int64)
    batch = Batch(torch.from_numpy(images), zeros, zeros, zeros, zeros.bool(), torch.zeros(len(images), 3))
    return predict(trained.model, [batch], views_of(views, trained.margin), trained.inputs).average


def exported(run: list[str], out: Path, *overrides: str) -> Path:
    export(load("export", ExportConfig, [*run, f"out={out}", *overrides]))
    return out


@pytest.mark.parametrize(("views", "opset"), [(1, 20), (10, 18)])
def test_onnx_gives_the_same_probabilities(run: list[str], views: int, opset: int, tmp_path: Path) -> None:
    """In onnxruntime, for batches of other sizes than it was traced with."""
    path = exported(run, tmp_path / "net.onnx", "format=onnx", f"views={views}", f"opset={opset}")
    assert {entry.domain: entry.version for entry in onnx.load(path).opset_import}[""] == opset
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        (got,) = session.run(["probabilities"], {"images": pictures(count)})
        wanted = expected(run, pictures(count), views)
        assert wanted.max() - wanted.min() > 0.1
        np.testing.assert_allclose(got, wanted, atol=1e-5)  # float32, sums in another order
    about = session.get_modelmeta().custom_metadata_map
    assert about["opset"] == str(opset)
    assert about["input"] == "images, uint8 [N, 75, 75, 3]"
    assert json.loads(about["words"]) == WORDS
    for fact in ("RGB", "shorter side resized to 75", "central 75x75", "0..255", "minus the ", "mean image", "67x67"):
        assert fact in about["preprocessing"]


@pytest.mark.parametrize("views", [1, 10])
def test_torchscript_gives_the_same_probabilities(run: list[str], views: int, tmp_path: Path) -> None:
    path = exported(run, tmp_path / "net.torchscript", "format=torchscript", f"views={views}")
    about = {"about.json": ""}
    loaded = torch.jit.load(str(path), _extra_files=about)
    for count in (1, 5):
        got = loaded(torch.from_numpy(pictures(count))).numpy()
        np.testing.assert_allclose(got, expected(run, pictures(count), views), atol=1e-5)
    assert json.loads(about["about.json"])["output"] == "probabilities, float32 [N, 5]"
    assert "cpu" not in str(loaded.inlined_graph)  # so that it can be moved to a GPU


def test_safetensors_holds_the_weights_by_layer_and_column(run: list[str], tmp_path: Path) -> None:
    path = exported(run, tmp_path / "net.safetensors", "format=safetensors")
    wanted = torch.load(Path(run[0].split("=")[1]) / "r" / "checkpoints" / "last.pt", weights_only=True)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {*wanted["weights"], "mean_image"}
        assert torch.equal(file.get_tensor("conv3.b.weight"), wanted["weights"]["conv3.b.weight"])
        assert torch.equal(file.get_tensor("mean_image"), wanted["mean_image"])
        assert json.loads(file.metadata()["configuration"])["conv1"]["kernels"] == 8


def test_wrong_requests(run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_module("alexnet_repro.export", *run, "format=tflite", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.endswith("format=tflite: must be one of onnx, torchscript, safetensors\n")
    for wrong, said in (
        (["format=safetensors", "views=10"], "views=10: must be left out"),
        (["format=torchscript", "opset=20"], "opset=20: must be left out"),
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
