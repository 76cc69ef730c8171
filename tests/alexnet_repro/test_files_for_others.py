"""What evaluate leaves for others, read with their tools and compared with what reference.py computes.

On pictures whose places, names, labels and ILSVRC ids all differ: one of them could not be read in preparation. The
files of a training are read in test_wiring.py, exported networks in test_export.py.
"""

import io
import json
import shutil
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import scipy.io
import torch
from conftest import SMALL, prepare_config
from networks import sensitive
from scipy.stats import binomtest, norm
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from alexnet_repro.config import EvaluateConfig, TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluate import evaluate
from alexnet_repro.evaluation.submission import read_ids
from alexnet_repro.model import AlexNet
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import RunFolder
from data_prep.common.cli import load
from data_prep.common.errors import RequestError
from data_prep.prepare import prepare

UNREADABLE = 4  # the place of the validation picture that is none, from 0
TOLERANCE = 5e-6  # of probabilities: float32, sums in another order


@dataclass
class Evaluated:
    report: Path
    submission: Path
    devkit: Path
    classes: list[dict[str, str]]
    keys: list[str]
    labels: np.ndarray
    expected: dict[int, np.ndarray]  # by number of views, float64 [29, 10]


@pytest.fixture(scope="module")
def evaluated(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("others")
    shutil.copytree(archives, folder / "archives")
    with (
        tarfile.open(archives / "ILSVRC2012_img_val.tar") as old,
        tarfile.open(folder / "archives" / "ILSVRC2012_img_val.tar", "w") as new,
    ):
        for place, member in enumerate(old):
            content = b"no picture" if place == UNREADABLE else old.extractfile(member).read()  # type: ignore[union-attr]
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    prepare(prepare_config(folder / "archives", folder / "data", max_rejected=0.1, workers=1))
    config = load("train", TrainConfig, [*SMALL, f"data.path={folder / 'data'}", f"runs_dir={folder}", "run=r"])
    data, run = PreparedData(folder / "data"), RunFolder(config.folder)
    with run.locked():
        run.write_config(config)
    Checkpoint(
        epoch=0, step=0, within={}, weights=dict(sensitive(AlexNet(config.model, classes=10)).state_dict()), buffers={},
        buffer_rates={}, history=[], classes=data.classes, words=data.class_names,
        data=data.identity(), mean_image=torch.from_numpy(data.mean_image),
        inputs={"mean": config.augment.mean, "scale": 1.0}, model=asdict(config.model),
    ).save(run.checkpoint_path("last"))  # fmt: skip
    devkit = folder / "archives" / "ILSVRC2012_devkit_t12.tar.gz"
    where = [f"runs_dir={folder}", "run=r", "runtime.workers=0", "devices=[cpu]", "batch_size=7", "keep=null"]
    where += [f"submission={folder / 'answers.txt'}", f"devkit={devkit}"]
    evaluate(load("evaluate", EvaluateConfig, where))
    keys, images, labels = reference.read_split(folder / "data", "val")
    checkpoint = reference.read_checkpoint(run.checkpoint_path("last"))
    reference.assert_sensitive_to_views(checkpoint, images, TOLERANCE)
    expected = {views: reference.probabilities(checkpoint, images, views) for views in (1, 10)}
    classes = json.loads((folder / "data" / "manifest.json").read_text())["classes"]
    return Evaluated(run.path / "report", folder / "answers.txt", devkit, classes, keys, labels, expected)


def truth_of(devkit: Path) -> tuple[dict[str, int], list[int]]:
    """The ids of the classes by wnid, and the id of each validation picture in the official order."""
    with tarfile.open(devkit) as tar:
        contents = {Path(m.name).name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    synsets = scipy.io.loadmat(io.BytesIO(contents["meta.mat"]), squeeze_me=True)["synsets"]
    ids = {str(synset["WNID"]): int(synset["ILSVRC2012_ID"]) for synset in synsets}
    return ids, [int(line) for line in contents["ILSVRC2012_validation_ground_truth.txt"].split()]


def test_places_names_labels_and_ids_all_differ(evaluated: Evaluated) -> None:
    """Or a mix-up of two of them would not show."""
    ids, truth = truth_of(evaluated.devkit)
    names = [int(key) for key in evaluated.keys]
    assert len(names) == 29 and UNREADABLE not in names and names != list(range(29))
    assert [ids[info["wnid"]] for info in evaluated.classes] != list(range(1, 11))
    own = [ids[evaluated.classes[label]["wnid"]] for label in evaluated.labels]
    assert own == [truth[name] for name in names] and own != (evaluated.labels + 1).tolist()


def test_predictions_hold_every_pictures_probabilities_under_its_name(evaluated: Evaluated) -> None:
    with np.load(evaluated.report / "predictions.npz", allow_pickle=False) as file:
        assert file["names"].tolist() == [f"val/{key}" for key in evaluated.keys]
        assert file["labels"].tolist() == evaluated.labels.tolist()
        assert file["classes"].tolist() == [info["wnid"] for info in evaluated.classes]
        assert file["words"].tolist() == [info["words"] for info in evaluated.classes]
        for views, p in evaluated.expected.items():
            top, kept = file[f"views{views}.top"], file[f"views{views}.probabilities"]
            assert kept.dtype == np.float32
            assert (np.diff(kept, axis=1) <= 0).all() and (np.sort(top, axis=1) == np.arange(10)).all()
            np.testing.assert_allclose(kept, np.take_along_axis(p, top, axis=1), rtol=0, atol=TOLERANCE)
            own = p[np.arange(29), evaluated.labels]
            np.testing.assert_allclose(file[f"views{views}.own"], own, rtol=0, atol=TOLERANCE)
            assert file[f"views{views}.rank"].tolist() == (p > own[:, None]).sum(axis=1).tolist()


def test_the_report_counts_errors_as_others_do(evaluated: Evaluated) -> None:
    """Errors, log-loss and classes by scikit-learn, intervals by scipy."""
    report = json.loads((evaluated.report / "report.json").read_text())
    labels = evaluated.labels
    assert [row["views"] for row in report["results"]] == [1, 10] and report["images"] == 29
    for row in report["results"]:
        p = evaluated.expected[row["views"]]
        for k in (1, 5):
            right = top_k_accuracy_score(labels, p, k=k, labels=range(10))
            assert 0 < right < 1 and row[f"top{k}_error"] == pytest.approx(1 - right)
            interval = binomtest(round(29 * (1 - right)), 29).proportion_ci(method="wilson")
            assert row[f"top{k}_interval"] == pytest.approx([interval.low, interval.high], abs=1e-9)
        nats = -np.log(p[np.arange(29), labels])
        half = norm.ppf(0.975) * nats.std(ddof=1) / np.sqrt(29)
        assert row["log_loss"] == pytest.approx(log_loss(labels, p, labels=range(10)), rel=1e-3)
        assert row["log_loss_interval"] == pytest.approx([nats.mean() - half, nats.mean() + half], rel=1e-3)
    one, ten = (row["log_loss"] for row in report["results"])
    assert abs(one - ten) > 0.01  # or one view in place of ten would not show

    guesses, known = evaluated.expected[10].argmax(axis=1), [info["wnid"] for info in evaluated.classes]
    counts = confusion_matrix(labels, guesses, labels=range(10))
    by_class = report["classes"]["per_class"]
    assert [row["wnid"] for row in by_class] == known and [row["images"] for row in by_class] == counts.sum(1).tolist()
    assert [row["top1_error"] for row in by_class] == pytest.approx(1 - counts.diagonal() / counts.sum(1))
    own = evaluated.expected[10][np.arange(29), labels][:, None]
    missed = (evaluated.expected[10] > own).sum(axis=1) >= 5
    assert [row["top5_error"] for row in by_class] == pytest.approx([missed[labels == c].mean() for c in range(10)])
    np.fill_diagonal(counts, 0)
    pairs = report["classes"]["confusions"]
    assert [pair["count"] for pair in pairs] == sorted(counts[counts > 0], reverse=True)[:15]
    for pair in pairs:
        label, guess = (known.index(pair[key]["wnid"]) for key in ("label", "guess"))
        assert pair["count"] == counts[label, guess] and pair["images"] == (labels == label).sum()


def test_the_submission_has_the_ids_of_the_five_best_in_the_official_order(evaluated: Evaluated) -> None:
    """Counted as the server would. Catches labels for ids, places for names, four guesses, a lost line."""
    ids, truth = truth_of(evaluated.devkit)
    lines = [[int(number) for number in line.split()] for line in evaluated.submission.read_text().splitlines()]
    assert len(lines) == len(truth) == 30
    by_name: dict[int, Any] = dict(zip(map(int, evaluated.keys), evaluated.expected[10], strict=True))
    for name, line in enumerate(lines):
        if name == UNREADABLE:
            assert len(set(line)) == 5
            continue
        best = np.argsort(-by_name[name])[:5]
        assert line == [ids[evaluated.classes[label]["wnid"]] for label in best]
    wrong = sum(truth[name] not in lines[name] for name in by_name)
    assert wrong / 29 == pytest.approx(
        1 - top_k_accuracy_score(evaluated.labels, evaluated.expected[10], k=5, labels=range(10))
    )


def test_a_devkit_of_other_classes_is_refused(evaluated: Evaluated) -> None:
    ids, _ = truth_of(evaluated.devkit)
    wnids = [info["wnid"] for info in evaluated.classes]
    found = read_ids(evaluated.devkit, wnids)
    assert [found[wnid] for wnid in wnids] == [ids[wnid] for wnid in wnids]
    with pytest.raises(RequestError, match=r"^devkit=.*: has no class n2 of this run; give the devkit of its release"):
        read_ids(evaluated.devkit, [*wnids, "n2"])
