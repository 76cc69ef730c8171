"""Every layout gives the same prepared data set for the same images; what is missing or wrong is named."""

import shutil
import zipfile
from pathlib import Path

import layouts
import numpy as np
import pytest
from conftest import prepare_config
from layouts import LAYOUTS, Images
from test_photographs import reference

from data_prep.common.errors import RequestError
from data_prep.format import Manifest
from data_prep.prepare import prepare
from data_prep.reader import SplitReader
from data_prep.sources import Source, find_source
from data_prep.sources.completeness import print_summary
from data_prep.verify import check


def pixels_and_labels(folder: Path, split: str) -> list[bytes]:
    """The shards and the index, byte by byte."""
    return [path.read_bytes() for path in sorted((folder / split).iterdir())]


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if not layout.startswith("fall2011")])  # has no val
def test_every_layout_gives_the_same_data_set(
    layout: str, images: tuple[Images, Images], prepared: Path, tmp_path: Path
) -> None:
    LAYOUTS[layout](tmp_path / "src", *images)
    out = tmp_path / "small"
    prepare(prepare_config(tmp_path / "src", out))
    ours, theirs = Manifest.load(out), Manifest.load(prepared)
    assert ours.rejected == []
    assert set(ours.splits) == {"train", "val", *["test"] * (layout == "ilsvrc2010_archives")}
    for split in ("train", "val"):
        assert pixels_and_labels(out, split) == pixels_and_labels(prepared, split)
    if "test" in ours.splits:
        np.testing.assert_array_equal(
            np.load(out / "test" / "index.npy")["label"], np.load(prepared / "val" / "index.npy")["label"]
        )
    assert [c.wnid for c in ours.classes] == [c.wnid for c in theirs.classes]
    told = ("ilsvrc2012_archives", "ilsvrc2012_unpacked", "ilsvrc2010", "kaggle", "tiny_imagenet")
    if layout.startswith(told) or layout == "parquet":
        assert "honeycomb" in [c.words for c in ours.classes]
    assert ours.statistics == theirs.statistics
    assert (out / "mean.npy").read_bytes() == (prepared / "mean.npy").read_bytes()


@pytest.mark.parametrize("layout", ["fall2011", "fall2011_unpacked"])
def test_a_source_that_has_only_train_gives_a_val(layout: str, images: tuple[Images, Images], tmp_path: Path) -> None:
    """Mean and covariance are of the images that stay in train, without tolerance for the mean: sums of integers."""
    LAYOUTS[layout](tmp_path / "src", *images)
    out = tmp_path / "out"
    prepare(prepare_config(tmp_path / "src", out, encoding="raw", val_from_train=0.2))
    assert check(out).problems == []
    manifest = Manifest.load(out)
    assert {split: info.images for split, info in manifest.splits.items()} == {"train": 48, "val": 12}
    pixels = {}
    for split in manifest.splits:
        reader = SplitReader(out, manifest, split)
        pixels[split] = np.stack([reader[i][0] for i in range(len(reader))])
    whole = {(wnid, reference(data, 75).tobytes()) for wnid, data in images[0].values()}
    wnids = [info.wnid for info in manifest.classes]
    labelled = {
        (wnids[label], image.tobytes())
        for split in pixels
        for image, label in zip(pixels[split], SplitReader(out, manifest, split).labels, strict=True)
    }
    assert labelled == whole
    mean = (pixels["train"].sum(axis=0, dtype=np.int64) / 48).astype(np.float32)
    np.testing.assert_array_equal(np.load(out / "mean.npy"), mean)
    covariance = np.cov(pixels["train"].reshape(-1, 3).astype(np.float64).T, bias=True)
    np.testing.assert_allclose(manifest.statistics["rgb_covariance"], covariance, rtol=1e-9)


@pytest.mark.parametrize(
    ("layout", "lost", "said"),
    [
        ("ilsvrc2012_archives", "ILSVRC2012_img_val.tar", r"ILSVRC2012_img_val\.tar is missing"),
        ("ilsvrc2012_archives", "ILSVRC2012_devkit_t12.tar.gz", r"devkit_t12\.tar\.gz is missing; it has the labels"),
        ("ilsvrc2012_unpacked", "train", r"ILSVRC2012_img_train\.tar is missing"),
        (
            "ilsvrc2010_archives",
            "ILSVRC2010_test_ground_truth.txt",
            "_truth.txt is missing; it has the labels",
        ),
        ("kaggle", "LOC_val_solution.csv", r"LOC_val_solution\.csv is missing"),
        ("kaggle", "ILSVRC/Data/CLS-LOC/val", "CLS-LOC/val is missing"),
    ],
)
def test_a_missing_part_is_named(
    layout: str, lost: str, said: str, images: tuple[Images, Images], tmp_path: Path
) -> None:
    LAYOUTS[layout](tmp_path, *images)
    path = tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RequestError, match=said):
        find_source(tmp_path)


def test_a_list_of_labels_that_does_not_fit(images: tuple[Images, Images], tmp_path: Path) -> None:
    train, val = images
    layouts.kaggle(tmp_path / "kaggle", train, val)
    layouts.write(tmp_path / "kaggle/ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00009999.JPEG", b"")
    with pytest.raises(RequestError, match=r"has no label for 1 val images, ILSVRC2012_val_00009999\.JPEG first"):
        find_source(tmp_path / "kaggle")
    layouts.ilsvrc2012_unpacked(tmp_path / "short", train, dict(list(val.items())[1:]))
    layouts.write(tmp_path / "short/val/ILSVRC2012_val_00000001.JPEG", b"")
    with pytest.raises(RequestError, match=r"30 images, but there are labels for 29"):
        find_source(tmp_path / "short")


def test_the_layout_can_be_named(images: tuple[Images, Images], tmp_path: Path) -> None:
    """A folder that is two layouts at once: the official one is found, the other can be asked for."""
    train, val = images
    layouts.ilsvrc2012_archives(tmp_path, train, val)
    layouts.image_folder(tmp_path, dict(list(train.items())[:6]), val)
    assert len(find_source(tmp_path).splits["train"]) == 60
    assert len(find_source(tmp_path, "folders").splits["train"]) == 6
    with pytest.raises(RequestError, match="layout=zip: must be one of kaggle, ilsvrc2012, ilsvrc2010"):
        prepare_config(tmp_path, tmp_path / "out", layout="zip")


def test_short_classes_and_wrong_archives_are_named(
    images: tuple[Images, Images], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The devkit of these fixtures says 7 images of every second class, and there are 6."""
    layouts.ilsvrc2012_archives(tmp_path / "src", *images)
    with pytest.raises(RequestError, match=r"img_train\.tar: its md5 is [0-9a-f]{32}, officially 1d675b47d97"):
        prepare(prepare_config(tmp_path / "src", tmp_path / "out", md5=True))
    said = capsys.readouterr().out
    assert "a complete copy has 1,281,167 train images; this one has 60" in said
    assert "warning: 5 classes are short of train images: n02129604 6 of 7, " in said
    assert not (tmp_path / "out").exists()


def test_kaggle_s_own_list_says_what_is_short(
    images: tuple[Images, Images], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val = images
    layouts.kaggle(tmp_path, dict(list(train.items())[1:]), dict(list(val.items())[1:]))
    say(find_source(tmp_path))
    assert "warning: 10 classes are short of train images: n02128385 5 of at least 732" in capsys.readouterr().out
    listed = "".join(f"{wnid}/{Path(name).stem} {i}\n" for i, (name, (wnid, _)) in enumerate(train.items(), start=1))
    layouts.write(tmp_path / "ILSVRC/ImageSets/CLS-LOC/train_cls.txt", listed.encode())
    say(find_source(tmp_path))
    said = capsys.readouterr().out
    assert f"warning: 1 class is short of train images: {next(iter(train.values()))[0]} 5 of 6\n" in said
    assert "short of val images" not in said  # as many as LOC_val_solution.csv, which lacks one as well


def test_a_thousand_folders_named_as_ilsvrc_s_classes_are_counted(
    images: tuple[Images, Images], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = next(iter(images[0].values()))[1]
    for split in ("train", "val"):
        for number in range(1000):
            layouts.write(tmp_path / split / f"n{number:08d}" / "0.JPEG", data)
    say(find_source(tmp_path))
    said = capsys.readouterr().out
    assert "warning: 1000 classes are short of train images: n00000000 1 of at least 732, " in said
    assert "warning: 1000 classes are short of val images: n00000000 1 of at least 50, " in said


def say(source: Source) -> None:
    print_summary(source, source.splits, 256)


def test_tiny_imagenet_wherever_it_lies(
    images: tuple[Images, Images], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The zip, the folder, and what holds either; sorted by a script that kept the list; other zips are not taken."""
    layouts.tiny_imagenet_zip(tmp_path / "zip", *images)
    layouts.tiny_imagenet_unpacked(tmp_path / "folder", *images)
    renamed = tmp_path / "download (1).zip"
    shutil.copy(tmp_path / "zip" / "tiny-imagenet-200.zip", renamed)
    places = [tmp_path / "zip", tmp_path / "zip" / "tiny-imagenet-200.zip", renamed,
              tmp_path / "folder", tmp_path / "folder" / "tiny-imagenet-200"]  # fmt: skip
    for place in places:
        source = find_source(place)
        assert source.left_out[0] == "test/: 1 images without labels"
        assert len(source.splits["train"]) == 60
        for image in source.splits["val"]:
            wnid, data = images[1][Path(image.name).name]
            assert (image.wnid, image.read(1 << 20), image.read(10)) == (wnid, data, data[:10])
    say(source)
    assert "note: left out: test/: 1 images without labels\n" in capsys.readouterr().out
    val = tmp_path / "folder" / "tiny-imagenet-200" / "val"
    for name, (wnid, _) in images[1].items():
        (val / wnid / "images").mkdir(parents=True, exist_ok=True)
        (val / "images" / name).rename(val / wnid / "images" / name)
    (val / "images").rmdir()
    found = {Path(image.name).name: image.wnid for image in find_source(tmp_path / "folder").splits["val"]}
    assert found == {name: wnid for name, (wnid, _) in images[1].items()}
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/b.JPEG", b"")
    with pytest.raises(RequestError, match=r"other\.zip: is a file; give the folder that holds it"):
        find_source(tmp_path / "other.zip")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RequestError, match=r"neither tiny-imagenet-200\.zip is there nor"):
        find_source(tmp_path / "nothing", "tiny_imagenet")


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_damage_to_tiny_imagenet_is_named(kind: str, images: tuple[Images, Images], tmp_path: Path) -> None:
    whole = layouts.tiny_imagenet_files(*images)
    wnid, name = whole["wnids.txt"].decode().split()[3], next(iter(images[1]))
    annotations = whole["val/val_annotations.txt"].replace(name.encode(), b"val_other.JPEG")
    for number, (changed, said) in enumerate((
        ({"val/val_annotations.txt": None}, r"val/val_annotations\.txt is missing; download it again"),
        ({"wnids.txt": whole["wnids.txt"] + b"\nn99999999"}, "lists n99999999, but there are no images"),
        ({path: None for path in whole if wnid in path}, f"lists {wnid}, but there are no images in train/{wnid}/"),
        ({"wnids.txt": whole["wnids.txt"][:-9]}, r"wnids\.txt does not list n\d+, which train/ has"),
        ({"val/val_annotations.txt": annotations}, rf"has no label for val/images/{name}; download it again"),
        ({f"val/{wnid}/{name}": b""}, rf"{name} and val/\S+/{name} are the same image; delete one copy of val"),
        ({path: None for path in whole if path.startswith("val/images")}, "s zip, but there are no val images"),
    )):  # fmt: skip
        files = {path: data for path, data in {**whole, **changed}.items() if data is not None}
        src = tmp_path / str(number) / "tiny-imagenet-200"
        for path, data in files.items():
            layouts.write(src / path, data)
        if kind == "zip":
            src = Path(shutil.make_archive(str(src), "zip", src.parent, src.name))
        with pytest.raises(RequestError, match=said) as caught:
            find_source(src)
        assert "\n" not in str(caught.value)


def test_a_damaged_zip_is_named(images: tuple[Images, Images], tmp_path: Path) -> None:
    layouts.tiny_imagenet_zip(tmp_path, *images)
    path = tmp_path / "tiny-imagenet-200.zip"
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny-imagenet-200/é", b"")
    no_utf8 = path.read_bytes().replace("é".encode(), b"\xe9\xe9")
    for damaged in (whole[: len(whole) // 2], b"", b"<html>", no_utf8):
        path.write_bytes(damaged)
        with pytest.raises(
            RequestError, match=r"tiny-imagenet-200\.zip: cannot be read as a zip .*; download it again"
        ):
            find_source(tmp_path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", b"n01440764")
    with pytest.raises(
        RequestError, match=r"wnids\.txt is packed by method 12, which is not read here; unpack the zip"
    ):
        find_source(tmp_path)
    path.write_bytes(whole)
    image = find_source(tmp_path).splits["train"][1]  # deflated
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(OSError, match=r"no member begins where train/\S+\.JPEG should"):
        image.read(1 << 20)
    path.write_bytes(whole[: image.offset + 200] + bytes(len(whole)))
    with pytest.raises(OSError, match=r"cannot be unpacked|it ends after \d+ of|its checksum is another"):
        image.read(1 << 20)
