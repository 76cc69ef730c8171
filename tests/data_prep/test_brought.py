"""Trees as people have them, one step away from the documented ones: the same images and labels."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import layouts
import pytest
from conftest import prepare_config
from layouts import Images, of_class, tar_of, write

from data_prep.common.errors import RequestError, RunError
from data_prep.format import Manifest
from data_prep.plan import in_shard_order, split_train
from data_prep.prepare import prepare
from data_prep.sources import Source, find_source
from data_prep.sources.completeness import print_summary, refuse_more

Draw = Callable[[Path, Images, Images], "str | None"]  # what it returns is looked for in what is said


def in_order(source: Source) -> dict[str, list[tuple[str, bytes]]]:
    """Class and bytes of every image in the order of the shards: the shards follow from these alone."""
    shards = in_shard_order(source, dict(source.splits), 0)
    return {split: [(image.wnid, image.read(1 << 20)) for image in shards[split]] for split in ("train", "val")}


@pytest.fixture(scope="module")
def expected(images: tuple[Images, Images], archives: Path) -> dict[str, list[tuple[str, bytes]]]:
    """From the official archives. That these are right is asked of tarfile, scipy and Pillow, in test_prepare.py."""
    found = in_order(find_source(archives))
    for split, known in zip(("train", "val"), images, strict=True):
        assert sorted(found[split]) == sorted(known.values())
    return found


def wnids(train: Images) -> list[str]:
    return sorted(of_class(train))


def train_tar_in_train(src: Path, train: Images, val: Images) -> str:
    layouts.ilsvrc2012_unpacked(src, train, val)
    inner = {f"{wnid}.tar": tar_of(files) for wnid, files in of_class(train).items()}
    write(src / "train/ILSVRC2012_img_train.tar", tar_of(inner))
    return "archives beside the folders of their classes: 1 (train/ILSVRC2012_img_train.tar)"


def tars_beside_folders(src: Path, train: Images, val: Images) -> str:
    layouts.image_folder(src, train, val)
    for wnid, files in of_class(train).items():
        write(src / "train" / f"{wnid}.tar", tar_of(files))
    return f"archives beside the folders of their classes: 10 (train/{wnids(train)[0]}.tar, ...)"


def class_with_more_than_its_tar(src: Path, train: Images, val: Images) -> str:
    layouts.image_folder(src, train, val)
    wnid, files = next(iter(of_class(train).items()))
    write(src / "train" / f"{wnid}.tar", tar_of(dict(list(files.items())[1:])))
    return f"archives with fewer images than the folders beside them: 1 (train/{wnid}.tar)"


def some_unpacked(src: Path, train: Images, val: Images) -> None:
    """Half of the classes as folders, half as tars, and one tar beside a folder that is still empty."""
    layouts.image_folder(src, {}, val)
    for number, (wnid, files) in enumerate(of_class(train).items()):
        if number % 2:
            write(src / "train" / f"{wnid}.tar", tar_of(files))
            if number == 1:
                (src / "train" / wnid).mkdir()
        else:
            for name, data in files.items():
                write(src / "train" / wnid / name, data)


def system_names(src: Path, train: Images, val: Images) -> str:
    layouts.image_folder(src, train, val)
    wnid, image = wnids(train)[0], next(iter(train.values()))[1]
    for place in (".ipynb_checkpoints/a.JPEG", "@eaDir/a.JPEG", "lost+found (1)/a.JPEG", "__MACOSX/a.JPEG", ".DS_Store",
                  f"{wnid}/._a.JPEG", f"{wnid}/Thumbs.db", f"{wnid}/@eaDir/a.JPEG", "desktop.ini", "#snapshot/a.JPEG",
                  "Temporary Items/a.JPEG", "__pycache__/a.JPEG"):  # fmt: skip
        write(src / "train" / place, image)
    return "hidden or system names: 12 ("


def system_names_in_archives(src: Path, train: Images, val: Images) -> str:
    """What a disk station, a viewer and macOS leave in them."""
    for name, (_, data) in val.items():
        write(src / "val" / name, data)
    first, second = wnids(train)[:2]
    files = {f"{wnid}/{name}": data for name, (wnid, data) in train.items()}
    files |= dict.fromkeys((f"{first}/@eaDir/a.JPEG/SYNOPHOTO_THUMB_M.jpg", f"{second}/.thumbs/b.JPEG"), b"an image")
    write(src / "train/train.tar", tar_of(files))
    kit = {"devkit/data/._ILSVRC2012_validation_ground_truth.txt": b"\0\5\x16\7"}
    kit |= layouts.devkit(train, val, 2012, "devkit")
    write(src / "ILSVRC2012_devkit_t12.tar.gz", gzip.compress(tar_of(kit)))
    return f"hidden or system names: 2 (train.tar: {first}/@eaDir/a.JPEG/SYNOPHOTO_THUMB_M.jpg, ...)"


def nested(src: Path, train: Images, val: Images) -> str:
    wnid = wnids(train)[0]
    for name, (own, data) in train.items():
        write(src / "train" / own / ("sub/sub" if own == wnid else "") / name, data)
    layouts.image_folder(src, {}, val)
    return f"images in folders within the folder of their class: 6 (train/{wnid}/sub/sub/{wnid}_0.JPEG, ...); taken"


def nested_in_a_tar(src: Path, train: Images, val: Images) -> None:
    """And val in a folder that is no class."""
    below = dict(zip(wnids(train), ("extra", "images", "a/b"), strict=False))
    files = {f"x/{wnid}/{below.get(wnid, '')}/{name}": data for name, (wnid, data) in train.items()}
    write(src / "train/train.tar", tar_of(files))
    write(src / "val/val.tar", tar_of({f"testing/{name}": data for name, (_, data) in val.items()}))
    write(src / "ILSVRC2012_devkit_t12.tar", tar_of(layouts.devkit(train, val, 2012, "devkit")))


def tars_in_capitals(src: Path, train: Images, val: Images) -> None:
    for wnid, files in of_class(train).items():
        write(src / "train" / f"{wnid}.TAR", tar_of(files))
    layouts.image_folder(src, {}, val)


def tars_in_capitals_in_a_tar(src: Path, train: Images, val: Images) -> None:
    layouts.ilsvrc2012_archives(src, train, val)
    inner = {f"{wnid}.TAR": tar_of(files) for wnid, files in of_class(train).items()}
    write(src / "ILSVRC2012_img_train.tar", tar_of(inner))


def empty_class(src: Path, train: Images, val: Images) -> str:
    layouts.image_folder(src, train, val)
    (src / "train/n00000000").mkdir()
    write(src / "train/n00000001/readme.txt", b"to come")
    return "folders without images: 2 (train/n00000000, ...); files that are no images: 1"


def kaggle_sorted(src: Path, train: Images, val: Images) -> None:
    layouts.kaggle(src, train, val)
    shutil.rmtree(src / "ILSVRC/Data/CLS-LOC/val")
    layouts.image_folder(src / "ILSVRC/Data/CLS-LOC", {}, val)


def kaggle_saved_by_excel(src: Path, train: Images, val: Images) -> None:
    layouts.kaggle(src, train, val)
    path = src / "LOC_val_solution.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def kaggle_in_small_letters(src: Path, train: Images, val: Images) -> None:
    """And the list loaded twice."""
    layouts.kaggle(src, train, val)
    (src / "ILSVRC/Data/CLS-LOC").rename(src / "ILSVRC/Data/cls-loc")
    (src / "ILSVRC/Data").rename(src / "ILSVRC/data")
    (src / "ILSVRC").rename(src / "ilsvrc")
    (src / "LOC_val_solution.csv").rename(src / "LOC_val_solution (1).csv")


def kaggle_cut_short(src: Path, train: Images, val: Images) -> None:
    layouts.kaggle(src, train, val)
    (src / "ILSVRC/Data").rename(src / "Data")
    (src / "ILSVRC").rmdir()


def kaggle_moved_up(src: Path, train: Images, val: Images) -> None:
    layouts.kaggle(src, train, val)
    for split in ("train", "val"):
        (src / "ILSVRC/Data/CLS-LOC" / split).rename(src / split)
    shutil.rmtree(src / "ILSVRC")


def numbered_val_with_devkit(src: Path, train: Images, val: Images) -> None:
    """Sorted into folders whose names say nothing; the names of the images do."""
    layouts.ilsvrc2012_unpacked(src, train, val)
    for number, name in enumerate(val):
        (src / "val" / str(number % 3)).mkdir(exist_ok=True)
        (src / "val" / name).rename(src / "val" / str(number % 3) / name)


def val_tar_in_val(src: Path, train: Images, val: Images) -> str:
    layouts.ilsvrc2012_unpacked(src, train, val)
    write(src / "val/ILSVRC2012_img_val.tar", tar_of({name: data for name, (_, data) in val.items()}))
    return "archives beside the images unpacked from them: 1 (val/ILSVRC2012_img_val.tar)"


def only_a_tar_in_val(src: Path, train: Images, val: Images) -> None:
    val_tar_in_val(src, train, val)
    for path in (src / "val").glob("*.JPEG"):
        path.unlink()


def folders_within(src: Path, train: Images, val: Images) -> str:
    layouts.ilsvrc2012_unpacked(src, train, val)
    for split, inner in (("train", "train"), ("val", "ILSVRC2012_img_val")):
        (src / split).rename(src / "moved")
        (src / split).mkdir()
        (src / "moved").rename(src / split / inner)
    write(src / "val/ILSVRC2012_img_val.tar", tar_of({name: data for name, (_, data) in val.items()}))
    return "archives beside the images unpacked from them: 1 (val/ILSVRC2012_img_val.tar)"


def devkit_as_tar(src: Path, train: Images, val: Images) -> None:
    layouts.ilsvrc2012_archives(src, train, val)
    (src / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    write(src / "ILSVRC2012_devkit_t12.tar", tar_of(layouts.devkit(train, val, 2012, "ILSVRC2012_devkit_t12")))


def devkit_named(name: str) -> Draw:
    def draw(src: Path, train: Images, val: Images) -> None:
        layouts.ilsvrc2012_archives(src, train, val)
        (src / "ILSVRC2012_devkit_t12.tar.gz").rename(src / name)

    draw.__name__ = name
    return draw


def renamed_by_browsers(src: Path, train: Images, val: Images) -> None:
    layouts.ilsvrc2012_archives(src, train, val)
    (src / "ILSVRC2012_devkit_t12.tar.gz").rename(src / "ilsvrc2012_devkit_t12 (1).tar.gz")
    (src / "ILSVRC2012_img_train.tar").rename(src / "ILSVRC2012_img_train(2).tar")
    (src / "ILSVRC2012_img_val.tar").rename(src / "ILSVRC2012_img_val copy.TAR")


def imagenet100(src: Path, train: Images, val: Images) -> None:
    for number, (name, (wnid, data)) in enumerate(sorted(train.items())):
        write(src / f"train.X{1 + number // 18}" / wnid / name, data)
    for name, (wnid, data) in val.items():
        write(src / "val.X" / wnid / name, data)
    write(src / "Labels.json", json.dumps({wnid: "honeycomb" for wnid in wnids(train)}).encode())


def spelled_otherwise(train_is: str, val_is: str) -> Draw:
    def draw(src: Path, train: Images, val: Images) -> None:
        layouts.image_folder(src, train, val)
        (src / "train").rename(src / f"{train_is}.moved")
        (src / f"{train_is}.moved").rename(src / train_is)
        (src / "val").rename(src / f"{val_is}.moved")
        (src / f"{val_is}.moved").rename(src / val_is)

    draw.__name__ = f"{train_is}_{val_is}"
    return draw


def in_one_folder(src: Path, train: Images, val: Images) -> str:
    layouts.image_folder(src / "archive/imagenet", train, val)
    return f"read from {src / 'archive' / 'imagenet'}"


def linked(src: Path, train: Images, val: Images) -> str:
    """Every second class a link to its folder, the others folders of links; and folders linked into themselves."""
    layouts.image_folder(src.with_name("store"), train, val)
    (src / "train").mkdir(parents=True)
    (src / "val").symlink_to(src.with_name("store") / "val")
    for number, wnid in enumerate(wnids(train)):
        own = src.with_name("store") / "train" / wnid
        if number % 2:
            (src / "train" / wnid).symlink_to(own)
        else:
            (src / "train" / wnid).mkdir()
            (src / "train" / wnid / "loop").symlink_to(src / "train" / (wnid if number else ""))
            for path in own.iterdir():
                (src / "train" / wnid / path.name).symlink_to(path)
    (src.with_name("store") / "train" / wnids(train)[1] / "up").symlink_to("..")
    (src / "train/above").symlink_to(src)
    return "links to a folder above or beside: 7 ("


def hub_cache(src: Path, train: Images, val: Images) -> None:
    """As huggingface_hub keeps a download: links by name, the bytes under their digests; an older version beside it."""
    layouts.parquet(src.with_name("store"), train, val)
    for version, names in (("1" * 40, ()), ("2" * 40, sorted((src.with_name("store") / "data").iterdir()))):
        (src / "snapshots" / version / "data").mkdir(parents=True)
        for number, path in enumerate(names):
            write(src / "blobs" / f"{number:064d}", path.read_bytes())
            (src / "snapshots" / version / "data" / path.name).symlink_to(f"../../../blobs/{number:064d}")
    write(src / "refs/main", b"2" * 40)


def shards(src: Path, train: Images, val: Images) -> str:
    """As tools for WebDataset write them: labels as numbers, the names of the images kept, a .json beside each."""
    for split, known in (("train", train), ("validation", val)):
        for part in range(2):
            files = {}
            for name, (wnid, data) in list(known.items())[part::2]:
                key = f"{split}/{Path(name).stem}_{wnid}" if split == "validation" else Path(name).stem
                files |= {f"{key}.JPEG": data, f"{key}.json": b"{}", f"{key}.cls": b"%d\n" % wnids(train).index(wnid)}
            files |= {"._x.jpg": b"\0", "@eaDir/x.jpg/y.jpg": b""}
            write(src / f"imagenet1k-{split}-{part:05d}-of-00002.tar", tar_of(files))
    return "hidden or system names: 8 (imagenet1k-train-00000-of-00002.tar: ._x.jpg, ...)"


def shards_of_any_name(src: Path, train: Images, val: Images) -> None:
    """An image by its bytes; labels with the mark that some editors put before a text."""
    for split, known in (("train", train), ("val", val)):
        files = {}
        for name, (wnid, data) in known.items():
            stem = Path(name).stem if split == "train" else f"{Path(name).stem}_{wnid}"
            files |= {f"{stem}.img": data, f"{stem}.cls": f"\ufeff{wnids(train).index(wnid)}".encode()}
        write(src / f"{split}.tar", tar_of(files))


def lists_saved_by_an_editor(src: Path, train: Images, val: Images) -> None:
    layouts.ilsvrc2012_unpacked(src, train, val)
    path = src / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def tiny_imagenet_in_capitals(src: Path, train: Images, val: Images) -> None:
    """And lists saved by an editor."""
    for name, data in layouts.tiny_imagenet_files(train, val).items():
        write(src / name.replace("val/", "VAL/", 1), b"\xef\xbb\xbf" * name.endswith("s.txt") + data)


def tiny_imagenet_of_links(src: Path, train: Images, val: Images) -> str:
    """Every class a link to its folder, val/images too; and a link to the whole, in a class."""
    store = src.with_name("store")
    layouts.tiny_imagenet_unpacked(store, train, val)
    (store / "tiny-imagenet-200").rename(src)
    for path in (*(src / "train").iterdir(), src / "val/images"):
        path.rename(store / path.name)
        path.symlink_to(store / path.name)
    (store / wnids(train)[0] / "above").symlink_to(src)
    return f"links to a folder above or beside: 1 (train/{wnids(train)[0]}/above)"


def lists(src: Path, train: Images, val: Images) -> None:
    """As Caffe has them, and as a spreadsheet saves them."""
    layouts.image_folder(src / "images", train, {})
    for name, (_, data) in val.items():
        write(src / "val" / name, data)
    write(src / "train.txt", "".join(f"images/train/{w}/{name} {w}\n" for name, (w, _) in train.items()).encode())
    rows = "".join(f"{name},{w}\r\n" for name, (w, _) in val.items())
    write(src / "val.csv", f"\ufeffimage,label\r\n{rows}".encode())


def lists_as_others_write_them(src: Path, train: Images, val: Images) -> str:
    """Numbers for classes, headings of any words, -1 where there is no label, a comma in a folder's name."""
    layouts.image_folder(src / "my images, all", train, {})
    layouts.image_folder(src / "my images, all", {}, val)
    number = {wnid: i for i, wnid in enumerate(wnids(train))}
    lines = [f"my images, all/train/{w}/{name} {number[w]}\n" for name, (w, _) in train.items()]
    write(src / "train.txt", f"# list of images\nimg class\n{''.join(lines)}{lines[0].split(' 0')[0]} -1\n".encode())
    rows = "".join(f'"my images, all/val/{w}/{name}",{number[w]}\n' for name, (w, _) in val.items())
    write(src / "val.csv", f"image_name,class\n{rows}".encode())
    return "1 train images have no label (-1)\nnote: left out: train.txt, lines above the first path: 2 ('# list of')\n"


def lists_as_caffe_has_them(src: Path, train: Images, val: Images) -> None:
    """Beside train/ and a flat val/, and no devkit."""
    layouts.ilsvrc2012_unpacked(src, train, val)
    shutil.rmtree(src / "ILSVRC2012_devkit_t12")
    number = {wnid: i for i, wnid in enumerate(wnids(train))}
    write(src / "train.txt", "".join(f"{w}/{name} {number[w]}\n" for name, (w, _) in train.items()).encode())
    write(src / "val.txt", "".join(f"{name} {number[w]}\n" for name, (w, _) in val.items()).encode())


ACCEPTED: list[Draw] = [
    train_tar_in_train, tars_beside_folders, class_with_more_than_its_tar, some_unpacked, system_names,
    system_names_in_archives, nested, empty_class, kaggle_sorted, kaggle_saved_by_excel, kaggle_moved_up,
    numbered_val_with_devkit, val_tar_in_val, only_a_tar_in_val, folders_within, devkit_as_tar, renamed_by_browsers,
    imagenet100, devkit_named("ILSVRC2012_devkit_t12 2.tar.gz"), devkit_named("ILSVRC2012_devkit_t12.tar (1).gz"),
    devkit_named("ILSVRC2012_devkit_t12.gz"), kaggle_in_small_letters, kaggle_cut_short,
    spelled_otherwise("Train", "Validation"), spelled_otherwise("training", "valid"),
    spelled_otherwise("train", "VAL"), in_one_folder, linked, hub_cache, shards, lists, lists_as_others_write_them,
    lists_as_caffe_has_them, shards_of_any_name, lists_saved_by_an_editor, tiny_imagenet_in_capitals,
    nested_in_a_tar, tars_in_capitals, tars_in_capitals_in_a_tar, tiny_imagenet_of_links,
]  # fmt: skip


@pytest.mark.parametrize("draw", ACCEPTED, ids=lambda draw: draw.__name__)
def test_the_same_images_and_labels(
    draw: Draw, images: tuple[Images, Images], expected: dict[str, list[tuple[str, bytes]]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    said = draw(tmp_path / "src", *images)
    source = find_source(tmp_path / "src")
    assert in_order(source) == expected
    assert list(source.splits)[:2] == ["train", "val"]  # the order is part of what a later run is compared with
    print_summary(source, source.splits, 256)
    refuse_more(source)  # a copy beside another is not counted twice
    out = capsys.readouterr().out
    assert "the same images twice" not in out
    assert (said or "") in out


@pytest.mark.parametrize("below", [
    "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/train", "Data", "Data/CLS-LOC/val",
])  # fmt: skip
def test_from_any_folder_of_kaggle_s_tree(
    below: str, images: tuple[Images, Images], expected: dict[str, list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    (layouts.kaggle if below.startswith("ILSVRC") else kaggle_cut_short)(tmp_path, *images)
    assert in_order(find_source(tmp_path / below)) == expected


def test_the_folder_of_one_split_brings_the_other(
    images: tuple[Images, Images], expected: dict[str, list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    layouts.image_folder(tmp_path, *images)
    for split in ("train", "val"):
        assert in_order(find_source(tmp_path / split)) == expected


@pytest.mark.parametrize("archived", [False, True])
def test_what_a_file_is_called_does_not_matter(
    archived: bool, images: tuple[Images, Images], expected: dict[str, list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    """Images without an ending and with another's; a text beside them is counted."""
    names = [f"{Path(name).stem}{('', '.dat', '.JPEG')[i % 3]}" for i, name in enumerate(images[0])]
    train = {name: known for name, known in zip(names, images[0].values(), strict=True)}
    train["list.csv"] = (next(iter(train.values()))[0], b"a,b")
    (layouts.ilsvrc2012_half_unpacked if archived else layouts.image_folder)(tmp_path, train, images[1])
    source = find_source(tmp_path)
    assert sorted(in_order(source)["train"]) == sorted(expected["train"])
    assert source.left_out[0].startswith("files that are no images: 1 (")


def test_names_in_brackets_are_classes(images: tuple[Images, Images], tmp_path: Path) -> None:
    """A number is the mark of a copy, of a class that is there without it; a word, as in ImageNet's list, is none."""
    names = ["crane", "crane (bird)", "maillot (1)"]
    train, val = ({f"{i}_{n}": (name, data) for i, name in enumerate(names) for n, (_, data) in part.items()}
                  for part in images)  # fmt: skip
    layouts.image_folder(tmp_path, train, val)
    assert sorted(find_source(tmp_path).splits["train"].class_counts()) == names


def test_names_of_classes_from_labels_json(images: tuple[Images, Images], tmp_path: Path) -> None:
    imagenet100(tmp_path, *images)
    assert set(find_source(tmp_path).class_names.values()) == {"honeycomb"}


def test_dead_links_are_rejected_images(
    images: tuple[Images, Images], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As git-annex leaves those whose content is elsewhere. They are counted like others."""
    layouts.image_folder(tmp_path / "src", *images)
    name, (wnid, _) = next(iter(images[0].items()))
    path = tmp_path / "src/train" / wnid / name
    path.unlink()
    path.symlink_to("../../.git/annex/objects/x")
    with pytest.raises(RunError, match=rf"1 of 90 images cannot be read.*{name}.*a link to \.\./\.\./\.git/annex/obj"):
        prepare(prepare_config(tmp_path / "src", tmp_path / "out"))
    prepare(prepare_config(tmp_path / "src", tmp_path / "out", max_rejected=0.1))
    prepare(prepare_config(tmp_path / "src", tmp_path / "again", max_rejected=0.1, in_source_order=True))
    said = capsys.readouterr().err
    assert all(f"{what}: 100 %, 90 of 90 images" in said for what in ("prepare", "read the source", "fill the shards"))
    assert [rejected.name for rejected in Manifest.load(tmp_path / "out").rejected] == [f"{wnid}/{name}"]


def test_an_out_with_what_a_desktop_leaves(images: tuple[Images, Images], tmp_path: Path) -> None:
    """lost+found of a fresh disk, .DS_Store of a look at it."""
    layouts.image_folder(tmp_path / "src", *images)
    for name in (".DS_Store", "lost+found/x"):
        write(tmp_path / "out" / name, b"")
    prepare(prepare_config(tmp_path / "src", tmp_path / "out"))
    assert Manifest.load(tmp_path / "out").splits["train"].images == 60


def test_no_val_in_any_layout_is_taken_from_train(images: tuple[Images, Images], tmp_path: Path) -> None:
    """Refused with the key to type; with it, the same images for val from every layout. A test stays test."""
    train, val = images
    chosen = []
    for draw in (layouts.ilsvrc2012_archives, layouts.ilsvrc2012_unpacked, layouts.kaggle, layouts.image_folder,
                 layouts.parquet, layouts.fall2011, shards, lists):  # fmt: skip
        src = tmp_path / draw.__name__
        draw(src, train, val)
        for path in (*src.rglob("val"), *src.rglob("*val.tar"), *src.rglob("*validation-*"), *src.rglob("val.csv")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if draw is layouts.image_folder:
            layouts.image_folder(src / "moved", {}, val)
            (src / "moved/val").rename(src / "test")
            (src / "moved").rmdir()
        with pytest.raises(RequestError, match=r"val_from_train=0\.1 would take a tenth of train for it") as caught:
            find_source(src)
        assert "\n" not in str(caught.value)
        source = find_source(src, needs_val=False)
        splits = split_train(source, prepare_config(src, tmp_path / "out", val_from_train=0.2))
        assert ("test" in splits) == (draw is layouts.image_folder)
        chosen.append([(image.wnid, image.read(1 << 20)) for image in splits["val"]])
    assert len(chosen[0]) == 12
    assert all(others == chosen[0] for others in chosen)
