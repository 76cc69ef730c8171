"""predict, on files of any name and kind."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import reference
from evidence import ensure_evaluated, kept_of, new_folder
from PIL import Image

from alexnet_repro.config import PredictConfig
from alexnet_repro.predict import predict
from data_prep.common.cli import load
from data_prep.common.errors import RequestError


def test_predict(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos ü"
    (folder / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)
    odd = ["a b (1).JPG", "[x]=y,z.png", "new\nline.jpeg", "\x1b[31m.webp", "deeper/last.bmp", "no ending"]
    for i, name in enumerate(odd):
        pixels = rng.integers(0, 256, (90 + 40 * i, 140, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, format="PNG")  # whatever the ending says
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "notes.txt").write_text("left aside")
    undecodable = folder / "\udcff.png"
    shutil.copyfile(folder / odd[0], undecodable)

    def run(*overrides: str, images: list[Path]) -> int | None:
        where = [f"runs_dir={world / 'runs'}", "runtime.workers=1", "devices=[cpu]", "run=one", "images=[-]"]
        config = load("predict", PredictConfig, [*where, *overrides])
        config.images = [str(image) for image in images]
        return predict(config)

    assert run("json=true", "batch_size=3", images=[folder]) == 1
    said = capsys.readouterr()
    answers = json.loads(said.out)
    assert "1 files are no images" in said.err
    assert {Path(a["image"]).name for a in answers} == {Path(n).name for n in [*odd, "broken.jpg", "\udcff.png"]}
    assert [a["image"] for a in answers if "error" in a] == [str(folder / "broken.jpg")]
    by_name = {a["image"]: a["labels"] for a in answers if "labels" in a}
    assert all(len(labels) == 5 for labels in by_name.values())

    assert run(images=[folder / odd[1], folder / "broken.jpg", folder / odd[2]]) == 1
    said = capsys.readouterr()
    assert said.out.count(" %  ") == 10 and "\x1b" not in said.out and "new\\nline.jpeg" in said.out
    assert "broken.jpg: cannot be read as an image" in said.err
    assert run("json=true", images=[folder / odd[1]]) is None  # alone in its batch
    (alone,) = json.loads(capsys.readouterr().out)
    for one, other in zip(alone["labels"], by_name[str(folder / odd[1])], strict=True):
        assert one["wnid"] == other["wnid"] and one["probability"] == pytest.approx(other["probability"], rel=1e-4)
    with pytest.raises(RequestError, match="does not exist"):
        run(images=[folder / "none.jpg"])
    with pytest.raises(RequestError, match="no images in this folder"):
        run(images=[new_folder(tmp_path / "empty")])


def test_predict_and_evaluate_see_a_picture_as_the_reference_does(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten views. Tolerance: float32, sums in another order."""
    ensure_evaluated(world, "one")
    checkpoint = reference.read_checkpoint(world / "runs" / "one" / "checkpoints" / "last.pt")
    images = reference.read_split(world / "data", "val").images
    reference.assert_sensitive_to_views(checkpoint, images, tolerance := 1e-5)
    expected = reference.probabilities(checkpoint, images, 10)
    Image.fromarray(images[4]).save(tmp_path / "five.png")
    where = [f"runs_dir={world / 'runs'}", "devices=[cpu]", "run=one", f"images=[{tmp_path / 'five.png'}]"]
    capsys.readouterr()
    predict(load("predict", PredictConfig, [*where, "json=true"]))
    (answer,) = json.loads(capsys.readouterr().out)
    best = np.argsort(-expected[4])[:5]
    assert [row["wnid"] for row in answer["labels"]] == [checkpoint["classes"][i] for i in best]
    got = [row["probability"] for row in answer["labels"]]
    np.testing.assert_allclose(got, expected[4][best], rtol=0, atol=tolerance)
    kept = kept_of(world).most_views
    np.testing.assert_allclose(kept.probabilities, -np.sort(-expected, axis=1), rtol=0, atol=tolerance)
