"""What a dashboard says of the network's state: dead units, norms, rates."""

import copy

import numpy as np
import pytest
import torch
from networks import small
from torch import Tensor, nn

from alexnet_repro.training.health import DeadUnits, dead_layers, learning_rates, norms
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.sgd import PaperSGD


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
    dead = DeadUnits(model)
    with model.observed(dead.note), torch.inference_mode():
        for batch in batches:
            model(batch)
    model(batches[0] * 100)  # after the pass: not counted
    with torch.inference_mode():
        for batch in batches:
            by_hand(batch)
    expected = {
        f"dead_relu/{name}.{column}": recorded.dead_share()
        for name, layer in by_hand.layers().items()
        for column, then in zip(layer.column_names, layer.then, strict=True)
        for recorded in then
        if isinstance(recorded, Recorded)
    }
    assert dead.shares(Ranks()) == pytest.approx(expected)
    assert 0.2 < expected["dead_relu/conv1.a"] < 1 and 0 < expected["dead_relu/fc7.a"] < 1


def test_networks_without_relu_have_no_dead_ones() -> None:
    model = small("model.activation=tanh")
    dead = DeadUnits(model)
    with model.observed(dead.note):
        model(torch.zeros(1, 3, 67, 67, dtype=torch.float64))
    assert dead.shares(Ranks()) == {}


def test_dead_on_all_ranks_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ranks exchange has the same places on all, even on one that had no images."""
    model = small().eval()
    with torch.no_grad():
        model.layers()["fc7"].parts()[0].bias -= 0.3
    parts = torch.randn(3, 2, 3, 67, 67, dtype=torch.float64)
    whole = DeadUnits(model)
    with model.observed(whole.note), torch.inference_mode():
        model(parts.flatten(0, 1))
    expected = whole.shares(Ranks())
    sent: list[Tensor] = []

    def all_reduce(numbers: Tensor) -> None:
        sent.append(numbers.clone())
        numbers.copy_(torch.stack(sent).sum(0))

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    for rank, images in enumerate((*parts, None)):
        dead = DeadUnits(model)
        with model.observed(dead.note), torch.inference_mode():
            if images is not None:
                model(images)
        shares = dead.shares(Ranks(rank, 4))
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


def test_a_layer_is_dead_if_every_column_is() -> None:
    shares = {"dead_relu/conv1.a": 1.0, "dead_relu/conv1.b": 0.998, "dead_relu/fc7.a": 1.0, "dead_relu/fc7.b": 0.9995}
    assert dead_layers(shares) == ["fc7"]
    assert dead_layers({}) == []
