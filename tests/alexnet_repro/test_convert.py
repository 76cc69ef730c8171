"""Weights of other programs, against the programs that others wrote for them: onnxruntime and torchvision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from conftest import run_module
from foreign import CAFFE, Layer, caffe_layers, caffemodel, onnx_model
from onnx import numpy_helper
from PIL import Image

from alexnet_repro import AlexNet, load_run
from alexnet_repro.config import (
    ConvertConfig,
    EvaluateConfig,
    ExportConfig,
    FiguresConfig,
    PredictConfig,
    TrainConfig,
)
from alexnet_repro.convert import convert
from alexnet_repro.evaluate import evaluate
from alexnet_repro.export import export
from alexnet_repro.figures import figures
from alexnet_repro.predict import predict
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.settings import differences
from alexnet_repro.train import train
from data_prep.common.cli import load
from data_prep.common.errors import RequestError

RELATIVE = 1e-4  # of the largest number of a tensor: float32, sums over up to 9216 numbers in another order
NORMS = [False, True]
LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
PIXEL = np.array([122.67891434, 116.66876762, 104.00698793])


def converted(folder: Path, content: bytes, name: str, *overrides: str) -> Any:
    (folder / name).write_bytes(content)
    convert(
        load("convert", ConvertConfig, [f"src={folder / name}", "run=r", f"runs_dir={folder / 'runs'}", *overrides])
    )
    return load_run(folder / "runs" / "r")


def outputs_of(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"data_0": images}), strict=True))


def assert_same(net: AlexNet, x: torch.Tensor, expected: dict[str, np.ndarray]) -> None:
    """Every layer's output and the probabilities; they tell images apart, so that a wrong input would be seen."""
    with torch.inference_mode():
        for layer in LAYERS:
            ours, theirs = net.features(x, layer).numpy(), expected[layer]
            assert np.ptp(theirs, axis=0).max() > 0.1 * np.abs(theirs).max(), layer
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=RELATIVE * np.abs(theirs).max(), err_msg=layer)
        np.testing.assert_allclose(net(x).softmax(1).numpy(), expected["prob_1"], rtol=RELATIVE, atol=1e-7)


def images_of(count: int, side: int) -> np.ndarray:
    """float32 [N, 3, side, side], RGB minus the mean."""
    rng = np.random.default_rng(count)
    blocks = rng.uniform(0, 255, (count, 3, side // 8 + 1, side // 8 + 1)).repeat(8, 2).repeat(8, 3)
    return (blocks[:, :, :side, :side] - PIXEL[:, None, None]).astype(np.float32)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("caffenet", "v1"), [(False, True), (True, False)])
def test_a_caffemodel_computes_what_onnxruntime_does(tmp_path: Path, norm: bool, caffenet: bool, v1: bool) -> None:
    """Narrow, at 227 pixels. Catches groups or columns exchanged, blue taken for red, another order of pooling and
    normalisation, alpha not divided, dropout's factor.
    """
    layers = caffe_layers(caffenet, norm, width=0.125, classes=10)
    net = converted(tmp_path, caffemodel(layers, v1, crop=227), "net.caffemodel")
    x = images_of(3, 227)
    expected = outputs_of(onnx_model(layers, 227, every=True), np.ascontiguousarray(x[:, ::-1]))  # it reads BGR
    assert_same(net, torch.from_numpy(x), expected)
    np.testing.assert_allclose(net.transform.rule.mean_image[5, 7], PIXEL, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_an_onnx_file_computes_what_onnxruntime_does(tmp_path: Path, norm: bool) -> None:
    layers = caffe_layers(norm=norm, width=0.125, classes=10)
    net = converted(tmp_path, onnx_model(layers, 227).SerializeToString(), "net.onnx", "colours=RGB")
    x = images_of(3, 227)
    assert_same(net, torch.from_numpy(x), outputs_of(onnx_model(layers, 227, every=True), x))


def test_one_group_needs_no_other_normalisation(tmp_path: Path) -> None:
    """One column is the whole layer."""
    layers = caffe_layers(norm=True, width=0.125, groups=1, classes=10)
    net = converted(tmp_path, caffemodel(layers), "net.caffemodel", "colours=RGB")
    assert net.config.columns == 1 and net.config.norm.alpha == 2e-5 and net.config.norm.k == 1
    x = images_of(3, 227)
    assert_same(net, torch.from_numpy(x), outputs_of(onnx_model(layers, 227, every=True), x))


def light_bvlc_alexnet(norm: bool) -> onnx.ModelProto:
    """The graph that the package onnx brings along, with its weights drawn at random; `norm`: with its LRN nodes."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_bvlc_alexnet.onnx"
    model, rng = onnx.load(path), np.random.default_rng(0)
    graph = model.graph
    shapes = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    kept = [entry for entry in graph.initializer if not entry.name.endswith("__SHAPE")]
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        shape = shapes[node.input[0]]
        drawn = rng.standard_normal(shape) * ((2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1)
        kept.append(numpy_helper.from_array(drawn.astype(np.float32), node.output[0]))
        graph.node.remove(node)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inputs = [entry for entry in graph.input if not entry.name.endswith("__SHAPE")]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in kept if t.name != "OC2_DUMMY_1"
    )
    if not norm:
        for node in [node for node in graph.node if node.op_type == "LRN"]:
            (reader,) = (other for other in graph.node if other.input[0] == node.output[0])
            reader.input[0] = node.input[0]
            graph.node.remove(node)
    return model


@pytest.mark.parametrize("norm", NORMS)
def test_the_graph_that_onnx_ships(tmp_path: Path, norm: bool) -> None:
    """Of the size of the real one: its input is 224, and its first two poolings leave out the last window."""
    model = light_bvlc_alexnet(norm)
    net = converted(tmp_path, model.SerializeToString(), "bvlcalexnet-9.onnx", "colours=RGB")
    assert net.config.input_size == 224 and "floor_pool" in net.config.conv1.then and "pool" in net.config.conv5.then
    x = images_of(1, 224)
    expected = outputs_of(model, x)["prob_1"]
    with torch.inference_mode():
        ours = net(torch.from_numpy(x)).softmax(1).numpy()
    assert np.ptp(expected) > 100 * RELATIVE * expected.mean()
    np.testing.assert_allclose(ours, expected, rtol=RELATIVE, atol=1e-7)


@pytest.fixture(scope="module")
def torchvision_net() -> torchvision.models.AlexNet:
    torch.manual_seed(0)
    return torchvision.models.alexnet(num_classes=10).eval()


def test_torchvisions_network(torchvision_net: torchvision.models.AlexNet, tmp_path: Path) -> None:
    """In test mode layer by layer, from the same photograph through torchvision's own transforms; in training with the
    same masks.
    """
    parallel = {f"module.{name}": tensor for name, tensor in torchvision_net.state_dict().items()}
    torch.save(parallel, tmp_path / "alexnet.pth")  # as DataParallel names them
    convert(
        load("convert", ConvertConfig, [f"src={tmp_path / 'alexnet.pth'}", "run=r", f"runs_dir={tmp_path / 'runs'}"])
    )
    net = load_run(tmp_path / "runs" / "r")
    assert net.config.name == "torchvision"
    pixels = (
        np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)[:256, :256]
    )
    image = Image.fromarray(pixels)
    usual = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.transforms()  # 256 already: nothing is resized
    ours, theirs = net.transform(image)[None], usual(image)[None]
    with torch.inference_mode():
        ends = {"conv1": 3, "conv2": 6, "conv3": 8, "conv4": 10, "conv5": 13}
        expected = {name: torchvision_net.features[:end](theirs) for name, end in ends.items()}
        flat = expected["conv5"].flatten(1)
        expected |= {"fc6": torchvision_net.classifier[:3](flat), "fc7": torchvision_net.classifier[:6](flat)}
        expected["fc8"] = torchvision_net(theirs)
        for layer, tensor in expected.items():
            atol = RELATIVE * float(tensor.abs().max())
            torch.testing.assert_close(net.features(ours, layer), tensor, rtol=0, atol=atol)
    net.train()
    torch.manual_seed(1)
    dropped = net.features(ours, "conv5")
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * expected["conv5"][kept], rtol=1e-3, atol=1e-4)
    assert 0.4 < kept.sum() / (expected["conv5"] != 0).sum() < 0.6
    assert "dropout" not in net.config.fc7.then and net.config.dropout_rescaled


@pytest.mark.parametrize("names", ["columns", "torchvision"])
def test_what_was_exported_comes_back_to_the_bit(world: Path, tmp_path: Path, names: str) -> None:
    where = [f"runs_dir={world / 'runs'}", "run=two", "format=safetensors", f"out={tmp_path / 'net.safetensors'}"]
    where.append(f"names={names}")
    export(load("export", ExportConfig, where))
    net = converted(tmp_path, (tmp_path / "net.safetensors").read_bytes(), "net.safetensors")
    before = load_run(world / "runs" / "two")
    assert net.classes == before.classes and net.words == before.words and net.config == before.config
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in net.state_dict().items())
    np.testing.assert_array_equal(net.transform.rule.mean_image, before.transform.rule.mean_image)


@pytest.mark.parametrize("name", ["bvlc_alexnet", "bvlc_caffenet"])
def test_the_published_layers_are_those_of_conf(name: str, tmp_path: Path) -> None:
    """Whole kernels and units would take seconds to write; the operations alone do not."""
    from alexnet_repro.convert import _model
    from alexnet_repro.weights.caffe import read_caffemodel
    from alexnet_repro.weights.operations import network_of_operations

    layers = caffe_layers(caffenet=name == "bvlc_caffenet", width=0.125)
    operations, side = read_caffemodel(caffemodel(layers, v1=True, crop=227))
    settings = network_of_operations(operations, side or 0).settings
    for layer in LAYERS[:-1]:
        key = "kernels" if layer.startswith("conv") else "units"
        settings[layer][key] *= 8
    model = _model("", settings)
    assert model.name == name and model.norm.across == "layer"
    assert not differences(
        {"model": model}, {"model": load("train", TrainConfig, [f"model={name}"]).model}, ignore=["model.norm.across"]
    )


def edited(layers: list[Layer], name: str, **parameters: Any) -> list[Layer]:
    for layer in layers:
        if layer.name == name:
            layer.parameters.update(parameters)
    return layers


def test_what_does_not_fit_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small() -> list[Layer]:
        return caffe_layers(norm=False, width=0.125, classes=10)

    whole = caffemodel(small())
    with_norm = caffe_layers(width=0.125, groups=1, classes=10)
    cases: list[tuple[bytes, str, str]] = [
        (caffemodel(edited(small(), "pool5", pool=1)), "a.caffemodel", "pool5: must be max pooling"),
        (caffemodel(edited(small(), "pool2", kernel_size=2)), "a.caffemodel", "pool2: pool is .* there is one for all"),
        (caffemodel(edited(with_norm, "norm2", norm_region=1)), "a.caffemodel", "norm2: normalises within a map"),
        (caffemodel(edited(small(), "conv4", group=4)), "a.caffemodel", "conv2: 2 groups; must be 1 or 4"),
        (caffemodel(small()[:-1]), "a.caffemodel", "drop7: a network begins with a convolution and ends with a dense"),
        (whole[:-1000], "a.caffemodel", "ends too early; copy the file again"),
        (b"no caffemodel at all", "a.caffemodel", "is no message of protocol buffers|ends too early|holds no layers"),
        (b"", "a.caffemodel", "holds no layers"),
        (b"nothing", "a.onnx", "cannot be read as ONNX"),
        (b"nothing", "a.pth", r"save one with torch\.save\(net\.state_dict\(\), FILE\)"),
        (b"nothing", "a.safetensors", "cannot be read as safetensors"),
        (b"nothing", "a.h5", r"ends like none of \.caffemodel, \.onnx"),
    ]
    wrong = small()
    wrong[-1].weight = wrong[-1].weight[:, :-1]  # type: ignore[index]
    cases.append(
        (caffemodel(wrong), "a.caffemodel", "fc8: fc8's weight is 10x511 in the file, the network needs 10x512")
    )
    for content, name, said in cases:
        with pytest.raises(RequestError, match=said):
            converted(tmp_path, content, name)
        assert not (tmp_path / "runs").exists()
    with pytest.raises(RequestError, match=r"image_size=64: must be at least the input, 227"):
        converted(tmp_path, whole, "a.caffemodel", "image_size=64")
    (tmp_path / "classes.txt").write_text("n01 one\nn02 two\n")
    with pytest.raises(RequestError, match=r"classes.txt: has 2 classes, and the network 10 outputs"):
        converted(tmp_path, whole, "a.caffemodel", f"classes={tmp_path / 'classes.txt'}")
    converted(tmp_path, whole, "a.caffemodel")
    with pytest.raises(RequestError, match=r"runs/r: exists; choose another name with run="):
        converted(tmp_path, whole, "a.caffemodel")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="needs the package onnx; install the project's extra"):
        convert(
            load("convert", ConvertConfig, [f"src={tmp_path / 'a.onnx'}", "run=s", f"runs_dir={tmp_path / 'runs'}"])
        )


def test_a_mean_image_of_caffe_has_blue_first(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(90, 130, (3, 256, 256)).astype(np.float32)  # blue, green, red
    blob = CAFFE["BlobProto"](num=1, channels=3, height=256, width=256)
    blob.data.extend(image.flatten().tolist())
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    layers = caffe_layers(norm=False, width=0.125, classes=10)
    net = converted(tmp_path, caffemodel(layers), "a.caffemodel", f"mean_image={tmp_path / 'mean.binaryproto'}")
    np.testing.assert_array_equal(net.transform.rule.mean_image, image[::-1].transpose(1, 2, 0))
    with pytest.raises(RequestError, match=r"mean_image=.*: is 3x256x256, and images are 3x300x300"):
        arguments = [
            f"src={tmp_path / 'a.caffemodel'}",
            f"mean_image={tmp_path / 'mean.binaryproto'}",
            "image_size=300",
        ]
        convert(load("convert", ConvertConfig, ["run=s", f"runs_dir={tmp_path / 'runs'}", *arguments]))


def test_a_converted_run_is_one_for_every_command(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """convert with the classes of a data set, as a user types it; then evaluate, figures, predict, init_from."""
    layers = caffe_layers(norm=False, width=0.125, side=67, classes=10)
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(layers))
    said = run_module("alexnet_repro.convert", "src=net.caffemodel", "run=theirs", f"classes={world / 'data'}",
                      "image_size=75", "input_size=67", cwd=tmp_path)  # fmt: skip
    assert said.returncode == 0, said.stderr
    rows = [line.split() for line in said.stdout.splitlines() if line.startswith("  ")]
    assert [row[0] for row in rows] == LAYERS
    assert rows[1][1] == "32x6x5x5" and rows[1][6:11] == ["2", "columns,", "reads", "own", "activation"]
    Image.fromarray(np.zeros((80, 90, 3), np.uint8)).save(tmp_path / "photo.png")
    where = ["run=theirs", f"runs_dir={tmp_path / 'runs'}", "devices=[cpu]", "runtime.workers=0"]
    evaluate(load("evaluate", EvaluateConfig, where))
    figures(load("figures", FiguresConfig, where))
    assert predict(load("predict", PredictConfig, [*where, f"images=[{tmp_path / 'photo.png'}]"])) is None
    report = json.loads((tmp_path / "runs" / "theirs" / "report" / "report.json").read_text())
    assert report["members"][0]["trained_on"]["description"] == "what net.caffemodel was trained on"
    assert not report["comparable"] and report["images"] == 30
    assert RunFolder(tmp_path / "runs" / "theirs").config().data.path == str(world / "data")
    shape = {"input_size": 67, "pad_right_bottom": 0, "dropout_rescaled": "true"}
    widths = {"conv1": 12, "conv2": 32, "conv3": 48, "conv4": 48, "conv5": 32, "fc6": 512, "fc7": 512}
    settings = [f"model.{key}={value}" for key, value in shape.items()]
    settings += [f"model.{key}.{'kernels' if key < 'f' else 'units'}={value}" for key, value in widths.items()]
    settings += [f"model.conv{i}.then=[activation,pool]" for i in (1, 2)]
    few = ["schedule=constant", "schedule.epochs=1", "optim.batch_size=30", "init_from=theirs", "run=mine"]
    capsys.readouterr()
    train(load("train", TrainConfig, [*settings, *few, f"data.path={world / 'data'}", *where[1:]]))
    began = capsys.readouterr().out
    assert began.count("from theirs") == 7 and "warning: model" not in began
