"""evaluate classes=FILE, against reference.py's probabilities and scikit-learn's scores."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import reference
from evidence import evaluate_in
from sklearn.metrics import log_loss, top_k_accuracy_score

from alexnet_repro.evaluation.predictions import KeptPredictions
from data_prep.common.errors import RequestError

CHOSEN = [7, 1, 2, 4, 8, 9, 3]  # labels, not in label order; more than five, so that top-5 means something
OTHERS = ["left_out", "kept"]


def wnids(world: Path) -> list[str]:
    return [info["wnid"] for info in json.loads((world / "data" / "manifest.json").read_text())["classes"]]


def listed(world: Path, folder: Path, lines: list[str] | None = None) -> str:
    own = [f"{wnids(world)[label]} some words" for label in CHOSEN]
    (folder / "mine.txt").write_text("\n".join(["# a list", "", *(own if lines is None else lines)]))
    return f"classes={folder / 'mine.txt'}"


@pytest.mark.parametrize("others", OTHERS)
def test_errors_over_a_part_of_the_classes(world: Path, tmp_path: Path, others: str) -> None:
    """Catches columns out of order, images of other classes, and probabilities that are not divided by their sum."""
    checkpoint = reference.read_checkpoint(world / "runs" / "one" / "checkpoints" / "last.pt")
    keys, images, labels = reference.read_split(world / "data", "val")
    mine = np.isin(labels, CHOSEN)
    p, columns = reference.probabilities(checkpoint, images[mine], 10), sorted(CHOSEN)
    own = labels[mine]
    if others == "left_out":
        p = p[:, columns] / p[:, columns].sum(1, keepdims=True)
        own = np.searchsorted(columns, own)
    evaluate_in(world, listed(world, tmp_path), f"others={others}", "keep=null", "batch_size=4")
    folder = world / "runs" / "one" / "report-mine"
    kept, report = KeptPredictions.load(folder / "predictions.npz"), json.loads((folder / "report.json").read_text())
    assert kept.names.tolist() == [f"val/{key}" for key, m in zip(keys, mine, strict=True) if m]
    assert kept.classes == [name for i, name in enumerate(wnids(world)) if i in CHOSEN or others == "kept"]
    np.testing.assert_array_equal(kept.labels, own)
    ours = np.zeros_like(p)
    np.put_along_axis(ours, kept.most_views.top, kept.most_views.probabilities, axis=1)
    np.testing.assert_allclose(ours, p, rtol=0, atol=1e-5)  # float32, sums in another order
    row, names = report["results"][1], list(range(p.shape[1]))
    for k in (1, 5):
        assert row[f"top{k}_error"] == pytest.approx(1 - top_k_accuracy_score(own, p, k=k, labels=names))
    assert row["log_loss"] == pytest.approx(log_loss(own, p, labels=names), rel=1e-4)
    said = {"left_out": "left out", "kept": "kept"}[others]
    line = f"7 of 10 classes, the outputs of the others {said}"
    assert report["differs_from_paper"][0] == f"evaluated on: {line} (paper: all classes)"
    assert not report["comparable"] and line in (folder / "report.md").read_text() and kept.about["part"] == line
    assert "labels" in [figure["name"] for figure in json.loads((folder / "figures.json").read_text())]


def test_a_data_set_may_hold_fewer_classes_than_the_network(world: Path, tmp_path: Path) -> None:
    """The same images, from a data set that knows the chosen classes only: the same predictions."""
    shutil.copytree(world / "data", tmp_path / "data")
    path = tmp_path / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    labels, keep = reference.read_split(world / "data", "val").labels, sorted(CHOSEN)
    index = np.load(tmp_path / "data" / "val" / "index.npy")
    index = index[np.isin(labels, keep)]
    index["label"] = np.searchsorted(keep, index["label"])
    np.save(tmp_path / "data" / "val" / "index.npy", index)
    manifest["classes"] = [manifest["classes"][label] for label in keep]
    manifest["splits"]["val"]["images"] = len(index)
    path.write_text(json.dumps(manifest))
    (tmp_path / "whole").mkdir()
    lists = listed(world, tmp_path)
    evaluate_in(world, lists, "batch_size=4", f"out={tmp_path / 'whole'}")
    evaluate_in(world, lists, "batch_size=4", f"out={tmp_path / 'part'}", f"data_path={tmp_path / 'data'}")
    a, b = (KeptPredictions.load(tmp_path / name / "predictions.npz") for name in ("whole", "part"))
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.most_views.probabilities, b.most_views.probabilities)
    with pytest.raises(RequestError, match="has other classes than run one was trained on"):
        evaluate_in(world, f"data_path={tmp_path / 'data'}")


def test_wrong_lists(world: Path, tmp_path: Path) -> None:
    known = wnids(world)[0]
    for lines, said in (
        ([], "mine.txt: names no class; give a file with one wnid a line"),
        (["n00000000"], "classes: n00000000 is no class of the data set .*; remove it from the list"),
        ([known, known], f"mine.txt: names {known} twice; each line must begin with another wnid"),
    ):
        with pytest.raises(RequestError, match=said):
            evaluate_in(world, listed(world, tmp_path, lines))
    with pytest.raises(RequestError, match="classes=none: cannot be read"):
        evaluate_in(world, "classes=none")
    with pytest.raises(RequestError, match="others=kept: must be left out, or given with classes=FILE"):
        evaluate_in(world, "others=kept")
    with pytest.raises(RequestError, match=r"submission=a\.txt: must be left out with classes=FILE"):
        evaluate_in(world, listed(world, tmp_path), "submission=a.txt", "devkit=x")
