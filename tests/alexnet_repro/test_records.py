"""The nets of 2012, layer by layer, against their definition files; the records against the paper's numbers."""

from pathlib import Path

import pytest
import torch

from alexnet_repro.claims import claims, experiments
from alexnet_repro.config import ClaimsConfig, TrainConfig
from alexnet_repro.model import AlexNet
from alexnet_repro.paper.records import RECORDS, SPREAD, record
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
