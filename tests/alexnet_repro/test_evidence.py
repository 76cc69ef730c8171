"""What is made of a trained run: evaluation, ensembles, report, figures, submission; with names that mean harm."""

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evidence import EPOCH_ROW, HOSTILE, ensure_evaluated, evaluate_in, kept_of, new_folder

from alexnet_repro.config import CompareConfig, EvaluateConfig, FiguresConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation import split_pass
from alexnet_repro.evaluation.predictions import KeptPredictions
from alexnet_repro.figures import figures
from alexnet_repro.paper.comparable import beside
from alexnet_repro.paper.numbers import paper_row
from alexnet_repro.report.plots import draw_curves
from alexnet_repro.report.report import write_report
from data_prep.common.cli import load
from data_prep.common.errors import RequestError


def _same(a: KeptPredictions, b: KeptPredictions) -> bool:
    return all(
        np.array_equal(getattr(a.views[v], name), getattr(b.views[v], name))
        for v in (1, 10)
        for name in ("top", "probabilities", "rank", "label_probability")
    )


def test_a_stopped_evaluation_goes_on_and_ends_to_the_bit_the_same(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_in(world, "batch_size=4", "keep=null")
    whole = kept_of(world)
    assert whole.names.tolist() == [f"val/{key:09d}" for key in range(30)]
    assert whole.most_views.top.shape == (30, 10)
    np.testing.assert_allclose(whole.most_views.probabilities.sum(1), 1, rtol=1e-5)

    real, shown = split_pass.predict_batches, 0

    def stops(*arguments: Any) -> Iterator[Any]:
        nonlocal shown
        for number, batch in enumerate(real(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            shown += len(batch.labels)
            yield batch

    monkeypatch.setattr(split_pass, "_SECONDS", 0.0)
    monkeypatch.setattr(split_pass, "predict_batches", stops)
    for _ in range(2):  # 12 images, 12 more, then the remaining 6
        with pytest.raises(KeyboardInterrupt):
            evaluate_in(world, "batch_size=4", "keep=null")
        assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic  # as before the pass
    evaluate_in(world, "batch_size=4", "keep=null")
    assert shown == 30
    assert "continuing: 24 of 30" in capsys.readouterr().out
    assert _same(kept_of(world), whole)
    assert not (world / "runs" / "one" / "report" / ".unfinished").exists()

    # What was begun with other settings, or from other weights, is not taken up.
    with pytest.raises(KeyboardInterrupt):
        evaluate_in(world, "batch_size=4")
    monkeypatch.setattr(split_pass, "predict_batches", real)
    evaluate_in(world, "batch_size=7", "keep=null")
    assert "continuing" not in capsys.readouterr().out
    other = kept_of(world)  # other batches: the last one short, and another rounding
    np.testing.assert_allclose(other.most_views.label_probability, whole.most_views.label_probability, rtol=1e-4)


def test_ensembles(world: Path, tmp_path: Path) -> None:
    ensure_evaluated(world, "two")
    evaluate_in(world, "keep=null")  # with the same batches as below: others round differently
    one, two = kept_of(world, "one"), kept_of(world, "two")
    evaluate_in(world, "keep=null", f"out={world / 'alone'}", "weights=[7]", run="runs=[one]")
    assert _same(KeptPredictions.load(world / "alone" / "predictions.npz"), one)

    evaluate_in(world, "keep=null", "weights=[3,1]", run="runs=[one,two]")
    both = kept_of(world, "one+two")
    expected = 0.75 * one.most_views.label_probability + 0.25 * two.most_views.label_probability
    np.testing.assert_allclose(both.most_views.label_probability, expected, rtol=1e-5)
    report = json.loads((world / "runs" / "one+two" / "report" / "report.json").read_text())
    alone = json.loads((world / "runs" / "one" / "report" / "report.json").read_text())
    assert [m["weight"] for m in report["members"]] == [0.75, 0.25]
    assert report["members"][0]["errors"]["top1_error"] == alone["results"][1]["top1_error"]
    text = (world / "runs" / "one+two" / "report" / "report.md").read_text()
    assert "the ensemble one+two" in text and "| two | last | 0.25 | 1 |" in text
    assert "| this ensemble | 10 |" in text and "this run" not in text
    assert f"These runs were trained on {report['data']['description']}\n and evaluated on its split val." in text
    page = (world / "runs" / "one+two" / "report" / "report.html").read_text()
    assert "<td>this ensemble</td>" in page and "this run" not in page

    report["members"][1]["trained_on"] = {"description": "other images", "plan": "another"}
    report["results"][0]["log_loss_interval"] = None
    where = report["data"]["description"]
    page = write_report(new_folder(tmp_path / "two"), report)
    for path in (page, page.with_suffix(".md")):
        assert f"trained on {where}; other images\n" in path.read_text(), path
        assert f"and evaluated on {where}, split val." in path.read_text() and "unknown" in path.read_text(), path


def test_the_curves_need_no_last_checkpoint_and_no_epoch(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "runs" / "one", tmp_path / "one")
    (tmp_path / "one" / "checkpoints" / "last.pt").unlink()
    evaluate_in(world, "checkpoint=best", "views=1", f"runs_dir={tmp_path}")
    assert (tmp_path / "one" / "report" / "curves.png").is_file()

    steps = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    row = EPOCH_ROW | {"step": 2}
    for history, drawn in ([], []), ([row], [0.5, 1.0]):  # in epochs, which are unknown before one is done
        lines = draw_curves(history, steps, "run").axes[0].lines
        assert [x for line in lines if line.get_alpha() for x in np.asarray(line.get_xdata())] == drawn


class _Page(HTMLParser):
    """What a browser would be asked to do, and what would be read."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_holds_names_as_text_and_is_self_contained(world: Path) -> None:
    ensure_evaluated(world, "one")
    settings = [f"runs_dir={world / 'runs'}", "runtime.workers=0", "devices=[cpu]", "neighbours=3", "embedded=20"]
    figures(load("figures", FiguresConfig, ["run=one", *settings]))
    report = world / "runs" / "one" / "report"
    page = _Page()
    page.feed((report / "report.html").read_text())
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "link", "base", "form"} == {"link"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 + 8 + 5 * (1 + 3)  # curves, kernels; Figure 4 left and right
    text = " ".join(" ".join(page.text).split())
    assert "<script>alert(1)</script>" in text and '"><img src=x onerror=alert(1)>' in text and "漢字" in text
    assert "\x1b" not in text and "\\x1b[31mred" in text and "\u202e" not in text
    assert "Not comparable with the paper's numbers." in text
    assert text.index("What differs from the paper's setting") < text.index("top-1 error")

    markdown = (report / "report.md").read_text()
    assert "<script>" not in markdown and "&lt;script&gt;alert(1)" in markdown
    table = [line for line in markdown.splitlines() if line.startswith(("| best", "| worst"))]
    assert len(table) == 10 and all(line.replace("\\|", "").count("|") == 6 for line in table)
    facts = json.loads((report / "report.json").read_text())
    assert len(facts["classes"]["per_class"]) == 10 and facts["classes"]["per_class"][0]["words"] == HOSTILE[0]
    assert sum(map(sum, facts["classes"]["matrix"]["counts"])) == 30
    names = {path.name for path in report.glob("*.png")}
    assert names == {"curves.png", "kernels.png", "labels.png", "neighbours.png"}
    projector = next((world / "runs" / "one" / "tensorboard" / "embedding").rglob("metadata.tsv"))
    assert len(projector.read_text().splitlines()) == 20


def test_the_neighbours_in_the_report_are_the_nearest_of_the_whole_train_split(world: Path) -> None:
    """Against features taken picture by picture, in one batch each, and sorted by brute force."""
    from alexnet_repro.config import RunConfig
    from alexnet_repro.evaluation.inference import last_hidden
    from alexnet_repro.runs.trained import load_trained

    settings = [f"runs_dir={world / 'runs'}", "runtime.workers=0", "devices=[cpu]", "queries=3", "figures=[neighbours]"]
    config = load("figures", FiguresConfig, ["run=one", *settings])
    figures(config)
    entries = json.loads((world / "runs" / "one" / "report" / "figures.json").read_text())
    (shown,) = [entry for entry in entries if entry["name"] == "neighbours"]
    trained = load_trained(RunConfig("one", config.runs_dir, None, ["cpu"], config.runtime), "last")
    data = PreparedData(world / "data")
    train_split, val_split = data.split("train"), data.split("val")
    train_features, val_features = (
        np.concatenate(list(last_hidden(trained, split, batch_size=1))) for split in (train_split, val_split)
    )
    train_names, val_names = list(train_split.names()), list(val_split.names())
    assert len(shown["rows"]) == 3
    for row in shown["rows"]:
        distances = np.linalg.norm(train_features - val_features[val_names.index(row["name"])], axis=1)
        # A batch of one rounds otherwise, and could swap two that are equally far: so the distances are compared, in
        # order, and that each is its picture's own.
        shown_distances = [other["distance"] for other in row["neighbours"]]
        np.testing.assert_allclose(shown_distances, np.sort(distances)[:6], rtol=1e-3)
        own = [distances[train_names.index(other["name"])] for other in row["neighbours"]]
        np.testing.assert_allclose(shown_distances, own, rtol=1e-3)


def test_the_paper_stands_beside_a_run_only_where_it_measured_the_same(world: Path, tmp_path: Path) -> None:
    assert paper_row("ILSVRC-2012", "val", 10, 1, False).top1 == 40.7  # type: ignore[union-attr]
    assert paper_row("ILSVRC-2012", "val", 10, 5, False).top5 == 16.4  # type: ignore[union-attr]
    assert paper_row("ILSVRC-2012", "val", 10, 1, True).top5 == 16.6  # type: ignore[union-attr]
    assert paper_row("ILSVRC-2010", "test", 1, 1, False).top1 == 39.0  # type: ignore[union-attr]
    assert paper_row("ILSVRC-2010", None, 10, 1, False).data == "ILSVRC-2010 test"  # type: ignore[union-attr]
    for release, split, views, networks in (
        (None, "val", 10, 1), ("ILSVRC-2012", "val", 1, 1), ("ILSVRC-2012", "test", 10, 1),
        ("ILSVRC-2012", "val", 10, 2), ("ILSVRC-2010", "val", 10, 1), ("ILSVRC-2012", "test", 10, 5),
    ):  # fmt: skip
        assert paper_row(release, split, views, networks, False) is None
    assert paper_row(None, None, 10, 1, False) is None
    assert PreparedData(world / "data").whole_release() is None

    row = paper_row("ILSVRC-2012", "val", 10, 1, False)
    assert row is not None
    intervals = {"top1_interval": (0.4073, 0.4159), "top5_interval": (0.187, 0.193)}
    shown = beside(row, {"top1_error": 0.4116, "top5_error": 0.190, **intervals})
    assert round(shown["top1_difference"], 2) == 0.46 and shown["top1_within"]  # 40.7 may have been 40.74
    assert round(shown["top5_difference"], 2) == 0.8 and not shown["top5_within"]

    ensure_evaluated(world, "one")
    facts = json.loads((world / "runs" / "one" / "report" / "report.json").read_text())
    facts |= {"comparable": True, "release": "ILSVRC-2012", "fingerprint": "none"}
    facts["results"][1]["paper"] = shown
    text = write_report(new_folder(tmp_path / "report"), facts).with_suffix(".md").read_text()
    assert "| paper: Table 2, 1 CNN, ILSVRC-2012 val | 10 | 40.7 | 18.2 | – |" in text
    assert "| difference, in points | 10 | +0.5, within the interval | +0.8, outside the interval | – |" in text
    assert "Not comparable" not in text and "do not compare" not in text


def test_a_submission_without_a_devkit_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="submission=x: must be given with devkit=FILE"):
        load("evaluate", EvaluateConfig, ["run=one", "submission=x"])
    (tmp_path / "other.tar.gz").write_bytes(b"")
    with pytest.raises(RequestError, match="cannot be read as a tar"):
        evaluate_in(world, f"submission={tmp_path / 'b'}", f"devkit={tmp_path / 'other.tar.gz'}")


def test_a_split_without_labels_is_predicted_and_not_scored(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    index = np.load(tmp_path / "data" / "val" / "index.npy")
    index["label"] = -1
    np.save(tmp_path / "data" / "val" / "index.npy", index)
    evaluate_in(world, f"data_path={tmp_path / 'data'}", f"out={tmp_path / 'out'}", "views=1")
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert facts["results"] == [] and facts["classes"] is None
    assert "has no labels" in (tmp_path / "out" / "report.html").read_text()
    assert len(KeptPredictions.load(tmp_path / "out" / "predictions.npz").names) == 30


@pytest.mark.parametrize(
    ("command", "schema", "overrides", "said"),
    [
        ("evaluate", EvaluateConfig, ["run=a", "runs=[b,c]"], r"runs=.*left out where run=NAME is given"),
        ("evaluate", EvaluateConfig, ["runs=[a,a]"], "runs=.*different runs"),
        ("evaluate", EvaluateConfig, ["runs=[a,../b]"], "run='../b': must be a plain folder name"),
        ("evaluate", EvaluateConfig, ["runs=[a,b]", "weights=[1]"], "weights=.*one number a run, 2"),
        ("evaluate", EvaluateConfig, ["runs=[a,b]", "weights=[1,-1]"], "weights=.*positive"),
        ("compare", CompareConfig, ["runs=[a]"], "runs=.*two runs or more"),
        ("compare", CompareConfig, ["runs=[a,'../b']"], "runs='../b': must be names of folders in runs_dir"),
        ("figures", FiguresConfig, ["run=a", "figures=[kernel]"], "figures=kernel: must be one of kernels, curves"),
        ("figures", FiguresConfig, ["run=a", "queries=0"], "queries=0: must be 1 to 40"),
    ],
)
def test_wrong_requests(command: str, schema: Any, overrides: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        load(command, schema, overrides)
