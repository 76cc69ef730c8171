"""The network against the paper's numbers, an independent one-device reference, and its own gradients."""

import re
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from itertools import pairwise, product
from typing import cast

import pytest
import torch
from grouped import Grouped
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import COMPILES, SMALL_MODEL, assert_network_sensitive, model_config, small
from omegaconf import OmegaConf
from torch import Tensor

from alexnet_repro.config import ModelConfig
from alexnet_repro.model import AlexNet, initialise, place
from alexnet_repro.model.layers import Dropout
from data_prep.common.cli import checked, conf_folder
from data_prep.common.errors import RequestError

CPU = torch.device("cpu")


def shapes(model: AlexNet, side: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """What each column gives for one image: after the weights (`conv1.a`) and at the layer's end (`conv1.a then`)."""
    found: dict[str, tuple[int, ...]] = {}

    def note(key: str) -> object:
        return lambda _module, _inputs, output: found.update({key: tuple(output.shape[1:])})

    for name, layer in model.layers().items():
        for column, part, then in zip(layer.column_names, layer.parts(), layer.then, strict=True):
            part.register_forward_hook(note(f"{name}.{column}"))  # type: ignore[arg-type]
            then.register_forward_hook(note(f"{name}.{column} then"))  # type: ignore[arg-type]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, channels, side, side))
    return found


def test_the_papers_numbers() -> None:
    """Section 3.5: layer sizes; 60,965,224 parameters; 186,624 and so on are the text's neuron counts."""
    model = AlexNet(model_config(), classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 60_965_224
    expected = {
        "conv1": (48, 55, 55), "conv2": (128, 27, 27), "conv3": (192, 13, 13), "conv4": (192, 13, 13),
        "conv5": (128, 13, 13), "fc6": (2048,), "fc7": (2048,),
    }  # fmt: skip
    found = {name: shape for name, shape in shapes(model, 224).items() if "then" not in name}
    assert found == {f"{n}.{c}": s for (n, s), c in product(expected.items(), "ab")} | {"fc8.a": (1000,)}
    neurons = {name: 2 * torch.tensor(shape).prod().item() for name, shape in expected.items()}
    assert [neurons[n] for n in ("conv2", "conv3", "conv4", "conv5", "fc6")] == [186_624, 64_896, 64_896, 43_264, 4096]
    assert list(model.conv3.a.weight.shape) == [192, 256, 3, 3]  # 3.5: 3 x 3 x 256
    assert list(model.conv2.b.weight.shape) == [128, 48, 5, 5]  # 5 x 5 x 48


@pytest.mark.parametrize(
    ("model", "sides", "widths", "dense"),
    [  # the sides of conv1, pool1, conv2, pool2, conv3, conv4, conv5, pool5; one column's kernels; fc6 and fc7
        ("code2012", (55, 27, 27, 13, 13, 13, 13, 6), (48, 128, 192, 192, 128), ((2048, 9216), (2048, 4096))),
        ("one_column", (55, 27, 27, 13, 13, 13, 13, 6), (48, 128, 192, 192, 256), ((4096, 9216), (4096, 4096))),
        ("pool_non_overlapping", (55, 27, 27, 13, 13, 13, 13, 6), (48, 128, 192, 192, 128),
         ((2048, 9216), (2048, 4096))),
        ("code2012_pool_non_overlapping", (55, 28, 26, 13, 13, 13, 11, 6), (48, 128, 192, 192, 128),
         ((2048, 9216), (2048, 4096))),
        ("no_exchange", (55, 27, 27, 13, 13, 13, 13, 6), (48, 160, 192, 192, 128), ((4096, 4608), (2048, 4096))),
        ("input_227", (55, 27, 27, 13, 13, 13, 13, 6), (48, 128, 192, 192, 128), ((2048, 9216), (2048, 4096))),
    ],
)  # fmt: skip
def test_the_shapes_of_variants(
    model: str, sides: tuple[int, ...], widths: tuple[int, ...], dense: tuple[tuple[int, int], ...]
) -> None:
    """Nets 145, 145-half, 147 and 150 as the layer files of the 2012 code have them. 227 gives the shapes of 224, and
    the text's pooling that does not overlap "output of equivalent dimensions" (3.4).
    """
    config = model_config(f"model={model}")
    net = AlexNet(config, classes=1000)
    found = shapes(net, config.input_size)
    stages = ["conv1.a", "conv1.a then", "conv2.a", "conv2.a then", "conv3.a", "conv4.a", "conv5.a", "conv5.a then"]
    assert tuple(found[stage][1] for stage in stages) == sides
    assert tuple(found[f"conv{i}.a"][0] for i in range(1, 6)) == widths
    assert (tuple(net.fc6.a.weight.shape), tuple(net.fc7.a.weight.shape)) == dense


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_classes_and_channels(channels: int) -> None:
    model = AlexNet(model_config(*SMALL_MODEL), classes=3, channels=channels)
    assert shapes(model, 67, channels)["fc8.a"] == (3,)
    assert model.conv1.b.weight.shape[1] == channels


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


def dropout_masks(model: AlexNet, images: int) -> list[Tensor]:
    """The masks of fc6 and fc7 of the next training pass after `seed_dropout`, columns side by side."""
    masks = []
    for layer in (model.fc6, model.fc7):
        columns = [cast(Dropout, then[-1]) for then in layer.then]
        width = layer.map_shape[0]
        masks.append(torch.cat([drop(torch.ones(images, width, dtype=torch.float64)) for drop in columns], dim=1))
    return masks


@pytest.mark.parametrize("profile", ["paper", "code2012"])
@pytest.mark.parametrize(("training", "across"), [(True, "column"), (False, "column"), (False, "layer")])
def test_two_columns_equal_the_grouped_reference(profile: str, training: bool, across: str) -> None:
    """Output and every gradient. Catches maps joined in the wrong order, an exchange too many or too few, a wrong order
    of operations, a seam of the normalisation that is not crossed. Tolerance: float64, sums in another order.
    """
    model = place(small(f"model={profile}", f"model.norm.across={across}"), [CPU, CPU]).train(training)
    widths = {name: sum(part.weight.shape[0] for part in layer.parts()) for name, layer in model.layers().items()}
    reference = Grouped(widths, 7, map_side=1, code2012=profile == "code2012", across=across).double()
    reference.load_columns(model.state_dict())
    images = noise(5)
    assert_network_sensitive(reference, 1e-10)
    labels = torch.tensor([0, 6, 2, 2, 5])
    masks = None
    if training:
        model.seed_dropout(3, 1)
        masks = dropout_masks(model, 5)
        assert all(0 < mask.mean() < 1 for mask in masks)
        model.seed_dropout(3, 1)

    logits, expected = model(images), reference(images, masks)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    for output in (logits, expected):
        torch.nn.functional.cross_entropy(output / output.detach().abs().max(), labels).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in reference.named_parameters():
        ours = torch.cat([cast(Tensor, gradients[column]) for column in reference.columns(name)])
        whole = cast(Tensor, parameter.grad)
        assert whole.abs().max() > 0, name
        assert (ours - whole).norm() <= 1e-10 * whole.norm(), name


def noise(images: int) -> Tensor:
    """Without its mean: float64 [N, 3, 67, 67]."""
    return torch.rand(images, 3, 67, 67, dtype=torch.float64) * 255 - 127.5


LAYOUTS: dict[str, Callable[[Tensor], list[Tensor | list[Tensor]]]] = {  # the batches to be fed one after the other
    "channels-last": lambda x: [x.contiguous(memory_format=torch.channels_last)],
    "part of a larger tensor": lambda x: [torch.nn.functional.pad(x, (2, 1, 1, 2))[:, :, 1:-2, 2:-1]],
    "one batch a column": lambda x: [[x, x.clone()]],
    "image by image": lambda x: list(x[:, None]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("profile", ["paper", "code2012"])
def test_how_images_lie_in_memory_changes_nothing(profile: str, layout: str) -> None:
    model = small(f"model={profile}").eval()
    assert_network_sensitive(model, 1e-10)
    images = noise(3)
    expected = model(images)
    got = torch.cat([model(batch) for batch in LAYOUTS[layout](images)])
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


USUAL = {"conv3", "fc6", "fc7", "fc8"}
TALKS = {  # the layers that read both columns, where these are not the usual ones; nothing else may cross over
    "bvlc_alexnet": USUAL | {"conv2"},  # normalised over the whole layer; so is conv1
    "bvlc_caffenet": USUAL | {"conv2"},
    "cifar10": set(),
    "cifar10_80sec": set(),
    "cifar10_local": set(),
    "code2012_bottleneck": USUAL | {"conv6", "bottleneck"},
    "code2012_exchange_at_conv4": {"conv4", "fc6", "fc7", "fc8"},
    "code2012_no_exchange": {"fc8"},
    "code2012_one_column": set(),
    "code2012_six_conv": USUAL | {"conv6"},
    "exchange_at_conv4": {"conv4", "fc6", "fc7", "fc8"},
    "no_conv3": {"conv4", "fc6", "fc7", "fc8"},
    "no_exchange": {"fc8"},
    "no_fc6": USUAL - {"fc6"},
    "no_fc7": USUAL - {"fc7"},
    "one_column": set(),
    "six_conv": USUAL | {"conv6"},
    "torchvision": set(),
}


@pytest.mark.parametrize("variant", sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml")))
def test_columns_talk_where_figure_2_says_and_nowhere_else(variant: str) -> None:
    """By gradients, for every layer and column: does it depend on what the layer before gave each of the columns?"""
    whole = model_config(f"model={variant}")
    side = min(99, whole.input_size)
    narrow = [key for key in SMALL_MODEL if getattr(whole, key.split(".")[1], None)]
    narrow += ["model.conv6.kernels=8"] if whole.conv6 else []
    config = model_config(f"model={variant}", f"model.input_size={side}", *narrow)
    model = AlexNet(config, classes=7).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.01, 0.1, generator=generator)
    outputs: dict[str, list[Tensor]] = {}
    for name, layer in model.layers().items():
        layer.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
    model(torch.randn(2, 3, side, side, dtype=torch.float64))
    assert variant.removeprefix("no_") not in outputs
    crossed = set()
    for before, name in pairwise(outputs):
        for reader, output in enumerate(outputs[name]):
            grads = torch.autograd.grad(output.sum(), outputs[before], retain_graph=True, allow_unused=True)
            reads = [grad is not None and bool(grad.abs().sum() > 0) for grad in grads]
            assert reads[reader], f"{name} does not read its own column"
            if len(reads) > 1 and any(reads[:reader] + reads[reader + 1 :]):
                crossed.add((name, reader))
    assert crossed == {(name, reader) for name in TALKS.get(variant, USUAL) for reader in range(len(outputs[name]))}


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
        (["model=cifar10_local", "+model.conv1.local=true"], r"model\.conv1\.local=True: must be false"),
        (["model.columns=0"], r"model\.columns=0: must be 1 to 8"),
        (["model.conv1.then=[swish]"], r"model\.conv1\.then=swish: must be one of activation"),
        (["model.conv2.then=[pool,pool]"], r"model\.conv2\.then=\['pool', 'pool'\]: must be a list that names each"),
        (["model.conv1.kernels=9223372036854775808"], r"model\.conv1\.kernels=\d+: must be 1 to 2\^20"),
        (["model.conv1.size=[11,11]"], r"model\.conv1\.size: must be one value, not a list"),
        (["model.conv4=5"], r"model\.conv4: has settings of its own"),
        (["model.conv1=null"], r"model\.conv1=null: cannot be left out"),
        (["model.fc8.reads=own"], r"model\.fc8\.reads=own: must be both"),
        (["model.norm.size=4"], r"model\.norm\.size=4: must be odd"),
        (["model.norm.across=all"], r"model\.norm\.across=all: must be one of column, layer"),
        (
            ["model.norm.across=layer", "model.norm.size=99"],
            r"model\.norm\.across=layer: conv1 has 48 map\(s\) a column",
        ),
        (["model.norm.k=nan"], r"model\.norm\.k=nan: must be positive"),
        (["model.pool.stride=4"], r"model\.pool\.stride=4: must be 1 to model\.pool\.size=3"),
        (["model.conv2.padding=5"], r"model\.conv2\.padding=5: must be 0 to 4"),
        (["model.pad_right_bottom=11"], r"model\.pad_right_bottom=11: must be less than model\.conv1\.size=11"),
        (["model.activation=sigmoid"], r"model\.activation=sigmoid: must be one of relu, tanh"),
        (["model.dropout=1"], r"model\.dropout=1\.0: must be"),
    ],
)
def test_nonsense_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        AlexNet(model_config(*overrides), classes=10)


@cache
def with_conv6(profile: str) -> dict[str, object]:
    conv6 = {**asdict(model_config("model=six_conv"))["conv6"], "kernels": 8}
    return {**asdict(model_config(*SMALL_MODEL, f"model={profile}")), "conv6": conv6}


steps = st.lists(st.sampled_from(["activation", "norm", "same_map_norm", "pool", "dropout"]), max_size=3)


@settings(deadline=None, max_examples=150)
@given(
    numbers=st.dictionaries(
        st.sampled_from(
            ["columns", "pad_right_bottom", "pool.size", "pool.stride", "norm.size", "conv1.stride"]
            + [f"conv{i}.{key}" for i in (1, 2, 4, 6) for key in ("kernels", "size", "padding")]
            + ["fc6.units", "fc7.units"]
        ),
        st.integers(0, 9),
        max_size=3,
    ),
    side=st.sampled_from([10, 67, 99]),
    reads=st.dictionaries(st.sampled_from(["conv2", "conv3", "conv6", "fc6", "fc8"]), st.sampled_from(["own", "both"])),
    then=st.dictionaries(st.sampled_from(["conv1", "conv3", "conv6", "fc7"]), steps, max_size=2),
    removed=st.sets(st.sampled_from(["conv3", "conv4", "conv5", "conv6", "fc6", "fc7"])),
    profile=st.sampled_from(["paper", "code2012"]),
    across=st.sampled_from(["column", "layer"]),
)
def test_whatever_is_not_refused_runs(
    numbers: dict[str, int],
    side: int,
    reads: dict[str, str],
    then: dict[str, list[str]],
    removed: set[str],
    profile: str,
    across: str,
) -> None:
    """Any network of conf/'s words either trains a step or is refused by name: never a traceback from inside torch."""
    config = OmegaConf.create(with_conv6(profile))
    config.input_size = side
    config.norm.across = across
    for key, number in numbers.items():
        OmegaConf.update(config, key, number)
    for name, columns in reads.items():
        config[name].reads = columns
    for name, following in then.items():
        config[name].then = following
    for name in removed:
        config[name] = None
    try:
        model = AlexNet(checked(config, ModelConfig), classes=3)
    except RequestError as refusal:
        assert re.match(r"(model\.\w|unknown key)", str(refusal)), refusal
        return
    model(torch.randn(2, 3, side, side)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


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


@pytest.mark.skipif(not COMPILES, reason="needs PyTorch 2.10")
def test_steps_of_a_compiled_network_are_the_plain_ones() -> None:
    """With masks of their own, and without compiling anew in each."""
    model = small().train()
    compiled = torch.compile(model, backend="eager")  # which needs no C++ compiler
    x = torch.randn(2, 3, 67, 67, dtype=torch.float64) * 50

    def step(network: Callable[[torch.Tensor], torch.Tensor], number: int) -> list[torch.Tensor]:
        model.seed_dropout(5, number)
        model.zero_grad()
        network(x).square().sum().backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    first = step(compiled, 0)
    torch.testing.assert_close(first, step(model, 0))
    with torch.compiler.set_stance("fail_on_recompile"):
        for number in range(1, 3):
            torch.testing.assert_close(step(compiled, number), step(model, number))
    assert not torch.equal(first[0], step(model, 1)[0])
