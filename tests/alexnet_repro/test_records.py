"""The nets of 2012, layer by layer, against their definition files; the records against the paper's numbers."""

from pathlib import Path

import pytest
import torch

from alexnet_repro.claims import claims, experiments
from alexnet_repro.config import ClaimsConfig, TrainConfig
from alexnet_repro.model import AlexNet
from alexnet_repro.paper.records import RECORDS, SPREAD, record
from alexnet_repro.training.schedule import next_phase
from data_prep.common.cli import load

# Of each net's layers with weights, on one GPU, transcribed from layers-145.cfg and its relatives: kernels or units,
# the side of the kernels, the maps or units that it reads on both GPUs together, and the side of its maps before
# pooling. fc8 is on one GPU.
NETS: dict[str, list[tuple[str, int, int, int, int]]] = {
    "code2012": [  # 145
        ("conv1", 48, 11, 3, 55), ("conv2", 128, 5, 48, 27), ("conv3", 192, 3, 2 * 128, 13), ("conv4", 192, 3, 192, 13),
        ("conv5", 128, 3, 192, 13), ("fc6", 2048, 6, 2 * 128, 1), ("fc7", 2048, 1, 2 * 2048, 1),
        ("fc8", 1000, 1, 2 * 2048, 1),
    ],
    "code2012_one_column": [  # 145-half
        ("conv1", 48, 11, 3, 55), ("conv2", 128, 5, 48, 27), ("conv3", 192, 3, 128, 13), ("conv4", 192, 3, 192, 13),
        ("conv5", 256, 3, 192, 13), ("fc6", 4096, 6, 256, 1), ("fc7", 4096, 1, 4096, 1), ("fc8", 1000, 1, 4096, 1),
    ],
    "code2012_six_conv": [  # 146
        ("conv1", 48, 11, 3, 55), ("conv2", 128, 5, 48, 27), ("conv3", 192, 3, 2 * 128, 13), ("conv4", 192, 3, 192, 13),
        ("conv5", 128, 3, 192, 13), ("conv6", 128, 3, 2 * 128, 6), ("fc6", 2048, 6, 2 * 128, 1),
        ("fc7", 2048, 1, 2 * 2048, 1), ("fc8", 1000, 1, 2 * 2048, 1),
    ],
    "code2012_pool_non_overlapping": [  # 147
        ("conv1", 48, 11, 3, 55), ("conv2", 128, 5, 48, 26), ("conv3", 192, 3, 2 * 128, 13), ("conv4", 192, 3, 192, 13),
        ("conv5", 128, 3, 192, 11), ("fc6", 2048, 6, 2 * 128, 1), ("fc7", 2048, 1, 2 * 2048, 1),
        ("fc8", 1000, 1, 2 * 2048, 1),
    ],
    "code2012_no_exchange": [  # 150
        ("conv1", 48, 11, 3, 55), ("conv2", 160, 5, 48, 27), ("conv3", 192, 3, 160, 13), ("conv4", 192, 3, 192, 13),
        ("conv5", 128, 3, 192, 13), ("fc6", 4096, 6, 128, 1), ("fc7", 2048, 1, 4096, 1), ("fc8", 1000, 1, 2 * 2048, 1),
    ],
    "code2012_exchange_at_conv4": [  # 132's exchange in 145
        ("conv1", 48, 11, 3, 55), ("conv2", 128, 5, 48, 27), ("conv3", 192, 3, 128, 13), ("conv4", 192, 3, 2 * 192, 13),
        ("conv5", 128, 3, 192, 13), ("fc6", 2048, 6, 2 * 128, 1), ("fc7", 2048, 1, 2 * 2048, 1),
        ("fc8", 1000, 1, 2 * 2048, 1),
    ],
}  # fmt: skip
NETS |= {"code2012_no_lrn": NETS["code2012"], "code2012_no_norm2": NETS["code2012"]}  # 148, 167

# 146 on Fall-2011, layers-146-2011.cfg: its fc8 has 10921 units on one GPU and 10922 on the other.
BOTTLENECK = [*NETS["code2012_six_conv"][:-1], ("bottleneck", 1024, 1, 2 * 2048, 1)]

# What follows a convolution, in the order of the definition files.
THEN = {
    "code2012": {"conv1": "norm pool activation", "conv2": "activation norm same_map_norm pool"},
    "code2012_no_lrn": {"conv1": "pool activation", "conv2": "activation pool"},
    "code2012_no_norm2": {"conv1": "norm pool activation", "conv2": "activation pool"},
}


def built(name: str) -> AlexNet:
    with torch.device("meta"):
        return AlexNet(load("train", TrainConfig, [f"model={name}"]).model, classes=1000)


@pytest.mark.parametrize("name", NETS)
def test_the_nets_of_2012_by_their_definition_files(name: str) -> None:
    network = built(name)
    columns = network.config.columns
    layers = network.layers()
    assert list(layers) == [layer for layer, *_ in NETS[name]]
    parameters = 0
    sides: dict[str, int] = {}
    for layer, width, side, read, maps in NETS[name]:
        parts = layers[layer].parts()
        assert len(parts) == (1 if layer == "fc8" else columns), layer
        for part in parts:
            assert part.weight.shape[0] == width and part.weight[0].numel() == side * side * read, layer
            assert part.bias.numel() == width
        parameters += len(parts) * (width * side * side * read + width)
        sides[layer] = maps
    assert sum(p.numel() for p in network.parameters()) == parameters
    deviations = {"conv3": 0.03, "conv4": 0.03, "conv5": 0.03, "conv6": 0.03}
    biases = {"conv1": 0.0, "conv3": 0.0, "fc8": 0.0}
    for layer in layers:
        config = getattr(network.config, layer)
        assert (config.weight_std, config.bias) == (deviations.get(layer, 0.01), biases.get(layer, 1.0)), layer
    for layer, then in THEN.get(name, {}).items():
        assert getattr(network.config, layer).then == then.split()
    assert maps_of_convolutions(network) == {layer: side for layer, side in sides.items() if layer.startswith("conv")}


def test_the_head_of_146_on_fall_2011_by_its_definition_file() -> None:
    with torch.device("meta"):
        network = AlexNet(load("train", TrainConfig, ["model=code2012_bottleneck"]).model, classes=21_843)
    layers = network.layers()
    assert list(layers) == [*(name for name, *_ in BOTTLENECK), "fc8"]
    shapes = [tuple(part.weight.shape) for name in ("bottleneck", "fc8") for part in layers[name].parts()]
    assert shapes == [(1024, 4096), (1024, 4096), (10_921, 2048), (10_922, 2048)]
    assert network.config.bottleneck is not None and network.config.bottleneck.then == []  # linear
    for config in (network.config.bottleneck, network.config.fc8):
        assert (config.weight_std, config.bias, config.reads) == (0.01, 0.0, "both")
    of_columns = sum(2 * (width * side * side * read + width) for _, width, side, read, _ in BOTTLENECK)
    assert sum(p.numel() for p in network.parameters()) == of_columns + 21_843 * (2048 + 1)


def test_the_cifar_net_of_four_hidden_layers_by_its_definition_file() -> None:
    """layers-80sec.cfg and layer-params-80sec.cfg, but for the decay, which Figure 1 has not."""
    config = load("train", TrainConfig, ["experiment=figure1_80sec"])
    with torch.device("meta"):
        network = AlexNet(config.model, classes=10)
    shapes = {name: tuple(layer.parts()[0].weight.shape) for name, layer in network.layers().items()}
    assert shapes == {"conv1": (32, 3, 5, 5), "conv2": (32, 32, 5, 5), "conv3": (64, 32, 5, 5), "fc6": (64, 1024),
                      "fc8": (10, 64)}  # fmt: skip
    deviations = {name: getattr(network.config, name).weight_std for name in shapes}
    assert deviations == {"conv1": 0.0001, "conv2": 0.01, "conv3": 0.01, "fc6": 0.1, "fc8": 0.1}
    assert all(getattr(network.config, name).bias == 0 for name in shapes)
    assert (config.optim.learning_rate, config.optim.bias_rate_times, config.optim.weight_decay) == (0.001, 2.0, 0.0)


# The stages of CNN*: network, the stage before, and the layers with an initWFunc in the definition file (fc2048a is
# fc6, fc2048ba fc7). Then, from the notes in the parameter files, rates of the weights of conv1 to conv5, of conv6 and
# of the dense layers, at (epochs done, steps of 128 done after them); 1,600 files of 1,024 images are 12,800 steps.
# Biases have 0.02 and there is noise throughout. Last, the epochs.
STAGES = {
    "cnn_star_ilsvrc2012": ("code2012", None, "", {(0, 0): (0.01, None, 0.01), (26, 0): (0.001, None, 0.001)}, 27),
    "cnn_star_imagenet2009": (
        "code2012_six_conv", "cnn_star_ilsvrc2012", "conv1 conv2 conv3 conv4 conv5",
        {(0, 0): (0.001, 0.01, 0.01), (1, 12_799): (0.001, 0.01, 0.01), (1, 12_800): (0.001, 0.001, 0.001),
         (5, 60_000): (0.001, 0.001, 0.001)}, 6,
    ),
    "cnn_star_pretrain": (
        "code2012_bottleneck", "cnn_star_imagenet2009", "conv1 conv2 conv3 conv4 conv5 conv6",
        {(0, 0): (0.001, 0.001, 0.01), (5, 110_000): (0.001, 0.001, 0.01), (6, 0): (0.001, 0.001, 0.001)}, 8,
    ),
    "cnn_star": ("code2012_six_conv", "cnn_star_pretrain", "conv1 conv2 conv3 conv4 conv5 conv6 fc6 fc7", {}, 54),
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_the_stages_of_cnn_star_by_their_definition_and_parameter_files(stage: str) -> None:
    """The rates of the last stage have a table of their own, in test_section5.py."""
    model, before, layers, rates, epochs = STAGES[stage]
    config = load("train", TrainConfig, [f"experiment={stage}"])
    assert (config.model.name, config.augment.name, config.optim.name) == (model, "code2012", "code2012")
    assert config.init_from == (before and f"{before}-0")
    assert config.init_layers == (layers.split() or None)
    assert next_phase(config.schedule, [0.5] * epochs).finished
    assert not next_phase(config.schedule, [0.5] * (epochs - 1), batches=60_000).finished
    for (done, batches), (conv, conv6, dense) in rates.items():
        phase = next_phase(config.schedule, [0.5] * done, batches=batches)
        expected = {f"conv{i}": conv for i in range(1, 6)} | {"conv6": conv6, "fc6": dense, "fc8": dense}
        expected |= {"bottleneck": dense} if config.model.bottleneck else {}
        for layer, rate in expected.items():
            found = config.optim.learning_rate * phase.rate(layer, bias=False)
            assert rate is None or found == pytest.approx(rate), (layer, done, batches)
        bias = config.optim.learning_rate * config.optim.bias_rate_times * phase.rate("conv1", bias=True)
        assert (bias, phase.colour_noise) == (pytest.approx(0.02), True)


def maps_of_convolutions(network: AlexNet) -> dict[str, int]:
    """The side of each convolution's maps, before what follows it."""
    found: dict[str, int] = {}
    hooks = [
        layer.parts()[0].register_forward_hook(lambda _m, _i, maps, name=name: found.update({name: maps.shape[-1]}))
        for name, layer in network.layers().items()
        if name.startswith("conv")
    ]
    network.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def test_the_records_are_the_papers_numbers_before_rounding() -> None:
    """Tables 1 and 2, section 6, and the differences of 3.2 to 3.4, as the paper rounds them."""
    ten = record("145", "ILSVRC-2012 val", 10)
    assert [round(error, 1) for error in ten.errors] == [40.7, 18.2]
    assert [round(error, 1) for error in record("145", "ILSVRC-2010 test", 10).errors] == [37.5, 17.0]
    assert [round(error, 1) for error in record("145", "ILSVRC-2010 test", 1).errors] == [39.0, 18.3]
    assert [round(error, 1) for error in record("146", "ILSVRC-2012 val", 10).errors] == [39.0, 16.6]
    for net, expected in (("147", [0.4, 0.3]), ("148", [1.4, 1.2])):
        other = record(net, "ILSVRC-2012 val", 10).errors
        assert [round(b - a, 1) for a, b in zip(ten.errors, other, strict=True)] == expected
    half = record("145-half", "ILSVRC-2010 test", 10).errors
    whole = record("145", "ILSVRC-2010 test", 10).errors
    assert [round(b - a, 1) for a, b in zip(whole, half, strict=True)] == [1.7, 1.2]
    near = [one.errors[0] for one in RECORDS if one.net in ("120", "131", "135", "137", "145")
            and one.data == "ILSVRC-2012 val" and one.views == 10 and "restarted" not in one.what]  # fmt: skip
    middle = (max(near) + min(near)) / 2
    assert len(near) == 5 and max(near) - middle == pytest.approx(SPREAD, abs=0.05)


def test_docs_have_the_records_and_every_command_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    claims(load("claims", ClaimsConfig, ["records=true"]))
    assert capsys.readouterr().out == (Path(__file__).parents[2] / "docs" / "records.md").read_text()
    known = {experiment.name for experiment in experiments()}
    assert {one.experiment for one in RECORDS if one.experiment} <= known
