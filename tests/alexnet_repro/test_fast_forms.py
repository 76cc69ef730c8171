"""The fast forms against the plain ones, on a CPU in Triton's interpreter. With a GPU, tests/gpu has the same on it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", "3.3")

import triton
import triton.language as tl
from forms import CASES, conv_steps, error, run_steps
from networks import SMALL_MODEL
from recorded_graphs import Capture, Graph, record_graphs
from torch import nn
from torch.autograd.graph import get_gradient_edge

from alexnet_repro.config import NormConfig, TrainConfig
from alexnet_repro.data import Batch, ColourNoise, ColumnInputs, Draws, InputRule, InputTransform, views_of
from alexnet_repro.data.fused_input import FusedInputTransform
from alexnet_repro.evaluation.fast_views import FastViews, views_that_fit
from alexnet_repro.evaluation.inference import forward_for
from alexnet_repro.model import AlexNet, exchange, fused, initialise
from alexnet_repro.model.fast import FastNetwork
from alexnet_repro.model.fast_weights import InputLayout
from alexnet_repro.model.fused import dense_places
from alexnet_repro.model.fused_same_map import same_map_norm
from alexnet_repro.model.response_norm import SameMapNorm
from alexnet_repro.training.fast_step import FastStepper
from alexnet_repro.training.health import DeadUnits
from alexnet_repro.training.optimisers import optimiser_for, set_rates
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.schedule import Phase
from alexnet_repro.training.step import Stepper, StepResult
from data_prep.common.cli import load

CPU = torch.device("cpu")


@triton.jit
def _count(out_ptr, end):  # type: ignore[no-untyped-def]
    for number in range(tl.program_id(0), end, tl.num_programs(0)):
        tl.store(out_ptr + number, 1.0)


def _interpreter_counts() -> bool:
    """Triton 3.6's interpreter cannot loop from a program's number, as fused.py does, with NumPy 2.4."""
    try:
        _count[(2,)](torch.zeros(4), 4)
    except triton.runtime.errors.InterpreterError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the kernels run there: tests/gpu"),
    pytest.mark.skipif(
        not torch.cuda.is_available() and not _interpreter_counts(),
        reason="Triton's interpreter and this NumPy do not fit: a newer Triton, or NumPy before 2.4",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_follows_a_convolution_in_one_kernel(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps, gradient, and the bias's. Against float64; the error of float32 sums is 1e-7, one neighbour, tap or column
    taken wrongly is 1e-3. Small tiles and few programs, so that each takes many tiles.
    """
    monkeypatch.setattr(fused, "_ELEMENTS", 1024)
    monkeypatch.setattr(fused, "_PROGRAMS", 9)
    for pieces in {1, case["groups"]}:
        ours, theirs = run_steps(conv_steps, case, pieces, torch.float32, CPU)
        for name in theirs:
            assert error(ours[name], theirs[name]) < 1e-6, name


def test_nan_stays_nan() -> None:
    """The guard of training sees it in the loss: a maximum must not drop it."""
    x = torch.zeros(1, 8, 7, 7)
    x[0, 3, 2, 2] = float("nan")
    for case in CASES:
        for out in conv_steps(x, torch.zeros(8), {**case, "groups": 1}, 1):
            assert out[0, 3].isnan().any()


def test_maps_of_more_than_32_bits_count_are_refused() -> None:
    assert len(dense_places(torch.empty(65535, 128, 16, 16, device="meta"))) == 65535
    with pytest.raises(ValueError, match=r"maps of \(65536, 128, 16, 16\): 2\^31 elements or more"):
        dense_places(torch.empty(65536, 128, 16, 16, device="meta"))


def test_what_the_kernels_have_not_is_refused() -> None:
    x = torch.zeros(1, 8, 13, 13)
    with pytest.raises(ValueError, match="a window of 7 maps and pooling of 1: the kernel has"):
        fused.after_conv(x, norm=NormConfig(7, 1e-4, 0.75, 2.0))
    with pytest.raises(ValueError, match="a window of 1 maps and pooling of 12"):
        fused.after_conv(x, pool=(12, 1))


@pytest.mark.parametrize("shape", [(2, 20, 9, 11), (1, 400, 3, 4)], ids=str)  # 400 maps: four programs of 128
def test_same_map_normalisation(shape: tuple[int, ...]) -> None:
    norm = NormConfig(5, 4e-5, 0.75, 1.0)
    x = (torch.randn(shape) * 60).requires_grad_()
    reference = x.detach().double().requires_grad_()
    grad = torch.randn(shape)
    ours, theirs = same_map_norm(x, norm), SameMapNorm(norm)(reference)
    ours.backward(grad)
    theirs.backward(grad.double())
    assert error(ours, theirs) < 1e-6
    assert error(x.grad, reference.grad) < 1e-6


@pytest.mark.parametrize("mean", ["at_patch", "centre"])
@pytest.mark.parametrize("noise", [True, False])
def test_the_input_is_the_plain_one_to_the_bit(mean: str, noise: bool) -> None:
    """Of patches and of whole images, laid out in blocks."""
    rng = np.random.default_rng(0)
    whole = torch.randint(0, 256, (3, 23, 23, 3), dtype=torch.uint8)
    top, left, mirror = torch.tensor([0, 4, 2]), torch.tensor([1, 0, 4]), torch.tensor([True, False, True])
    patches = torch.stack([image[t : t + 19, c : c + 19] for image, t, c in zip(whole, top, left, strict=True)])
    rule = InputRule(rng.random((23, 23, 3)).astype(np.float32) * 255, 19, mean, 0.5)
    colour_noise = ColourNoise(rng.standard_normal((3, 3)).astype(np.float32), 1.1)
    draws = Draws(top, left, mirror, torch.randn(3, 3) if noise else None)
    plain = InputTransform(rule, colour_noise, CPU, False)(patches, draws)
    layout = InputLayout(4, 6, 48)
    transform = FusedInputTransform(rule, colour_noise, CPU, layout, torch.float32)
    expected = F.pad(plain, (0, 5, 0, 5)).reshape(3, 3, 6, 4, 6, 4).permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
    for images in (patches, whole):
        assert torch.equal(transform(images, draws), expected)


VARIANTS = [
    "paper", "code2012", "code2012_pool_non_overlapping", "pool_non_overlapping", "no_exchange", "one_column", "tanh",
    "no_lrn", "exchange_at_conv4", "six_conv", "input_227", "cifar10", "cifar10_local",
]  # fmt: skip


def batches(size: int, classes: int, count: int, images: int = 2) -> list[Batch]:
    g = torch.Generator().manual_seed(0)
    return [
        Batch(
            images=torch.randint(0, 256, (images, size, size, 3), generator=g, dtype=torch.uint8),
            labels=torch.randint(0, classes, (images,), generator=g),
            draws=Draws(
                top=torch.randint(0, 9, (images,), generator=g),
                left=torch.randint(0, 9, (images,), generator=g),
                mirror=torch.rand(images, generator=g) < 0.5,
                colour=torch.randn(images, 3, generator=g) * 0.1,
            ),
        )
        for _ in range(count)
    ]


def overrides_of(variant: str) -> list[str]:
    if variant.startswith("cifar10"):
        return [f"model={variant}", "model.width=0.25"]
    sizes = {"code2012_pool_non_overlapping": "99", "input_227": "71"}
    small = [key for key in SMALL_MODEL if "input_size" not in key]
    return [f"model={variant}", *small, f"model.input_size={sizes.get(variant, '67')}"]


def steppers(overrides: list[str], precision: str = "fp32") -> list[Stepper]:
    """A plain one and a fast one, of equal networks that tell pictures apart, from the same start."""
    made = []
    for fast in (False, True):
        config = load("train", TrainConfig, ["data.path=none", "optim.learning_rate=0.002", *overrides])
        model = initialise(AlexNet(config.model, 7), 0).train()
        for name, parameter in model.named_parameters():
            with torch.no_grad():
                if name.endswith("weight"):
                    parameter *= 1.5 / parameter[0].numel() ** 0.5 / parameter.std()
        size = config.model.input_size
        mean = np.random.default_rng(0).random((size + 8, size + 8, 3)).astype(np.float32) * 20 + 110
        rule = InputRule(mean, size, config.augment.mean, 1 / 60)
        noise = ColourNoise(np.eye(3, dtype=np.float32) * 5, config.augment.colour_divisor)
        inputs = ColumnInputs(rule, model.column_devices(), None, noise)
        parts = model, optimiser_for(config.optim, model), inputs, 0, Ranks(), precision
        if fast:
            stepper = FastStepper(*parts, noise, 2)
            stepper.captures_steps = False  # there is no graph on a CPU
            made.append(stepper)
        else:
            made.append(Stepper(*parts))
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_is_the_plain_one(variant: str) -> None:
    """Loss, guesses and weights over two steps. Float32 in another order: 1e-5; a wrong mask, mean, column or
    neighbour changes the loss by 1e-3 and more (the two steps differ by more, or nothing here would tell).
    """
    found: list[list[StepResult]] = []
    weights = []
    for stepper in steppers(overrides_of(variant)):
        data = batches(stepper.model.config.input_size, 7, 2)
        found.append([stepper({CPU: batch}, step, True, False).read() for step, batch in enumerate(data)])
        weights.append(torch.cat([parameter.detach().flatten() for parameter in stepper.model.parameters()]))
    plain, fast = found
    assert abs(plain[0].loss - plain[1].loss) > 5e-3
    for ours, theirs in zip(fast, plain, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)
        assert (ours.correct, ours.top5_correct) == (theirs.correct, theirs.top5_correct)
    assert error(weights[1], weights[0]) < 1e-5


@pytest.mark.parametrize("variant", ["code2012", "cifar10_local"])
def test_bfloat16_rounds_and_does_no_more(variant: str) -> None:
    """Two steps; 8 bits of mantissa in every map, which Triton's interpreter cuts off (a GPU rounds): 2 %."""
    plain, fast = (
        [stepper({CPU: batch}, step, False, False).read().loss for step, batch in enumerate(made)]
        for stepper in steppers(overrides_of(variant), "bf16")
        for made in [batches(stepper.model.config.input_size, 7, 2)]
    )
    assert fast == pytest.approx(plain, rel=2e-2)
    assert plain != fast


def test_what_no_kernel_does_is_done_step_by_step() -> None:
    """A window of seven maps, and pooling over more places than eight bits count."""
    overrides = [*overrides_of("paper"), "model.norm.size=7", "model.pool={size: 12, stride: 1}"]
    overrides = [key for key in overrides if "input_size" not in key] + ["model.input_size=223"]
    plain, fast = (stepper({CPU: batches(223, 7, 1)[0]}, 0, True, False).read().loss for stepper in steppers(overrides))
    assert fast == pytest.approx(plain, abs=1e-4)


def test_rescaled_dropout_and_pooling_rounded_down() -> None:
    """Two training steps, and the probabilities at test. conv1 makes 16 x 16 maps, so that rounding tells."""
    steps = "model.conv1.then=[activation,norm,floor_pool]"
    overrides = [*overrides_of("paper"), "model.input_size=71", "model.dropout_rescaled=true", steps]
    plain, fast = steppers(overrides)
    for step, batch in enumerate(batches(71, 7, 2)):
        losses = [stepper({CPU: batch}, step, True, False).read().loss for stepper in (plain, fast)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    halved, _ = steppers([*overrides, "model.dropout_rescaled=false"])
    assert abs(halved({CPU: batch}, 0, True, False).read().loss - losses[0]) > 1e-2
    assert isinstance(fast, FastStepper)
    image = fast._transforms[CPU](batch.images, batch.drawn(with_noise=False))
    with torch.no_grad():
        expected = fast.model.eval()(fast.inputs.of_batch({CPU: batch}, with_noise=False))
        torch.testing.assert_close(fast.fast([image]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["paper", "code2012", "no_exchange"])
def test_columns_on_two_devices_are_computed_one_by_one(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on two GPUs, with `cpu` and `cpu:0` in their places. fc8 lives on the first, and its maps go nowhere else."""
    gathered = []
    gather = exchange.gather
    monkeypatch.setattr(
        exchange, "gather", lambda maps, devices: gathered.append(len(devices)) or gather(maps, devices)
    )
    _, together = steppers(overrides_of(variant))
    assert isinstance(together, FastStepper)
    apart = FastNetwork(together.model, "fp32", [(CPU, [0]), (torch.device("cpu", 0), [1])])
    batch = batches(67, 7, 1)[0]
    image = together._transforms[CPU](batch.images, batch.drawn(with_noise=False))
    expected = together.fast([image])
    torch.testing.assert_close(apart([image, image]), expected, rtol=1e-5, atol=1e-5)
    assert (expected - together.fast([image.flip(0)])).abs().max() > 1e-2
    assert gathered == [2] * (len(gathered) - 1) + [1]
    assert len(gathered) == (1 if variant == "no_exchange" else 4)  # conv3, fc6, fc7, fc8


# Of a step: images, colour noise, rate, conv1's. A short batch takes the plain step, and scales the velocities for its
# rate; no graph scales them back.
STEPS = [
    (1, True, 1.0, 1.0), (2, True, 1.0, 1.0), (2, True, 1.0, 1.0), (1, True, 0.1, 0.1), (2, True, 1.0, 1.0),
    (1, True, 1.0, 1.0), (2, True, 1.0, 1.0), (2, False, 1.0, 1.0), (2, True, 0.1, 0.0), (2, True, 0.0, 0.0),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a capture writes nothing, so its numbers are any
@pytest.mark.parametrize(
    ("variant", "apart"), [("code2012", 0), ("cifar10_local", 0), ("paper", 9), ("no_exchange", 3)]
)
def test_steps_as_graphs_are_the_plain_ones(variant: str, apart: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole step as a graph; or, with `cpu` and `cpu:0` in the places of two GPUs, what lies between two exchanges,
    `apart` times forward and backward (fc8 lives on the first). Losses as in test_a_step_is_the_plain_one; the change
    of the weights, which is 0.1 to 0.5 % of them, to 3e-5, ten times what was seen.
    """
    record_graphs(monkeypatch)
    waited: list[Sequence[torch.device]] = []
    monkeypatch.setattr(exchange, "wait_for_copies", waited.append)
    plain, fast = steppers(overrides_of(variant))
    assert isinstance(fast, FastStepper)
    fast.captures_steps, second = not apart, torch.device("cpu", 0)
    if apart:
        fast.fast = FastNetwork(fast.model, "fp32", [(CPU, [0]), (second, [1])])
        fast._transforms[second] = fast._transforms[CPU]
    captured, counts = count_captures(monkeypatch, list(fast.model.parameters())), []
    for step, (images, noise, rate, of_conv1) in enumerate(STEPS):
        batch = batches(fast.model.config.input_size, 7, step + 1, images)[step]
        losses, changes = [], []
        for made in (plain, fast):
            set_rates(made.optimiser, Phase(False, rate, rate, {"conv1": of_conv1}))
            before = [parameter.detach().clone() for parameter in made.model.parameters()]
            losses.append(made({CPU: batch, second: batch}, step, noise, False).read().loss)
            moved = [(own - old).flatten() for own, old in zip(made.model.parameters(), before, strict=True)]
            changes.append(torch.cat(moved).detach())
        assert losses[1] == pytest.approx(losses[0], abs=1e-4), step
        assert (changes[1] - changes[0]).norm() <= 3e-5 * changes[0].norm(), step
        assert changes[0].any() == (rate > 0)
        counts.append(len(captured))
    assert counts == ([0] + [2 * apart] * 9 if apart else [0, 1, 1, 1, 2, 2, 2, 3, 4, 5])
    assert waited == [[CPU, second]] * (7 if apart else 0)
    with torch.no_grad():
        fast.model.fc8.parts()[0].weight[0, 0] = float("nan")
    set_rates(fast.optimiser, Phase(False))
    before = [parameter.clone() for parameter in fast.model.parameters()]
    losses = [fast({CPU: batch, second: batch}, step, True, False).read().loss for step in (10, 11)]
    assert not np.isfinite(losses).any()
    for parameter, old in zip(fast.model.parameters(), before, strict=True):
        assert torch.equal(parameter.nan_to_num(7), old.nan_to_num(7))


def count_captures(monkeypatch: pytest.MonkeyPatch, parameters: Sequence[nn.Parameter]) -> list[Graph]:
    """The graphs that are captured from now on. Asserts, before the first make_graphed_callables, that no parameter's
    AccumulateGrad node is alive: it would carry the stream of an earlier pass.
    """
    captured: list[Graph] = []
    enter, make_graphed_callables = Capture.__enter__, torch.cuda.make_graphed_callables

    def entered(capture: Capture) -> Capture:
        captured.append(capture.graph)
        return enter(capture)

    def checked(*arguments: Any) -> Any:
        # Asking twice makes two nodes, unless something keeps the first alive; then the mark is still there.
        for parameter in parameters if not captured else ():
            get_gradient_edge(parameter).node.metadata["of before"] = True
            assert not get_gradient_edge(parameter).node.metadata
        return make_graphed_callables(*arguments)

    monkeypatch.setattr(Capture, "__enter__", entered)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", checked)
    return captured


@pytest.mark.parametrize(("free", "each", "views"), [(4000, 100, 10), (4399, 100, 10), (399, 100, 1), (10**9, 100, 50)])
def test_a_pass_takes_a_quarter_of_the_free_memory(free: int, each: int, views: int) -> None:
    assert views_that_fit(free, each, most=50) == views


@pytest.mark.parametrize("views", [1, 10])
def test_views_and_dead_units_are_the_plain_ones(views: int) -> None:
    stepper, _ = steppers(overrides_of("paper"))
    model, inputs = stepper.model.eval(), stepper.inputs
    with torch.no_grad():
        model.conv2.b.bias[:2] = -1e4  # dead maps
    batch = batches(75, 7, 1)[0]
    config = load("train", TrainConfig, ["data.path=none", "runtime.fast=false"]).runtime
    found = []
    for forward in (forward_for(model, inputs, config), FastViews(model, inputs.rule, "fp32")):
        dead = DeadUnits(model)
        found.append((*forward(batch, views_of(views, 8), dead.note), dead.shares(Ranks())))
    plain, fast = found
    torch.testing.assert_close(fast[:2], plain[:2], rtol=1e-4, atol=1e-6)
    assert fast[2] == plain[2]
    assert fast[2]["dead_relu/conv2.b"] >= 2 / 6
    assert (plain[0] - plain[0].flip(0)).abs().max() > 1e-2  # it tells pictures apart


@pytest.mark.parametrize("variant", ["paper", "tanh"])
def test_both_forms_tell_an_observer_of_the_same_layers(variant: str) -> None:
    """With ReLUs and without."""
    stepper, _ = steppers(overrides_of(variant))
    model, inputs = stepper.model.eval(), stepper.inputs
    config = load("train", TrainConfig, ["data.path=none", "runtime.fast=false"]).runtime
    told: list[dict[str, list[torch.Size]]] = []
    for forward in (forward_for(model, inputs, config), FastViews(model, inputs.rule, "fp32")):
        shapes: dict[str, list[torch.Size]] = {}
        told.append(shapes)

        def note(name: str, columns: list[torch.Tensor], shapes: dict[str, list[torch.Size]] = shapes) -> None:
            shapes[name] = [column.shape for column in columns]

        forward(batches(75, 7, 1)[0], views_of(1, 8), note)
    assert told[0] == told[1] and "fc8" in told[0]


def test_kernels_compile_for_gpus_that_are_not_here() -> None:
    """For compute capability 8.0 and 9.0: no register is spilled, and maps are read 16 bytes at a time."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=600)
    if "cannot compile" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)
    assert len(kernels) == 14
    for name, found in kernels.items():
        assert found["local_bytes"] == 0, name
        assert found["wide_loads"] > 0 or name.startswith("input"), name  # which gathers bytes


def test_the_operators_keep_pytorchs_rules() -> None:
    """Schema, autograd, shapes without numbers, and tracing, as torch.library.opcheck has them."""
    x = (torch.randn(2, 16, 9, 9) * 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    bias = torch.randn(16, requires_grad=True)
    for operator, arguments in (
        (torch.ops.alexnet_repro.after_conv, (x, bias, 2, 2, True, 5, 1e-4, 0.75, 2.0, 3, 2, False)),
        (torch.ops.alexnet_repro.same_map_norm, (x, 5, 1e-4, 0.75, 1.0)),
    ):
        torch.library.opcheck(operator.default, arguments)
        (grad,) = torch.autograd.grad(torch.stack([*operator(*arguments)][:1]).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(grad.sum(), x)
