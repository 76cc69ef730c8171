"""Sources of arrays: the downsampled batches of ImageNet, and a prepared data set as a source of another."""

import pickle
from pathlib import Path

import layouts
import numpy as np
import pytest
from conftest import independent_reading, prepare_config
from layouts import write
from test_prepare import contents

from data_prep.common.errors import RequestError
from data_prep.format import Manifest
from data_prep.prepare import prepare
from data_prep.reader import SplitReader
from data_prep.sources import find_source

SIDE, CLASSES = 8, [("n02119789", "kit_fox"), ("n02100735", "English_setter"), ("n02110185", "Siberian_husky")]


def batches(folder: Path, form: str) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Three batches of train and one of val, as image-net.org's: labels from 1, colours one behind the other.

    Returns wnid and pixels [8, 8, 3] of every image.
    """
    rng, made = np.random.default_rng(0), {}
    for name, count in (
        ("train_data_batch_1", 7),
        ("train_data_batch_2", 5),
        ("train_data_batch_3", 6),
        ("val_data", 6),
    ):
        data = rng.integers(0, 256, (count, 3 * SIDE * SIDE), np.uint8)
        labels = [1 + i % 3 for i in range(count)]
        pixels = data.reshape(count, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        split = name.split("_")[0]
        made[split] = made.get(split, []) + [
            (CLASSES[label - 1][0], x) for label, x in zip(labels, pixels, strict=True)
        ]
        batch = {"data": data, "labels": labels, "mean": data.mean(0)}
        if form == "pickle":
            write(folder / name, pickle.dumps(batch, protocol=2))
        else:
            (folder / "Imagenet8_npz").mkdir(parents=True, exist_ok=True)
            save = np.savez if form == "npz" else np.savez_compressed
            save(folder / "Imagenet8_npz" / f"{name}.npz", **batch)  # type: ignore[arg-type]
    lines = "".join(f"{wnid} {i} {name}\n" for i, (wnid, name) in enumerate(CLASSES, start=1))
    write(folder / "map_clsloc.txt", lines.encode())
    return made


@pytest.mark.parametrize("form", ["npz", "compressed npz", "pickle"])
def test_downsampled_batches_keep_every_byte(form: str, tmp_path: Path) -> None:
    made = batches(tmp_path / "src", form)
    out = tmp_path / "out"
    prepare(prepare_config(tmp_path / "src", out, image_size=SIDE, encoding="raw"))
    manifest = Manifest.load(out)
    assert [info.words for info in manifest.classes] == ["English setter", "Siberian husky", "kit fox"]
    for split, images in made.items():
        reader = SplitReader(out, manifest, split)
        got = [(manifest.classes[label].wnid, x.tobytes()) for x, label in (reader[i] for i in range(len(reader)))]
        assert sorted(got) == sorted((wnid, pixels.tobytes()) for wnid, pixels in images)
    assert find_source(tmp_path / "src").slow_at_random == (form != "npz")


def test_downsampled_without_names_and_damaged(tmp_path: Path) -> None:
    batches(tmp_path, "pickle")
    names = tmp_path / "map_clsloc.txt"
    names.write_text("".join(names.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(RequestError, match=r"train_data_batch_1: label 3 is not in map_clsloc\.txt; download that"):
        find_source(tmp_path)
    names.unlink()
    assert sorted(find_source(tmp_path).splits["train"].class_counts()) == ["0001", "0002", "0003"]
    path = tmp_path / "train_data_batch_2"
    whole = path.read_bytes()

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, ("1",)

    odd = pickle.dumps({"data": np.zeros((2, 100), np.uint8), "labels": [1, 2]}, protocol=2)
    evil = pickle.dumps(Evil())
    for damaged, said in ((whole[:-40], "as a batch"), (evil, "it asks for builtins.eval"),
                          (odd, "100 values are no square"), (b"", "as a batch")):  # fmt: skip
        path.write_bytes(damaged)
        with pytest.raises(RequestError, match=rf"train_data_batch_2: .*{said}.*; download it again"):
            find_source(tmp_path)
    path.unlink()
    with pytest.raises(RequestError, match="train_data_batch_2 is missing, of 3; download it"):
        find_source(tmp_path)


def test_an_npz_that_was_cut(tmp_path: Path) -> None:
    batches(tmp_path, "npz")
    path = tmp_path / "Imagenet8_npz/train_data_batch_1.npz"
    image = find_source(tmp_path).splits["train"][3]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(OSError, match="it ends after"):
        image.read(1 << 20)
    with pytest.raises(RequestError, match=r"train_data_batch_1\.npz: cannot be read as a batch"):
        find_source(tmp_path)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_prepared_data_set_is_a_source(encoding: str, archives: Path, tmp_path: Path) -> None:
    """With the same size and raw pixels, the same classes, words and pixels; from JPEGs, those of their decoding."""
    prepare(prepare_config(archives, tmp_path / "first", encoding=encoding))
    prepare(prepare_config(tmp_path / "first", tmp_path / "second", encoding="raw"))
    first, second = Manifest.load(tmp_path / "first"), Manifest.load(tmp_path / "second")
    assert second.classes == first.classes
    for split in ("train", "val"):
        found = []
        for folder, manifest in ((tmp_path / "first", first), (tmp_path / "second", second)):
            reader = SplitReader(folder, manifest, split)
            found.append(sorted((label, x.tobytes()) for x, label in (reader[i] for i in range(len(reader)))))
        assert found[0] == found[1]
    shards = tmp_path / "first/train"
    (shards / "shard-00003.tar").rename(shards / "shard-00004.tar")
    with pytest.raises(RequestError, match=r"shard-00003\.tar: is missing, but listed in manifest\.json; copy"):
        find_source(tmp_path / "first")
    (shards / "shard-00003.tar").write_bytes((shards / "shard-00004.tar").read_bytes())
    with pytest.raises(RequestError, match=r"shard-00004\.tar: is there, but not listed in manifest\.json"):
        find_source(tmp_path / "first")


def test_shards_with_labels_alone(archives: Path, tmp_path: Path) -> None:
    """Names that say nothing: classes from a list of names in the order of the labels, or else the numbers."""
    train, val = independent_reading(archives)
    wnids = sorted({wnid for wnid, _ in train.values()})
    for split, images in (("train", train), ("val", val)):
        files = {}
        for i, (wnid, data) in enumerate(images.values()):
            files |= {f"{i:06d}.cls": str(wnids.index(wnid)).encode(), f"{i:06d}.jpg": data}
        write(tmp_path / "src" / split / "0.tar", layouts.tar_of(files))
    assert sorted(find_source(tmp_path / "src").splits["val"].class_counts()) == [str(i) for i in range(10)]
    write(tmp_path / "src/classes.txt", "".join(f"{wnid}\n" for wnid in wnids).encode())
    source = find_source(tmp_path / "src")
    found = [(image.wnid, image.read(1 << 20)) for image in source.splits["train"]]
    assert found == list(train.values())


def test_text_labels_in_parquet_files(archives: Path, tmp_path: Path) -> None:
    train, val = independent_reading(archives)
    for split, images in (("train", train), ("validation", val)):
        rows: list[layouts.ParquetRow] = [(data, None, f"class {wnid}") for wnid, data in images.values()]
        layouts.write_parquet(tmp_path / f"{split}.parquet", rows, None, row_group_size=1000)
    source = find_source(tmp_path)
    assert [image.wnid for image in source.splits["train"]] == [f"class {wnid}" for wnid, _ in train.values()]
    images = source.splits["val"]
    assert [image.read(1 << 20) for image in images] == [data for _, data in val.values()]


def test_both_orders_of_reading_give_the_same_from_folders(archives: Path, tmp_path: Path) -> None:
    layouts.image_folder(tmp_path / "src", *independent_reading(archives))
    for in_order in (False, True):
        prepare(prepare_config(tmp_path / "src", tmp_path / str(in_order) / "x", in_source_order=in_order))
    assert contents(tmp_path / "False") == contents(tmp_path / "True")


def test_memory_of_planning_an_image(tmp_path: Path) -> None:
    """At most 150 bytes: 15 million images in 3 GB. As objects they took 440."""
    import tracemalloc

    from data_prep.plan import in_shard_order
    from data_prep.sources import Listing, Source, SourceImage

    count = 100_000
    tracemalloc.start()
    try:
        images = Listing(
            SourceImage(
                f"n{i % 1000:08d}_{i}.JPEG", f"n{i % 1000:08d}", "/data/ILSVRC2012_img_train.tar", 4096 * i, 3000
            )
            for i in range(count)
        )
        source = Source("drawn", tmp_path, {"train": images})
        shards = in_shard_order(source, dict(source.splits), 0)
        taken = tracemalloc.get_traced_memory()[1] / count
    finally:
        tracemalloc.stop()
    assert len(shards["train"]) == count
    print(f"{taken:.0f} bytes an image")
    assert taken < 150
