"""The network from Python: the page docs/python.md as it stands, and what its promises are worth."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import prepare_config
from evidence import ensure_evaluated, evaluate_in, kept_of, write_run
from foreign import caffe_layers, caffemodel
from networks import COMPILES, sensitive
from PIL import Image
from torch.utils.data import DataLoader

import alexnet_repro
from alexnet_repro import AlexNet, PreparedDataset, initialise, load_run, place, transform
from alexnet_repro.config import ConvertConfig, FiguresConfig, TrainConfig
from alexnet_repro.convert import convert
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation.inference import last_hidden
from alexnet_repro.evaluation.predictions import KeptPredictions
from alexnet_repro.runs.trained import load_trained
from data_prep.common.cli import load
from data_prep.prepare import prepare

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def desk(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of the page: data/sample, runs/demo and the converted runs/bvlc (narrow, with random
    weights), photo.jpg.
    """
    folder, before = tmp_path_factory.mktemp("desk"), Path.cwd()
    prepare(prepare_config(archives, folder / "data" / "sample", image_size=256))
    where = [f"data.path={folder / 'data' / 'sample'}", f"runs_dir={folder / 'runs'}", "run=demo", "model.width=0.125"]
    config = load("train", TrainConfig, where)
    write_run(config, sensitive(AlexNet(config.model, classes=10)))
    (folder / "net.caffemodel").write_bytes(caffemodel(caffe_layers(norm=False, width=0.125)))
    theirs = [f"src={folder / 'net.caffemodel'}", "run=bvlc", f"runs_dir={folder / 'runs'}"]
    convert(load("convert", ConvertConfig, theirs))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def test_the_page_runs_from_top_to_bottom(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SNIPPETS) >= 7
    names: dict[str, object] = {}
    before = sorted(desk.rglob("*"))
    for snippet in SNIPPETS:
        if "torchmetrics" in snippet and not _installed("torchmetrics"):
            continue
        if "torch.compile" in snippet and not COMPILES:
            continue
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert sorted(desk.rglob("*")) == before, "something was written"
    assert re.search(r"epoch 3: \d+ of 30 right\n", capsys.readouterr().out)
    assert len(SNIPPETS[-1].splitlines()) <= 30
    assert torch.isfinite(names["loss"])  # type: ignore[arg-type]
    assert names["vector"].shape == (1, 512) and names["maps"].shape == (1, 32, 6, 6)  # type: ignore[attr-defined]


def _installed(package: str) -> bool:
    try:
        __import__(package)
    except ImportError:
        return False
    return True


def test_predictions_are_those_of_evaluate(world: Path, tmp_path: Path) -> None:
    """Ten views, nine, and one; of images as a data set has them. Tolerance: float32, other batches."""
    ensure_evaluated(world, "one")
    evaluate_in(world, "views=9", f"out={tmp_path}")
    net, kept = load_run(world / "runs" / "one"), kept_of(world)
    kept.views |= {9: KeptPredictions.load(tmp_path / "predictions.npz").views[9]}
    assert not net.training and isinstance(net, AlexNet)
    images = [image for image, _ in PreparedDataset(world / "data", "val")]
    for views in (1, 9, 10):
        ours = net.probabilities(images, views).numpy()
        expected = np.zeros_like(ours)
        np.put_along_axis(expected, kept.views[views].top, kept.views[views].probabilities, axis=1)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 0.1, "every image has the same answer"
    guesses = net.predict(images[3])
    assert [guess["wnid"] for guess in guesses] == [kept.classes[i] for i in kept.most_views.top[3, :5]]
    net.train()
    net.predict(images[3])
    assert net.training and net.probabilities(images[3]).requires_grad is False
    with pytest.raises(ValueError, match=r"views=3: must be one of 1 \(the centre patch\), 9"):
        net.predict(images[3], views=3)
    with pytest.raises(ValueError, match="images: none were given"):
        net.probabilities([])
    with pytest.raises(ValueError, match=r"input: \[3, 67, 67\]; must be \[N, 3, 67, 67\]"):
        net(torch.zeros(3, 67, 67))
    with pytest.raises(ValueError, match="image: dict; must be a file"):
        net.predict({})


def test_features_are_the_vectors_of_figures(world: Path) -> None:
    where = [f"runs_dir={world / 'runs'}", "run=one", "devices=[cpu]", "runtime.workers=0"]
    trained = load_trained(load("figures", FiguresConfig, where), "last")
    expected = np.concatenate(list(last_hidden(trained, PreparedData(world / "data").split("train"), 16)))
    net = load_run(world / "runs" / "one")
    dataset = PreparedDataset(world / "data", "train", net.transform)
    with torch.inference_mode():
        ours = torch.cat([net.features(x, "fc7") for x, _ in DataLoader(dataset, 16, num_workers=1)]).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)  # float32, maps in another order in memory
    assert np.ptp(expected, axis=0).max() > 1
    assert dataset.targets == PreparedData(world / "data").split("train").labels.tolist()


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"])
def test_features_of_any_layer_lead_on_to_the_logits(layer: str) -> None:
    """Both columns, after all steps: computed on from there, with the layers that follow, they give the logits."""
    net = sensitive(AlexNet.from_config("code2012", classes=5, input_size=67, width=0.125)).eval()
    x = torch.randn(2, 3, 67, 67) * 50
    columns = list(net.features(x, layer).chunk(1 if layer == "fc8" else 2, dim=1))
    names = list(net.layers())
    for name in names[names.index(layer) + 1 :]:
        columns = [column.flatten(1) for column in columns] if name.startswith("fc") else columns
        columns = net.layers()[name](columns)
    assert torch.equal(columns[0], net(x))
    with pytest.raises(ValueError, match="layer='conv6': there is none of this name; there are conv1, conv2"):
        net.features(x, "conv6")


def test_a_photograph_is_prepared_as_a_data_set_prepares_it(world: Path, tmp_path: Path) -> None:
    """Files of several modes and shapes: through the Pillow image, through the tensor that torchvision decodes, and
    against the pixels that data_prep.resize makes of the file.
    """
    from data_prep.resize import prepare_image

    net, rng = load_run(world / "runs" / "one"), np.random.default_rng(0)
    rule = net.transform.rule
    for shape in ((75, 75, 3), (200, 90, 3), (90, 131, 3), (60, 50), (80, 90, 4)):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "a.png")
        content = (tmp_path / "a.png").read_bytes()
        whole = prepare_image(content, 75)
        image = Image.open(tmp_path / "a.png")
        np.testing.assert_array_equal(net.transform.whole(image).numpy(), whole)
        np.testing.assert_array_equal(net.transform.whole(str(tmp_path / "a.png")).numpy(), whole)
        expected = (whole.astype(np.float32) - rule.mean_image)[4:71, 4:71].transpose(2, 0, 1)
        np.testing.assert_array_equal(net.transform(image).numpy(), expected)
        if shape[-1] == 3:
            tensor = torchvision.transforms.functional.pil_to_tensor(image)
            np.testing.assert_array_equal(net.transform(tensor[None])[0].numpy(), expected)
    for wrong in (torch.zeros(3, 75, 75), torch.zeros(75, 75, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"must be uint8 \[C, H, W\], or a Pillow image"):
            net.transform(wrong)


def test_patches_for_training_are_drawn_anew_and_by_pytorchs_seed(prepared: Path) -> None:
    draw = transform(prepared, size=67, train=True)
    image, _ = PreparedDataset(prepared)[0]

    def drawn(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [draw(image) for _ in range(40)]

    first, again = drawn(1), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({tuple(x.flatten()[:20].tolist()) for x in first}) == 40
    without_noise = transform(prepared, size=67, train=True)
    without_noise.augment.colour_noise = 0.0  # type: ignore[union-attr]
    torch.manual_seed(0)
    whole = torch.from_numpy(np.asarray(image).astype(np.float32)) - torch.from_numpy(draw.rule.mean_image)
    places = {(top, left) for top in range(9) for left in range(9)}
    patches = {
        whole[top : top + 67, left : left + 67].flip([1] * mirror).permute(2, 0, 1).numpy().tobytes(): (mirror, top)
        for top, left in places
        for mirror in (False, True)
    }
    seen = [patches[without_noise(image).contiguous().numpy().tobytes()] for _ in range(60)]
    assert {mirror for mirror, _ in seen} == {False, True} and len({top for _, top in seen}) > 5
    with pytest.raises(ValueError, match="size=80: must be at most the side of the images"):
        transform(prepared, size=80)


def test_from_config_is_the_network_of_conf_with_settings_changed() -> None:
    with torch.device("meta"):
        net = AlexNet.from_config()
        assert sum(p.numel() for p in net.parameters()) == 60_965_224
        narrow = AlexNet.from_config("code2012", classes=3, channels=1, conv1={"kernels": 32}, norm={"k": 1.0})
    assert narrow.conv1.parts()[0].weight.shape == (16, 1, 11, 11) and narrow.fc8.parts()[0].out_features == 3
    assert narrow.config.norm.k == 1 and narrow.config.norm.alpha == 2e-5
    for wrong, said in (
        ({"model": "resnet"}, "model=resnet: no such choice; there are"),
        ({"conv1": {"kernals": 3}}, "unknown key"),
        ({"width": "wide"}, "width: Value 'wide'"),
        ({"columns": 3}, "model.conv2.kernels=256: must be a multiple of model.columns=3"),
    ):
        with pytest.raises(ValueError, match=said):
            AlexNet.from_config(**wrong)  # type: ignore[arg-type]


def test_a_program_that_uses_hydra_itself_keeps_it(tmp_path: Path) -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        with torch.device("meta"):
            AlexNet.from_config("paper")
        assert hydra.compose("mine").a == 1
    assert not GlobalHydra.instance().is_initialized()


def test_columns_go_where_they_are_put_and_saving_keeps_the_names(world: Path, tmp_path: Path) -> None:
    net = load_run(world / "runs" / "one", devices=["cpu", "cpu"])
    assert "conv3.b.weight" in net.state_dict() and net.column_devices() == [torch.device("cpu")] * 2
    torch.save(net.state_dict(), tmp_path / "mine.pt")
    assert place(initialise(AlexNet(net.config, len(net.classes)), 0), ["cpu", "cpu"]).load_state_dict(
        torch.load(tmp_path / "mine.pt")
    )
    assert load_run(world / "runs" / "one", devices="cpu").column_devices() == net.column_devices()
    with pytest.raises(ValueError, match=r"runs/none: no such run"):
        load_run(world / "runs" / "none")


def test_a_step_needs_neither_the_compiler_nor_torchvision(tmp_path: Path) -> None:
    """The compiler of torch.compile takes a second to import, and torchvision imports it."""
    program = (
        "import sys, torch, alexnet_repro.evaluate, alexnet_repro.train\n"
        "from alexnet_repro.training.sgd import PaperSGD\n"
        "weight = torch.nn.Parameter(torch.ones(2))\n"
        "optimiser = PaperSGD([weight], 0.1, 0.9, 0.0)\n"
        "weight.grad = torch.ones(2)\n"
        "optimiser.step()\n"
        "optimiser.zero_grad()\n"
        "assert weight.grad is None and not weight.equal(torch.ones(2))\n"
        "assert not {'torch._dynamo', 'torchvision'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_pytorch_is_imported_when_a_name_is_first_used(tmp_path: Path) -> None:
    program = (
        "import sys, alexnet_repro\n"
        "assert 'load_run' in dir(alexnet_repro) and 'torch' not in sys.modules\n"
        "from alexnet_repro import load_run\n"
        "assert 'torch' in sys.modules\n"
        "try:\n    alexnet_repro.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "module 'alexnet_repro' has no attribute 'nothing'\n"), done.stderr


def test_what_is_offered_is_typed_and_documented() -> None:
    """The stubs for type checkers name what __getattr__ gives, and everything public has a docstring."""
    (imports,) = (
        node
        for node in ast.walk(ast.parse((ROOT / "alexnet_repro" / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "alexnet_repro.library"
        if any(alias.name != "library" for alias in node.names)
    )
    assert sorted(alias.name for alias in imports.names) == sorted(alexnet_repro.__all__)
    for name in alexnet_repro.__all__:
        assert inspect.getdoc(getattr(alexnet_repro, name)), name
    for package in ("alexnet_repro", "data_prep"):
        assert (ROOT / package / "py.typed").is_file()
