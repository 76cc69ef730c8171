"""The network against the paper's numbers, an independent one-device reference, and its own gradients."""

from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F

from alexnet_repro.config import ModelConfig, TrainConfig
from alexnet_repro.model import AlexNet, choose_devices, initialise, place
from data_prep.command import RequestError, load

SMALL_MODEL = [
    f"model.{key}"
    for key in (
        "input_size=67",
        "conv1.kernels=8",
        "conv2.kernels=12",
        "conv3.kernels=16",
        "conv4.kernels=8",
        "conv5.kernels=12",
        "fc6.units=20",
        "fc7.units=24",
    )
]


def model_config(*overrides: str) -> ModelConfig:
    return load("train", TrainConfig, list(overrides)).model


def small(*overrides: str) -> AlexNet:
    model = AlexNet(model_config(*SMALL_MODEL, *overrides), classes=7).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1 + 0.01)
    return model


def test_the_papers_numbers() -> None:
    """Section 3.5: layer sizes; 60,965,224 parameters; 186,624 and so on are the text's neuron counts."""
    model = AlexNet(model_config(), classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 60_965_224
    shapes = {}
    for name, layer in model.layers().items():
        for column, part in zip(layer.names, layer.parts(), strict=True):
            part.register_forward_hook(
                lambda _m, _i, out, key=name + column: shapes.update({key: tuple(out.shape[1:])})
            )
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    expected = {
        "conv1": (48, 55, 55), "conv2": (128, 27, 27), "conv3": (192, 13, 13), "conv4": (192, 13, 13),
        "conv5": (128, 13, 13), "fc6": (2048,), "fc7": (2048,),
    }  # fmt: skip
    assert shapes == {n + c: s for (n, s), c in product(expected.items(), "ab")} | {"fc8a": (1000,)}
    neurons = {name: 2 * torch.tensor(shape).prod().item() for name, shape in expected.items()}
    assert [neurons[n] for n in ("conv2", "conv3", "conv4", "conv5", "fc6")] == [186_624, 64_896, 64_896, 43_264, 4096]
    assert list(model.conv3.a.weight.shape) == [192, 256, 3, 3]  # 3.5: 3 x 3 x 256
    assert list(model.conv2.b.weight.shape) == [128, 48, 5, 5]  # 5 x 5 x 48


def test_initial_weights_are_those_of_section_5() -> None:
    model = initialise(AlexNet(model_config(), classes=1000), seed=1)
    biased = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, layer in model.layers().items():
        for part in layer.parts():
            assert (part.bias == (1.0 if name in biased else 0.0)).all()
            count = part.weight.numel()
            assert abs(part.weight.mean()) < 5 * 0.01 / count**0.5
            assert abs(part.weight.std() / 0.01 - 1) < 5 / (2 * count) ** 0.5
    assert not torch.equal(model.conv1.a.weight, model.conv1.b.weight)


def reference(model: AlexNet, x: torch.Tensor) -> torch.Tensor:
    """Figure 2 on one device: grouped convolutions and whole dense layers, in test mode."""
    w = {k: torch.cat([v, model.state_dict()[k.replace(".a.", ".b.")]]) if k.replace(".a.", ".b.") in model.state_dict()
         else v for k, v in model.state_dict().items() if ".a." in k}  # fmt: skip

    def conv(x: torch.Tensor, name: str, groups: int, **options: int) -> torch.Tensor:
        return F.conv2d(x, w[f"{name}.a.weight"], w[f"{name}.a.bias"], groups=groups, **options)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.local_response_norm(half, 5, alpha=5e-4, beta=0.75, k=2.0) for half in x.chunk(2, 1)], 1)

    x = conv(F.pad(x, (0, 3, 0, 3)), "conv1", 1, stride=4)
    x = F.max_pool2d(norm(F.relu(x)), 3, 2)
    x = F.max_pool2d(norm(F.relu(conv(x, "conv2", 2, padding=2))), 3, 2)
    x = F.relu(conv(x, "conv3", 1, padding=1))
    x = F.relu(conv(x, "conv4", 2, padding=1))
    x = F.max_pool2d(F.relu(conv(x, "conv5", 2, padding=1)), 3, 2).flatten(1)
    for name in ("fc6", "fc7"):
        x = F.relu(F.linear(x, w[f"{name}.a.weight"], w[f"{name}.a.bias"])) * 0.5
    return F.linear(x, w["fc8.a.weight"], w["fc8.a.bias"])


def test_two_columns_equal_the_one_device_reference() -> None:
    """Catches maps concatenated in the wrong order, an exchange too many or too few, a wrong op order."""
    model = place(small(), [torch.device("cpu"), torch.device("cpu")]).eval()
    x = torch.randn(3, 3, 67, 67, dtype=torch.float64) * 50
    torch.testing.assert_close(model(x), reference(model, x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model([x, x]), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("overrides", "talks"),
    [
        ((), {"conv3", "fc6", "fc7", "fc8"}),
        (("model=code2012",), {"conv3", "fc6", "fc7", "fc8"}),
        (("model=no_exchange",), {"fc8"}),
        (("model.conv3.reads=own", "model.conv4.reads=both"), {"conv4", "fc6", "fc7", "fc8"}),
        (("model=six_conv", "model.conv6.kernels=8"), {"conv3", "conv6", "fc6", "fc7", "fc8"}),
    ],
)
def test_columns_talk_where_figure_2_says_and_nowhere_else(overrides: tuple[str, ...], talks: set[str]) -> None:
    """By gradients: does layer L of column a depend on what the layer before gave column b?"""
    model = small(*overrides).eval()
    outputs: dict[str, list[torch.Tensor]] = {}
    for name, layer in model.layers().items():
        layer.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
    model(torch.randn(2, 3, 67, 67, dtype=torch.float64) * 50)
    names = list(outputs)
    for before, name in pairwise(names):
        own, foreign = outputs[before]
        needed = torch.autograd.grad(outputs[name][0].sum(), [own, foreign], retain_graph=True, allow_unused=True)
        assert needed[0] is not None and needed[0].abs().sum() > 0
        depends = needed[1] is not None and bool(needed[1].abs().sum() > 0)
        assert depends == (name in talks), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.conv2.kernels=255"], r"model\.conv2\.kernels=255: must be a multiple of model\.columns=2"),
        (["model.conv4.size=99", "model.conv4.padding=0"], r"model\.conv4\.size=99: larger than its input of 13"),
        (["model.fc6.then=[pool]"], r"model\.fc6\.then: 'pool' needs maps"),
        (["model.conv1.then=[same_map_norm]"], r"needs model\.same_map_norm, which is null"),
        (["model.input_size=30"], r"'pool' of size 3 over maps of"),
        (["model.conv3.reads=all"], r"model\.conv3\.reads=all: must be one of own, both"),
        (["model.conv1.reads=both"], r"model\.conv1\.reads=both: must be own"),
        (["model.columns=0"], r"model\.columns=0: must be 1 to 8"),
        (["model.conv1.then=[swish]"], r"model\.conv1\.then=swish: must be one of activation"),
    ],
)
def test_nonsense_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        AlexNet(model_config(*overrides), classes=10)


@pytest.mark.parametrize("layer", ["conv3", "conv4", "conv5", "fc6", "fc7"])
def test_any_middle_layer_can_be_removed(layer: str) -> None:
    """Section 7."""
    model = AlexNet(model_config(*SMALL_MODEL[:1], f"model.{layer}=null"), classes=5)
    assert layer not in model.layers()
    assert model(torch.zeros(1, 3, 67, 67)).shape == (1, 5)


def test_columns_draw_different_dropout_masks_that_follow_from_the_step() -> None:
    model = small().train()
    x = torch.randn(2, 3, 67, 67, dtype=torch.float64) * 50

    def zeros(step: int) -> list[torch.Tensor]:
        model.seed_dropout(5, step)
        return [h == 0 for h in model.hidden(x)]

    first, again, later = zeros(1), zeros(1), zeros(2)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], later[0])


def test_placement() -> None:
    cpu = torch.device("cpu")
    if torch.cuda.device_count() == 0:
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


@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="needs a GPU")
@pytest.mark.parametrize("devices", [["cuda:0", "cuda:0"], ["cuda:0", "cpu"], ["cpu", "cuda:0"], ["cuda:0", "cuda:1"]])
def test_placements_agree(devices: list[str]) -> None:
    """Catches an exchange that reads before its copy is there. Tolerance: float64, sums in another order."""
    if "cuda:1" in devices and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = torch.randn(3, 3, 67, 67, dtype=torch.float64) * 50
    model = small().eval()
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
