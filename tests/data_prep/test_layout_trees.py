"""docs/preparing.md shows the tree of every layout as these tests draw it."""

import re
from collections.abc import Callable
from pathlib import Path

import layouts
import pytest
import test_arrays_and_shards
import test_brought
import test_small_sets
from conftest import independent_reading
from layouts import Images

from data_prep.sources import LAYOUTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "preparing.md"


def downsampled(src: Path, train: Images, val: Images) -> None:
    test_arrays_and_shards.batches(src, "npz")


DRAWN: dict[str, list[Callable[[Path, Images, Images], object]]] = {
    "kaggle": [layouts.kaggle],
    "ilsvrc2012": [layouts.ilsvrc2012_archives, layouts.ilsvrc2012_unpacked],
    "ilsvrc2010": [layouts.ilsvrc2010_archives],
    "parquet": [layouts.parquet],
    "webdataset": [test_brought.shards],
    "tiny_imagenet": [layouts.tiny_imagenet_unpacked],
    "folders": [layouts.image_folder, test_brought.imagenet100],
    "fall2011": [layouts.fall2011_unpacked],
    "downsampled": [downsampled],
    "lists": [test_brought.lists],
    "fashion_mnist": [lambda src, *_: test_small_sets.fashion_mnist(src / "fashion")],
    "cifar10": [lambda src, *_: test_small_sets.cifar10(src / "cifar-10-batches-py")],
}


def tree(folder: Path) -> str:
    """The tree of a folder: the first file of every kind, names that differ in numbers only being of one."""
    kinds: dict[str, list[str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        kinds.setdefault(re.sub(r"\d+", "0", name), []).append(name)
    return "".join(f"{names[0]}{' ...' if len(names) > 1 else ''}\n" for names in kinds.values())


@pytest.mark.parametrize("layout", DRAWN)
def test_the_page_shows_what_is_drawn(layout: str, archives: Path, tmp_path: Path) -> None:
    for number, draw in enumerate(DRAWN[layout]):
        draw(tmp_path / str(number), *independent_reading(archives))
        assert f"\n{tree(tmp_path / str(number))}" in PAGE.read_text(encoding="utf-8")


def test_every_layout_has_a_tree() -> None:
    assert set(LAYOUTS) == set(DRAWN)
    assert all(f"`{name}`" in PAGE.read_text(encoding="utf-8") for name in LAYOUTS)
