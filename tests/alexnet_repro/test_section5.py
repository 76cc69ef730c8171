"""Section 5, and what was run in 2012: the update rule and the schedules against transcriptions in numpy."""

import math

import numpy as np
import pytest
import torch
from networks import small

from alexnet_repro.config import ScheduleConfig, TrainConfig
from alexnet_repro.model import AlexNet
from alexnet_repro.training.optimisers import buffers_of, optimiser_for, set_rates
from alexnet_repro.training.schedule import (
    Phase,
    changes_within,
    described,
    divisions_done,
    layers_with_own_rates,
    next_phase,
)
from alexnet_repro.training.sgd import PaperSGD
from data_prep.common.cli import load
from data_prep.common.errors import RequestError


def test_update_rule_is_that_of_section_5() -> None:
    """100 steps with two divisions and a pause at 0, in float64. torch.optim.SGD differs at the divisions by 1e-2."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 5))
    v = np.zeros_like(w)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimiser = PaperSGD([parameter], learning_rate=0.01, momentum=0.9, weight_decay=0.0005)
    for step in range(100):
        eps = 0.0 if 60 <= step < 65 else 0.01 / 10 ** (step // 40)
        gradient = rng.normal(size=w.shape)
        if eps:
            v = 0.9 * v - 0.0005 * eps * w - eps * gradient
            w = w + v
        optimiser.param_groups[0]["lr"] = eps
        parameter.grad = torch.from_numpy(gradient)
        optimiser.step()
        np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-12)
        velocity = optimiser.velocity(parameter)
        assert velocity is not None
        np.testing.assert_allclose(velocity.numpy(), v, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("profile", ["paper", "code2012"])
def test_every_parameter_has_the_rate_and_decay_of_its_profile(profile: str) -> None:
    """100 steps over the phases of a whole run, each parameter by the printed rule with numbers written out here.

    Catches a bias that decays, a frozen layer that creeps on, a velocity that changes with the rate. float64: 1e-12.
    """
    config = load("train", TrainConfig, [f"optim={profile}", "schedule=log145_ilsvrc2012"])
    model = small().double()
    optimiser = optimiser_for(config.optim, model, layers_with_own_rates(config.schedule))
    epochs = [0, 24, 25, 50, 51, 66, 67, 71, 72, 78, 79, 90]  # the rates of epochs 1, 25, 26, ...
    weight_rate = [0.01] * 2 + [0.001] * 2 + [0.0001] * 6 + [0.00001] * 2
    conv1_rate = [0.01] * 2 + [0.001] * 2 + [0.0001] * 2 + [0.00001] * 2 + [0.0] * 4
    times = {"paper": 1, "code2012": 2}[profile]
    bias_rate = [0.01 * times] * 12
    bias_decay = {"paper": 0.0005, "code2012": 0.0}[profile]
    rng = np.random.default_rng(0)
    w = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    for step in range(100):
        now = step * len(epochs) // 100
        set_rates(optimiser, next_phase(config.schedule, [0.5] * epochs[now]))
        for name, parameter in model.named_parameters():
            gradient = rng.normal(size=w[name].shape)
            parameter.grad = torch.from_numpy(gradient)
            bias, conv1 = name.endswith("bias"), name.startswith("conv1")
            eps = bias_rate[now] if bias else conv1_rate[now] if conv1 else weight_rate[now]
            if conv1 and conv1_rate[now] == 0:
                continue
            v[name] = 0.9 * v[name] - (bias_decay if bias else 0.0005) * eps * w[name] - eps * gradient
            w[name] = w[name] + v[name]
        optimiser.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), w[name], rtol=1e-12, atol=1e-13, err_msg=name)
        velocity = optimiser.velocity(parameter)
        assert velocity is not None
        np.testing.assert_allclose(velocity.numpy(), v[name], rtol=1e-9, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("apart", [{"conv1", "conv2"}, set(), {"conv3", "fc8"}], ids=len)
def test_velocities_survive_a_pause_whatever_the_groups(apart: set[str]) -> None:
    """v of section 5 itself, not the buffer behind it: a run may go on with other layers that have rates of their own.

    Of conv1 with another rate than the others, and of conv2, frozen from the first, which has none. float64: 1e-12.
    """
    config = load("train", TrainConfig, ["optim=code2012"]).optim
    model = small()
    before = optimiser_for(config, model, {"conv1", "conv2"})
    set_rates(before, Phase(False, weights=0.1, biases=0.3, layers={"conv1": 0.5, "conv2": 0.0}))
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        before.step()
    kept = buffers_of(model, before)
    after = optimiser_for(config, model, apart)
    after.restore({parameter: name for name, parameter in model.named_parameters()}, *kept.values())
    for name, parameter in model.named_parameters():
        expected, found = before.velocity(parameter), after.velocity(parameter)
        assert (expected is None) == name.startswith("conv2")
        zeros = torch.zeros_like(parameter)
        expected, found = (zeros if v is None else v for v in (expected, found))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, msg=name)


def test_adam_is_that_of_its_authors_and_survives_a_pause() -> None:
    """Algorithm 1 of Kingma and Ba in numpy, float64: 1e-12; a pause in the middle, through what a checkpoint keeps.

    Catches moments or step counts that a resumed run begins anew.
    """
    config = load("train", TrainConfig, ["optim=adam"]).optim
    rng = np.random.default_rng(0)
    model = small()
    optimiser = optimiser_for(config, model)
    w = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    m, v = ({name: np.zeros_like(value) for name, value in w.items()} for _ in range(2))
    for step in range(1, 21):
        if step == 11:
            kept = buffers_of(model, optimiser)
            optimiser = optimiser_for(config, model)
            names = {parameter: name for name, parameter in model.named_parameters()}
            optimiser.restore(names, kept["buffers"], kept["buffer_rates"])
        for name, parameter in model.named_parameters():
            g = rng.normal(size=w[name].shape)
            parameter.grad = torch.from_numpy(g)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            step_size = 0.001 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            w[name] = w[name] - step_size * m[name] / (np.sqrt(v[name]) + 1e-8 * np.sqrt(1 - 0.999**step))
        optimiser.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), w[name], rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("rule", ["paper", "adam"])
def test_a_loss_that_is_no_number_changes_nothing(rule: str) -> None:
    """found_inf on the device: neither weights nor what the optimiser keeps, its count of steps included."""
    model = small()
    optimiser = optimiser_for(load("train", TrainConfig, [f"optim={rule}"]).optim, model)
    optimiser.found_inf = torch.zeros(())

    def step() -> dict[str, torch.Tensor]:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
        kept = buffers_of(model, optimiser)["buffers"]
        return {
            f"{b} {n}": t.clone()
            for b, tensors in {"w": model.state_dict(), **kept}.items()
            for n, t in tensors.items()
        }

    first = step()
    optimiser.found_inf.fill_(1.0)
    second = step()
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    optimiser.found_inf.fill_(0.0)
    assert not any(torch.equal(tensor, first[name]) for name, tensor in step().items() if name.startswith("w "))


def test_a_layer_may_have_a_decay_of_its_own() -> None:
    """CIFAR-10 nets of 2012: none in convolutional layers, 0.004 in local ones, 0.01 in the last; biases none."""
    config = load("train", TrainConfig, ["experiment=cifar10_lrn"])
    model = AlexNet(config.model, classes=10)
    optimiser = optimiser_for(config.optim, model)
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    rate = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    found = {name: (decay[id(p)], rate[id(p)]) for name, p in model.named_parameters()}
    expected = {"conv1": 0.0, "conv2": 0.0, "conv3": 0.004, "conv4": 0.004, "fc8": 0.01}
    assert found == {
        f"{layer}.a.{kind}": (wc, 0.001) if kind == "weight" else (0.0, 0.002)
        for layer, wc in expected.items()
        for kind in ("weight", "bias")
    }


def test_what_an_optimiser_cannot_do_is_refused() -> None:
    config = load("train", TrainConfig, ["+optim.layer_decay.fc6=0.1", "model=cifar10"])
    with pytest.raises(RequestError, match=r"optim\.layer_decay\.fc6: the network has no fc6"):
        optimiser_for(config.optim, AlexNet(config.model, classes=10))


def test_training_ends_at_a_training_error() -> None:
    config = plateau(patience=None, until_train_error=0.25)
    assert not next_phase(config, [0.5, 0.1], [0.5, 0.26]).finished  # the val error does not count
    assert next_phase(config, [0.5, 0.5], [0.5, 0.25]).finished


def plateau(**changes: object) -> ScheduleConfig:
    settings = {
        "epochs": 90,
        "divisions": 3,
        "divide_by": 10.0,
        "patience": 2,
        "min_improvement": 0.01,
        "until_train_error": None,
        "changes": [],
    }
    return ScheduleConfig(name="test", **{**settings, **changes})  # type: ignore[arg-type]


def phases(config: ScheduleConfig, errors: list[float]) -> list[Phase]:
    """Of each epoch, until the schedule ends the run."""
    result = []
    for epoch in range(len(errors) + 1):
        phase = next_phase(config, errors[:epoch])
        if phase.finished:
            break
        result.append(phase)
    return result


def rates(config: ScheduleConfig, errors: list[float]) -> list[float]:
    found = phases(config, errors)
    assert all(phase.biases == phase.weights for phase in found)
    return [phase.weights for phase in found]


def test_plateau_divides_three_times_and_ends() -> None:
    errors = [0.9, 0.8, 0.795, 0.793, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
    # 0.795 and 0.793 do not improve by 0.01, so it divides; 0.7 does; then two epochs to each further division
    expected = [1] * 4 + [0.1] * 3 + [0.01] * 2 + [0.001] * 2
    np.testing.assert_allclose(rates(plateau(), errors), expected)


def test_no_improvement_at_all_is_a_plateau_however_little_would_do() -> None:
    assert rates(plateau(min_improvement=0.0), [0.5] * 7) == [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001]


def test_just_enough_is_an_improvement() -> None:
    errors = [0.75, 0.75, 0.5, 0.5, 0.25]  # of 0.25, which floats hold exactly, after one epoch without
    assert rates(plateau(min_improvement=0.25), errors) == [1] * 6


def test_at_most_so_many_epochs() -> None:
    assert len(rates(plateau(epochs=5), [0.9 - i / 50 for i in range(20)])) == 5


def test_a_line_says_where_a_schedule_stands() -> None:
    history = [{"val_top1_error": error, "train_loss": 1.0, "chance_loss": 2.0} for error in [0.5] * 5]
    config = plateau(min_improvement=0.0)  # as above, divided after three epochs, and again after five
    assert [divisions_done(config, history[:epochs]) for epochs in (2, 3, 5)] == [0, 1, 2]
    assert described(config) == f"test, at most {config.epochs} epochs"
    fixed = load("train", TrainConfig, ["experiment=tiny_imagenet_code2012"]).schedule
    assert described(fixed) == "net170, 30 epochs, changes after epoch 8, 15, 21, 22, 23"
    assert divisions_done(fixed, history) == 0


def test_fixed_divisions() -> None:
    changes = ["schedule.changes=[{after: 2, weights: 0.1, biases: 0.1}, {after: 3, weights: 0.01, biases: 0.01}]"]
    config = load("train", TrainConfig, ["schedule=constant", "schedule.epochs=4", *changes]).schedule
    np.testing.assert_allclose(rates(config, [0.5] * 9), [1, 1, 0.1, 0.01])
    for wrong, said in (
        (["schedule=plateau", "schedule.changes=[{after: 3}]"], "or schedule.patience=null"),
        (["schedule=constant", "schedule.changes=[{after: 3}, {after: 2}]"], "in the order of `after`"),
        (["schedule=constant", "schedule.changes=[{after: 3, weights: -1}]"], "weights=-1.0: must be 0 or more"),
        (["schedule=constant", "schedule.changes=[{after: 3, layers: {conv9: 1}}]"], "one of conv1, conv2"),
        (["schedule=constant", "schedule.changes=[{after: 3, rate: 1}]"], "unknown key 'rate'"),
        (["schedule=constant", "schedule.changes=[{after: {epoch: 3}}]"], "or {epoch: E, batches: B}"),
        (["schedule=constant", "schedule.changes=[{after: -1}]"], "a number of epochs, 0 or more"),
    ):
        with pytest.raises(RequestError, match=said):
            load("train", TrainConfig, wrong)


def test_of_changes_that_stretching_puts_in_another_order_the_last_listed_holds() -> None:
    """Epochs are stretched and batches are not: 50 batches into epoch 8 of 20 come after the end of epoch 10, in a run
    of 2 epochs at 1 and 1.
    """
    changes = "schedule.changes=[{after: {epoch: 8, batches: 50}, weights: 0.5}, {after: 10, weights: 0.1}]"
    settings = ["schedule=constant", "schedule.recorded_epochs=20", changes]
    short, whole = (load("train", TrainConfig, [*settings, f"schedule.epochs={epochs}"]).schedule for epochs in (2, 20))
    assert [next_phase(short, [0.5], batches=done).weights for done in (0, 49, 50)] == [0.1] * 3
    found = [next_phase(whole, [0.5] * 8, batches=done).weights for done in (49, 50)]
    assert [*found, next_phase(whole, [0.5] * 10).weights] == [1.0, 0.5, 0.1]


# The notes of 2012. Of each net, what holds once so many epochs are done: the rates of the weights of conv1 and of the
# other layers, of the biases (of conv1 too, unless it is frozen), whether colour noise; last, the end. What is a guess
# is named in the file of the schedule.
LOGS: dict[str, list[tuple[int, float, float, float, bool] | int]] = {
    "code2012": [
        (0, 0.01, 0.01, 0.02, True), (25, 0.001, 0.001, 0.02, True), (51, 0.0001, 0.0001, 0.02, True),
        (67, 0.00001, 0.0001, 0.02, False), (72, 0.0, 0.0001, 0.02, False), (79, 0.0, 0.00001, 0.02, False), 91,
    ],
    "code2012_ilsvrc2010": [
        (0, 0.01, 0.01, 0.02, True), (23, 0.001, 0.001, 0.002, True), (51, 0.0001, 0.0001, 0.002, True),
        (68, 0.00001, 0.0001, 0.002, False), (72, 0.0, 0.0001, 0.002, False), (78, 0.0, 0.00001, 0.002, False), 93,
    ],
    "code2012_one_column": [
        (0, 0.01, 0.01, 0.02, True), (20, 0.001, 0.001, 0.02, True), (48, 0.0001, 0.0001, 0.02, True),
        (66, 0.00001, 0.0001, 0.02, False), (72, 0.0, 0.0001, 0.02, False), (78, 0.0, 0.00001, 0.02, False), 96,
    ],
    "code2012_pool_non_overlapping": [
        (0, 0.01, 0.01, 0.02, True), (23, 0.001, 0.001, 0.02, True), (51, 0.0001, 0.0001, 0.002, True),
        (79, 0.0, 0.00001, 0.002, True), 90,
    ],
    "code2012_no_lrn": [
        (0, 0.01, 0.01, 0.02, True), (22, 0.001, 0.001, 0.02, True), (44, 0.0001, 0.0001, 0.02, True),
        (69, 0.00001, 0.0001, 0.02, False), (73, 0.0, 0.0001, 0.02, False), (86, 0.0, 0.00001, 0.02, False), 97,
    ],
    "code2012_no_exchange": [
        (0, 0.01, 0.01, 0.02, True), (25, 0.001, 0.001, 0.02, True), (49, 0.0001, 0.0001, 0.02, True),
        (66, 0.00001, 0.0001, 0.02, False), (72, 0.0, 0.0001, 0.02, False), (79, 0.0, 0.00001, 0.02, False), 92,
    ],
    "code2012_exchange_at_conv4": [
        (0, 0.01, 0.01, 0.02, True), (23, 0.001, 0.001, 0.02, True), (46, 0.0001, 0.0001, 0.02, True),
        (65, 0.00001, 0.0001, 0.02, False), (71, 0.0, 0.0001, 0.02, False), (81, 0.0, 0.00001, 0.02, False), 88,
    ],
    "code2012_no_norm2": [
        (0, 0.01, 0.01, 0.02, True), (24, 0.001, 0.001, 0.02, True), (48, 0.0001, 0.0001, 0.002, True),
        (63, 0.0001, 0.0001, 0.002, False), (71, 0.00001, 0.00001, 0.002, False), (73, 0.0, 0.00001, 0.002, False), 95,
    ],
}  # fmt: skip


@pytest.mark.parametrize("experiment", LOGS)
def test_recorded_schedules_epoch_by_epoch(experiment: str) -> None:
    config = load("train", TrainConfig, [f"experiment={experiment}"])
    first, first_bias = config.optim.learning_rate, config.optim.learning_rate * config.optim.bias_rate_times
    found = phases(config.schedule, [math.nan] * 200)  # whatever the errors
    *spans, end = LOGS[experiment]
    assert len(found) == end
    for done, phase in enumerate(found):
        _, conv1, weights, biases, noise = next(span for span in reversed(spans) if span[0] <= done)
        assert math.isclose(first * phase.rate("conv3", bias=False), weights), done
        assert math.isclose(first * phase.rate("conv1", bias=False), conv1), done
        assert math.isclose(first_bias * phase.rate("fc8", bias=True), biases), done
        assert math.isclose(first_bias * phase.rate("conv1", bias=True), biases if conv1 else 0.0), done
        assert phase.colour_noise == noise, done
        if experiment == "code2012_exchange_at_conv4":  # slowed and frozen with conv1
            assert phase.rate("conv2", bias=False) == phase.rate("conv1", bias=False)


@pytest.mark.parametrize(("experiment", "first"), [("cifar10_lrn", 500), ("cifar10_19pct", 120)])
def test_cifar_nets_lower_the_rate_of_the_weights_alone(experiment: str, first: int) -> None:
    config = load("train", TrainConfig, [f"experiment={experiment}"])
    found = phases(config.schedule, [math.nan] * 600)
    assert [phase.weights for phase in found] == [1.0] * first + [0.1] * 10 + [0.01] * 10
    assert {config.optim.learning_rate * config.optim.bias_rate_times * phase.biases for phase in found} == {0.002}
    if experiment == "cifar10_lrn":
        assert config.augment.mean == "centre"  # the central crop of the mean image, as run


@pytest.mark.parametrize(("experiment", "epochs"), [("code2012_fixed", 95), ("tiny_imagenet_code2012", 30)])
def test_the_fixed_schedule_of_net_170_whatever_its_length(experiment: str, epochs: int) -> None:
    """By its rule, at the nearest whole epoch; 0.1 % for rates that are written with six digits. Catches a quarter that
    is off by one, and a change that is not stretched.
    """
    config = load("train", TrainConfig, [f"experiment={experiment}"])
    found = phases(config.schedule, [math.nan] * 200)
    assert len(found) == epochs
    stretched = epochs / 95
    for done, phase in enumerate(found):
        quarter = sum(done >= round(after * stretched) for after in (23.75 + 0.25, 47.5 + 0.5, 71.25 - 0.25))
        weights = 0.01 / 250 ** (quarter / 3)
        assert abs(quarter - 4 * done / epochs) <= 1 + 4 / epochs, done
        assert math.isclose(0.01 * phase.rate("conv3", bias=False), weights, rel_tol=1e-3), done
        bias = 0.02 if quarter < 2 else 0.002
        frozen = done >= round(74 * stretched)
        assert math.isclose(0.02 * phase.rate("fc8", bias=True), bias), done
        assert math.isclose(0.02 * phase.rate("conv1", bias=True), 0.0 if frozen else bias), done
        assert phase.rate("conv1", bias=False) == (0.0 if frozen else phase.weights), done
        assert phase.colour_noise == (done < round(68 * stretched)), done
    assert config.optim.learning_rate == 0.01 and config.optim.bias_rate_times == 2


# Net 146 on ILSVRC-2012. First epoch (from 1) and last: rates of the weights of conv1, of fc8 (from batch 300 on), of
# the others; of the biases of conv1, of the others; whether colour noise.
LOG146 = {
    (1, 5): (0.0001, 0.01, 0.001, 0.02, 0.02, True),
    (6, 7): (0.00001, 0.01, 0.001, 0.02, 0.02, True),
    (8, 9): (0.0, 0.01, 0.001, 0.0, 0.02, True),
    (10, 22): (0.0, 0.001, 0.001, 0.0, 0.02, True),
    (23, 38): (0.0, 0.0001, 0.0001, 0.0, 0.02, True),
    (39, 42): (0.0, 0.0001, 0.0001, 0.0, 0.02, False),
    (43, 54): (0.0, 0.00001, 0.00001, 0.0, 0.02, False),
}


def test_recorded_schedule_of_cnn_star_epoch_by_epoch() -> None:
    """In the optimiser's groups, at the end of each epoch; fc8's rate rises within the first. Catches a change after 0
    epochs that comes late, and an own rate that never ends.
    """
    config = load("train", TrainConfig, ["experiment=cnn_star"])
    model = small("model=code2012_six_conv")
    optimiser = optimiser_for(config.optim, model, layers_with_own_rates(config.schedule))
    assert [changes_within(config.schedule, done) for done in (0, 1, 9)] == [{2400}, set(), set()]
    rates_of_fc8 = [0.01 * next_phase(config.schedule, [], batches=n).rate("fc8", bias=False) for n in (0, 2399, 2400)]
    np.testing.assert_allclose(rates_of_fc8, [0.001, 0.001, 0.01])
    found = [next_phase(config.schedule, [math.nan] * done, batches=10000) for done in range(55)]
    assert [phase.finished for phase in found] == [False] * 54 + [True]
    for (first, last), (conv1, fc8, weights, conv1_bias, biases, noise) in LOG146.items():
        for epoch in range(first, last + 1):
            assert found[epoch - 1].colour_noise == noise, epoch
            set_rates(optimiser, found[epoch - 1])
            rate_of = {p: group["lr"] for group in optimiser.param_groups for p in group["params"]}
            for name, parameter in model.named_parameters():
                bias, first_layer = name.endswith("bias"), name.startswith("conv1")
                own = conv1 if first_layer else fc8 if name.startswith("fc8") else weights
                expected = (conv1_bias if first_layer else biases) if bias else own
                assert math.isclose(rate_of[parameter], expected), (epoch, name)
