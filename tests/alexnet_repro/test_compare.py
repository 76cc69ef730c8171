"""compare: differences between runs, and which of them the paper measured too."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare_config
from evidence import ensure_evaluated, evaluate_in, kept_of

from alexnet_repro.compare import _difference_cells, _runs_text, _training_text, compare
from alexnet_repro.config import CompareConfig, EvaluateConfig, TrainConfig
from alexnet_repro.evaluate import evaluate
from alexnet_repro.evaluation.comparison import EvaluatedRun, difference_of_runs, while_training
from alexnet_repro.evaluation.intervals import paired_bootstrap
from alexnet_repro.paper.numbers import ABLATIONS
from alexnet_repro.paper.pairs import pair_for
from alexnet_repro.runs.settings import differences, flat, without_seed
from data_prep.common.cli import conf_folder, load
from data_prep.common.errors import RequestError
from data_prep.prepare import prepare


def test_compare(world: Path, archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ensure_evaluated(world, "one", "two")

    def compared(*overrides: str) -> Any:
        capsys.readouterr()
        compare(load("compare", CompareConfig, [f"runs_dir={world / 'runs'}", "runs=[one,two]", *overrides]))
        return capsys.readouterr().out

    facts = json.loads(compared("json=true", "seed=5"))
    (pair,) = facts["differences"]
    wrong = [kept_of(world, run).views[10].rank >= 1 for run in ("one", "two")]
    assert pair["top1_difference"] == pytest.approx(wrong[1].mean() - wrong[0].mean())
    assert pair["top1_interval"] == list(paired_bootstrap(wrong[0], wrong[1], 10_000, 5))
    assert "paper" not in pair
    for run, found in zip(("one", "two"), facts["training"]["groups"], strict=True):
        lines = [json.loads(line) for line in (world / "runs" / run / "metrics.jsonl").read_text().splitlines()]
        last = [line for line in lines if line["kind"] == "epoch"][-1]
        kernels = kept_weights(world, run)
        share = 1 - (kernels.mean(1, keepdims=True) ** 2).sum((1, 2, 3)) * 3 / (kernels**2).sum((1, 2, 3))
        assert found["train_top1_error"] == last["train_top1_error"]
        assert found["val_top1_error"] == last["val_top1_error"]
        assert found["colourfulness"][0]["a"] == pytest.approx(share.mean(), abs=1e-6)  # kept in float32
    text = compared()
    assert "colourfulness of conv1" in text
    assert "two − one" in text and f"30 images of {facts['data']['name']}, split val, views=10" in text

    evaluate_in(world, "views=1", run="run=two")
    with pytest.raises(RequestError, match=r"has no predictions of views=10; make them with .*evaluate run=two"):
        compared()
    shutil.copytree(world / "runs" / "one", world / "runs" / "elsewhere")
    prepare(prepare_config(archives, tmp_path / "other", encoding="raw"))
    where = [f"runs_dir={world / 'runs'}", "runtime.workers=0", "devices=[cpu]", f"data_path={tmp_path / 'other'}"]
    evaluate(load("evaluate", EvaluateConfig, ["run=elsewhere", *where]))
    with pytest.raises(RequestError, match="not the same images; evaluate both on one data set"):
        compared("runs=[one,elsewhere]")


def kept_weights(world: Path, run: str) -> np.ndarray:
    """conv1's kernels of column a in the last checkpoint, [kernels, 3, 11, 11]."""
    loaded = torch.load(world / "runs" / run / "checkpoints" / "last.pt", weights_only=True)
    kernels: np.ndarray = loaded["weights"]["conv1.a.weight"].double().numpy()
    return kernels


def epoch(train_loss: float, train: float, val: float) -> dict[str, float]:
    return {"train_loss": train_loss, "train_top1_error": train, "val_top1_error": val}


def test_what_the_paper_says_of_training_itself() -> None:
    """By hand: means over the seeds of a group, at the last epoch, and when all had reached the same loss."""
    slow, quick = [epoch(4.0, 0.9, 0.8), epoch(3.0, 0.8, 0.7), epoch(2.0, 0.5, 0.6)], [epoch(3.0, 0.7, 0.6)]
    fast = [*quick, epoch(1.0, 0.4, 0.6)]
    runs = [EvaluatedRun(name, None, None, rows) for name, rows in zip("abc", (slow, quick, fast), strict=True)]  # type: ignore[arg-type]
    facts = while_training({"slow": [runs[0]], "quick": runs[1:], "none": [EvaluatedRun("d", None, None)]})  # type: ignore[arg-type]
    assert facts["train_loss"] == 3.0  # the second run got no lower
    first, second = facts["groups"]
    assert first == {"group": "slow", "epochs": 3.0, "first_train_loss": 4.0, "train_top1_error": 0.5,
                     "val_top1_error": 0.6, "epochs_to_train_loss": 2.0, "colourfulness": []}  # fmt: skip
    assert (second["epochs"], second["epochs_to_train_loss"]) == (1.5, 1.0)
    assert (second["train_top1_error"], second["val_top1_error"]) == pytest.approx((0.55, 0.6))
    (line,) = (line for line in _training_text(facts, "group")[-1].splitlines() if line.startswith("| slow"))
    assert [cell.strip() for cell in line.split("|")][1:-1] == ["slow", "3", "4.000", "2.0", "50.0", "+10.0", ""]
    assert _training_text(facts, "group")[-1].startswith("| group ")


def test_ablations_are_known_by_their_networks() -> None:
    def config(*overrides: str) -> TrainConfig:
        return load("train", TrainConfig, list(overrides))

    pair = pair_for(config(), config("model=one_column"))
    assert pair and (pair.ablation.top1, pair.ablation.top5, pair.sign) == (1.7, 1.2, 1)
    assert not pair.also_different
    pair = pair_for(config("model=no_lrn", "optim.momentum=0.8"), config())
    assert pair and pair.sign == -1 and pair.also_different == ("optim.momentum",)
    pair = pair_for(config("augment.colour_noise=0"), config())
    assert pair and pair.ablation.section == "4.1" and pair.sign == -1 and not pair.also_different
    assert pair_for(config(), config("seed=1")) is None
    for setting, value in ("runtime.precision", "bf16"), ("init_from", "b"), ("init_layers", "[conv1]"):
        pair = pair_for(config("init_from=a"), config("init_from=a", "model=no_lrn", f"{setting}={value}"))
        assert pair and pair.also_different == (setting,)
    assert pair_for(config(), config("model=one_column", "model.fc6.units=8")) is None  # no longer the paper's pair
    narrow = ["model.width=0.25", "model.input_size=112"]
    pair = pair_for(config(*narrow), config("model=no_lrn", *narrow))
    assert pair and pair.ablation.section == "3.3" and not pair.also_different
    pair = pair_for(config(*narrow), config("model=no_lrn", narrow[0]))
    assert pair and "model.input_size" in pair.also_different
    # At 112 net 145 ends in maps of 3x3 and net 147 in 2x2; at 120 both do in 3x3, as both do in 6x6 at 224.
    for side, apart in (("112", ("the size of the maps that the first dense layer reads",)), ("120", ())):
        names = "code2012", "code2012_pool_non_overlapping"
        pair = pair_for(*(config(f"model={name}", f"model.input_size={side}") for name in names))
        assert pair and pair.also_different == apart
    for ablation in ABLATIONS:
        for name in (ablation.better, ablation.worse):
            assert (conf_folder() / "model" / f"{name}.yaml").is_file()


def test_an_ablation_on_other_training_images_is_told_as_such() -> None:
    def trained(plan: str, *overrides: str) -> EvaluatedRun:
        kept = SimpleNamespace(
            about={"members": [{"trained_on": {"plan": plan}}]},
            views={1: SimpleNamespace(rank=np.arange(4))},
        )
        return EvaluatedRun("a", kept, load("train", TrainConfig, list(overrides)))  # type: ignore[arg-type]

    config = load("compare", CompareConfig, ["runs=[a,b]", "views=1"])
    for plan, apart in ("same", []), ("other", ["the images that they were trained on"]):
        facts = difference_of_runs(trained("same"), trained(plan, "model=no_lrn"), config)
        assert facts["paper"]["also_different"] == apart


# In points, as the notes at the end of the parameter files of 2012 have the two results, ten views.
LOGS = {
    "one_column": (0.391680 - 0.374727, 0.182287 - 0.169987, "ILSVRC-2010 test"),
    "no_lrn": (0.420340 - 0.406640, 0.193620 - 0.182100, "ILSVRC-2012 val"),
    "pool_non_overlapping": (0.410580 - 0.406640, 0.185100 - 0.182100, "ILSVRC-2012 val"),
    "no_exchange": (0.418280 - 0.406640, 0.193300 - 0.182100, "ILSVRC-2012 val"),
    "no_norm2": (0.404880 - 0.405280, 0.181180 - 0.180480, "ILSVRC-2012 val"),  # net 167, against 170
    "exchange_at_conv4": (None, None, None),
}


def test_the_pairs_of_2012_are_known_with_what_their_logs_have() -> None:
    for variant, (top1, top5, data) in LOGS.items():
        baseline = {"one_column": "code2012_ilsvrc2010", "no_norm2": "code2012_fixed"}.get(variant, "code2012")
        configs = [load("train", TrainConfig, [f"experiment={e}"]) for e in (f"code2012_{variant}", baseline)]
        pair = pair_for(*configs)
        assert pair and pair.sign == -1, variant  # the worse one came first
        assert {setting.split(".")[0] for setting in pair.also_different} <= {"schedule"}, variant
        facts = pair.facts()
        if top1 is None:
            assert facts["recorded"] is None and facts["top1_difference"] is None
            continue
        assert facts["recorded"]["data"] == data
        # Sums of six digits in floating point.
        assert facts["recorded"]["top1_difference"] == pytest.approx(-top1, abs=1e-9)
        assert facts["recorded"]["top5_difference"] == pytest.approx(-top5, abs=1e-9)


def test_the_log_stands_beside_the_papers_difference_and_ours() -> None:
    """Of a pair that both have, and of one that only the log has; with the digits of the log."""
    lrn, exchange = (
        pair_for(*(load("train", TrainConfig, [f"experiment={e}"]) for e in ("code2012", f"code2012_{variant}")))
        for variant in ("no_lrn", "no_exchange")
    )
    assert lrn and exchange
    errors = {"top1_error": 0.4, "top5_error": 0.2, "log_loss": 1.0, "top1_interval": [0.4, 0.4],
              "top5_interval": [0.2, 0.2]}  # fmt: skip
    measured = {
        f"top{k}_{what}": value for k in (1, 5) for what, value in (("difference", 0.02), ("interval", [0, 0.1]))
    }
    facts = {
        "data": {"name": "mine"}, "split": "val", "views": 10, "images": 100, "resamples": 100,
        "runs": [{"run": run, "model": run, **errors} for run in "abc"],
        "differences": [{"first": "a", "second": run, **measured, "paper": pair.facts()}
                        for run, pair in (("b", lrn), ("c", exchange))],
        "training": {"groups": []},
    }  # fmt: skip
    said = _runs_text(facts)
    assert "the paper, section 3.3" in said and "here that would be +1.4 / +1.2; the paper measured" in said
    assert "nets 145 and 148 on ILSVRC-2012 val, one run of each, differ by +1.370 / +1.152" in said
    assert "not in the paper: columns that never talk" in said and said.count("here that would be") == 1
    assert "nets 145 and 150 on ILSVRC-2012 val, one run of each, differ by +1.164 / +1.120" in said
    cells = _difference_cells(
        {"seeds": [0], "paper": lrn.facts(), "top1": 0.02, "top1_interval": [0.01, 0.03], "top1_zero_within": False,
         "top1_paper_within": True}, 1)  # fmt: skip
    assert cells == ["+2.0 (+1.0 to +3.0)", "+1.4", "+1.370", "zero outside, paper's within"]


def test_settings_that_differ_are_found_by_name_group_and_pattern() -> None:
    one, other = {"a": {"b": 1, "name": "x"}, "ab": 1}, {"a": {"b": 2, "name": "y", "c": [0]}, "ab": 2}
    assert flat(other) == {"a.b": 2, "a.name": "y", "a.c": [0], "ab": 2}
    assert list(differences(one, other)) == ["a.b", "a.c", "a.name", "ab"]
    assert differences(one, other, only=("a",), ignore=("*.name",)) == {"a.b": (1, 2), "a.c": (None, [0])}
    assert list(differences(one, other, ignore=("a.b", "ab"))) == ["a.c", "a.name"]
    # Runs of several seeds, each of which began with the run of its own seed.
    seeds = [load("train", TrainConfig, ["experiment=cnn_star", f"seed={seed}"]) for seed in (0, 1)]
    assert list(differences(*seeds)) == ["init_from", "run", "seed"]
    assert without_seed(seeds[0]) == without_seed(seeds[1])
