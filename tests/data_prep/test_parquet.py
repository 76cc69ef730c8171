"""Parquet files: rows wherever they lie, classes where the names say nothing, and what is wrong."""

import sys
from pathlib import Path

import layouts
import numpy as np
import pytest
from conftest import independent_reading, prepare_config
from layouts import ParquetRow, write_parquet
from test_prepare import contents

from data_prep.common.errors import RequestError, RunError
from data_prep.format import Manifest
from data_prep.prepare import prepare
from data_prep.sources import find_source


def rows(count: int, names: bool = True) -> list[ParquetRow]:
    return [(f"picture {i}".encode() * 50, f"{i}.png" if names else None, i % 3) for i in range(count)]


@pytest.mark.parametrize("row_group_size", [1, 7, 1000])
def test_any_row_in_any_order(row_group_size: int, tmp_path: Path) -> None:
    """The cursor goes on, skips, goes back, and changes files."""
    for split in ("train", "validation"):
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", rows(40), None, row_group_size)
    source = find_source(tmp_path)
    images = [*source.splits["train"], *source.splits["val"]]
    rng = np.random.default_rng(0)
    for i in [*range(80), *rng.permutation(80)]:
        assert images[i].read(1 << 20) == f"picture {i % 40}".encode() * 50
        assert images[i].read(7) == b"picture"


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["apple", "bat", "cat"], ["apple", "bat", "cat"]),
        (["cat", "bat", "apple"], ["0", "1", "2"]),
        (None, ["0", "1", "2"]),
    ],
)
def test_classes_without_wnids(names: list[str] | None, keys: list[str], tmp_path: Path) -> None:
    """Their names where those are in the order of the labels, as from folders; else the labels, which keep it."""
    write_parquet(tmp_path / "train.parquet", rows(9, names=False), names, 4)
    write_parquet(tmp_path / "val.parquet", rows(3, names=False), names, 4)
    source = find_source(tmp_path)
    assert [image.wnid for image in source.splits["train"]] == keys * 3
    assert [source.class_names.get(key) for key in keys] == (names or [None] * 3)
    assert source.splits["train"][8].name == "train-00000008"


def test_both_ways_of_reading_give_the_same(archives: Path, prepared: Path, tmp_path: Path) -> None:
    layouts.parquet(tmp_path / "src", *independent_reading(archives))
    prepare(prepare_config(tmp_path / "src", tmp_path / "a" / "small"))  # in the source's order, by itself
    prepare(prepare_config(tmp_path / "src", tmp_path / "b" / "small", in_source_order=False))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    prepare(prepare_config(archives, tmp_path / "c" / "small", in_source_order=True))
    assert contents(tmp_path / "c" / "small") == contents(prepared)


def test_images_that_cannot_be_read_are_named(archives: Path, tmp_path: Path) -> None:
    train, val = independent_reading(archives)
    name = next(iter(train))
    layouts.parquet(tmp_path / "src", {**train, name: (train[name][0], b"no image")}, val)
    prepare(prepare_config(tmp_path / "src", tmp_path / "out", max_rejected=0.1))
    (rejected,) = Manifest.load(tmp_path / "out").rejected
    assert (rejected.split, rejected.name, rejected.reason) == ("train", name, "no image format that is known here")
    assert Manifest.load(tmp_path / "out").splits["train"].images == 59


def test_what_is_left_out_and_short_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand classes with wnids: ImageNet, which has 732 images of every class at least."""
    from data_prep.sources.completeness import print_summary

    train = [(b"x", f"n{i:08d}_1.JPEG", i) for i in range(1000)]
    write_parquet(tmp_path / "train.parquet", train, None, 500)
    write_parquet(tmp_path / "val.parquet", [(b"x", "ILSVRC2012_val_00000001_n00000001.JPEG", 1)], None, 500)
    write_parquet(tmp_path / "test.parquet", [(b"x", "ILSVRC2012_test_00000001.JPEG", -1)] * 3, None, 500)
    source = find_source(tmp_path)
    print_summary(source, source.splits, 256)
    said = capsys.readouterr().out
    assert "note: left out: 3 test images have no label (-1)" in said
    assert "a complete copy has 1,281,167 train images; this one has 1,000" in said
    assert "warning: 1000 classes are short of train images: n00000000 1 of at least 732, n00000001 1 of" in said
    assert "999 of 1000 classes have no val images here" in said
    assert source.splits["val"][0].name == "ILSVRC2012_val_00000001.JPEG"


def test_wrong_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    import pyarrow.parquet

    train = tmp_path / "train.parquet"
    write_parquet(train, rows(30), None, 10)
    with pytest.raises(RequestError, match="needs parquet files of train and of validation; found train"):
        find_source(tmp_path)
    write_parquet(tmp_path / "val.parquet", rows(3), None, 10)
    whole = train.read_bytes()
    image = find_source(tmp_path).splits["train"][25]
    train.write_bytes(whole[:200])
    with pytest.raises(RequestError, match=r"train\.parquet: cannot be read as parquet \(.*\); download it again"):
        find_source(tmp_path)
    with pytest.raises(OSError, match="row 25"):
        image.read(100)
    pyarrow.parquet.write_table(pyarrow.table({"img": [b"x"], "label": [1]}), train)
    with pytest.raises(RequestError, match=r"needs the columns image \(bytes, path\) and label; found img, label"):
        find_source(tmp_path)
    for label, kind in ((0.0, "float"), (False, "bool")):
        images = [{"bytes": b"x", "path": None}]
        pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [label]}), train)
        with pytest.raises(RequestError, match=rf"a label is a {kind}; it must be a whole number or text"):
            find_source(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RequestError, match=r"need pyarrow, which is not installed; .*\[parquet\]"):
        find_source(tmp_path)


def test_a_damaged_page_stops_the_preparation(archives: Path, tmp_path: Path) -> None:
    """A disk's fault and not an image's: what was finished stays."""
    layouts.parquet(tmp_path / "src", *independent_reading(archives))
    file = tmp_path / "src" / "data" / "train-00000-of-00002.parquet"
    data = bytearray(file.read_bytes())
    data[4:40] = b"\xff" * 36  # the head of the first page of the column of images
    file.write_bytes(data)
    with pytest.raises(RunError, match=r"train-00000-of-00002\.parquet: cannot be read, or has changed"):
        prepare(prepare_config(tmp_path / "src", tmp_path / "out"))
