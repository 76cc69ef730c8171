"""Sources that are refused: exit code 2's one line names the cause and the remedy, and nothing is written."""

import io
import re
import shutil
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import layouts
import pytest
from conftest import prepare_config
from layouts import Images, of_class, tar_of, write

from data_prep.common.errors import RequestError
from data_prep.prepare import prepare
from data_prep.sources.inventory import refuse_missing_parts

Draw = Callable[[Path, Images, Images], None]


def numbered_val(src: Path, train: Images, val: Images) -> None:
    wnids = sorted(of_class(train))
    layouts.image_folder(src, train, {name: (str(wnids.index(wnid)), data) for name, (wnid, data) in val.items()})


def val_in_capitals(src: Path, train: Images, val: Images) -> None:
    layouts.image_folder(src, train, {name: (wnid.upper(), data) for name, (wnid, data) in val.items()})


def val_of_other_classes(src: Path, train: Images, val: Images) -> None:
    layouts.image_folder(src, train, {name: (f"x{wnid}", data) for name, (wnid, data) in val.items()})


def val_not_sorted(src: Path, train: Images, val: Images) -> None:
    layouts.image_folder(src, train, {})
    for name, (_, data) in val.items():
        write(src / "val" / name.replace("ILSVRC2012_", ""), data)


def two_spellings(src: Path, train: Images, val: Images) -> None:
    layouts.image_folder(src, train, val)
    layouts.image_folder(src / "x", {}, val)
    (src / "x/val").rename(src / "validation")


def half_unpacked_class(src: Path, train: Images, val: Images) -> None:
    layouts.image_folder(src, train, val)
    wnid, files = next(iter(of_class(train).items()))
    write(src / "train" / f"{wnid}.tar", tar_of(files))
    (src / "train" / wnid / next(iter(files))).unlink()


def class_twice(again: str) -> Draw:
    """A second download of a class, or a second name for it."""

    def draw(src: Path, train: Images, val: Images) -> None:
        layouts.image_folder(src, train, val)
        wnid, files = next(iter(of_class(train).items()))
        if again == "link":
            (src / "train/n99999999").symlink_to(wnid)
        elif again == "tar":
            shutil.rmtree(src / "train")
            for name in (wnid, f"{wnid}(1)"):
                write(src / "train" / f"{name}.tar", tar_of(files))
        else:
            layouts.image_folder(src, {name: (f"{wnid} (1)", data) for name, data in files.items()}, {})

    draw.__name__ = f"class_twice_{again}"
    return draw


def dead(name: str) -> Draw:
    def draw(src: Path, train: Images, val: Images) -> None:
        """Of a class, of its archive, of one of several folders: what a disk holds that is not there."""
        layouts.image_folder(src, train, val)
        (src / name).symlink_to("/elsewhere/x")

    draw.__name__ = f"dead_{Path(name).name}"
    return draw


def val_beside_classes(src: Path, train: Images, val: Images) -> None:
    layouts.image_folder(src, train, val)
    for path in (src / "train").iterdir():
        path.rename(src / path.name)
    (src / "train").rmdir()


def flat_train(packed: bool) -> Draw:
    """Beside labels of val, which say what the layout is."""

    def draw(src: Path, train: Images, val: Images) -> None:
        files = {name: data for name, (_, data) in train.items()}
        if packed:
            layouts.ilsvrc2012_archives(src, train, val)
            write(src / "ILSVRC2012_img_train.tar", tar_of(files))
            return
        layouts.kaggle(src, {}, val)
        for name, data in files.items():
            write(src / "ILSVRC/Data/CLS-LOC/train" / name, data)

    draw.__name__ = f"flat_train_{'packed' if packed else 'in_a_folder'}"
    return draw


def half_sorted_val(src: Path, train: Images, val: Images) -> None:
    layouts.ilsvrc2012_unpacked(src, train, val)
    for name, (wnid, _) in list(val.items())[:12]:
        (src / "val" / wnid).mkdir(exist_ok=True)
        (src / "val" / name).rename(src / "val" / wnid / name)


def hole(start: int) -> Draw:
    def draw(src: Path, train: Images, val: Images) -> None:
        """Zeros instead of a header of the outer tar, from `start` bytes before the second class; the size is right."""
        layouts.ilsvrc2012_archives(src, train, val)
        path = src / "ILSVRC2012_img_train.tar"
        with tarfile.open(path) as tar:
            place = tar.getmembers()[1].offset - start
        data = path.read_bytes()
        path.write_bytes(data[:place] + bytes(4096) + data[place + 4096 :])

    draw.__name__ = f"hole_{start}"
    return draw


def hole_to_the_end(src: Path, train: Images, val: Images) -> None:
    """As torrents leave what they have not got yet."""
    layouts.ilsvrc2012_archives(src, train, val)
    path = src / "ILSVRC2012_img_val.tar"
    with tarfile.open(path) as tar:
        place = tar.getmembers()[9].offset
    path.write_bytes(path.read_bytes()[:place] + bytes(2 << 20))


def hole_in_a_class(src: Path, train: Images, val: Images) -> None:
    """Within one of the inner tars."""
    inner = {f"{wnid}.tar": tar_of(files) for wnid, files in of_class(train).items()}
    name = sorted(inner)[4]
    with tarfile.open(fileobj=io.BytesIO(inner[name])) as tar:
        place = tar.getmembers()[2].offset
    inner[name] = inner[name][:place] + bytes(1024) + inner[name][place + 1024 :]
    layouts.ilsvrc2012_archives(src, train, val)
    write(src / "ILSVRC2012_img_train.tar", tar_of(inner))


def part_missing(src: Path, train: Images, val: Images) -> None:
    layouts.parquet(src, train, val)
    (src / "data/train-00001-of-00002.parquet").unlink()


def shard_missing(src: Path, train: Images, val: Images) -> None:
    for split, number in (("train", 0), ("train", 2), ("val", 0)):
        write(src / f"x-{split}-{number:04d}.tar", tar_of({"a.jpg": b"", "a.cls": b"0"}))


def parquet_twice(src: Path, train: Images, val: Images) -> None:
    layouts.parquet(src, train, val)
    layouts.write_parquet(src / "train-00000-of-00001.parquet", [(b"", None, 0)], None, 1)


def hole_at_the_end(src: Path, train: Images, val: Images) -> None:
    """Zeros for the last members of a class, shorter than the padding that some tars have."""
    layouts.image_folder(src, train, val)
    files = tar_of({f"{i}.JPEG": bytes(20_000) for i in range(5)})
    write(src / "train/n99999999.tar", files[:50_000] + bytes(len(files) - 50_000))


def cut_between_members(src: Path, train: Images, val: Images) -> None:
    layouts.ilsvrc2012_archives(src, train, val)
    path = src / "ILSVRC2012_img_train.tar"
    with tarfile.open(path) as tar:
        place = tar.getmembers()[3].offset
    path.write_bytes(path.read_bytes()[:place])


def two_images_of_a_key(src: Path, train: Images, val: Images) -> None:
    write(src / "train-0.tar", tar_of({"a.jpg": b"x", "a.mask.png": b"x", "a.cls": b"0"}))


def two_copies(src: Path, train: Images, val: Images) -> None:
    """The devkit says 6 or 7 images of a class."""
    layouts.ilsvrc2012_unpacked(src, train, val)
    for name, (wnid, data) in train.items():
        write(src / "train" / wnid / f"copy_{name}", data)


def class_of_no_devkit(src: Path, train: Images, val: Images) -> None:
    layouts.ilsvrc2012_unpacked(src, train, val)
    write(src / "train/examples/a.JPEG", next(iter(train.values()))[1])


def shard_without_labels(src: Path, train: Images, val: Images) -> None:
    files = {name: data for name, (_, data) in train.items()}
    write(src / "train-0000.tar", tar_of({"a.jpg": b"", "a.cls": b"0", **files}))


def list_without_classes(src: Path, train: Images, val: Images) -> None:
    write(src / "train.txt", b"a.JPEG 0\nb.JPEG\n")


def list_with_lines_twice(src: Path, train: Images, val: Images) -> None:
    write(src / "train.txt", b"a.JPEG 0\nb.JPEG 1\na.JPEG 1\n")


def list_with_a_heading_inside(src: Path, train: Images, val: Images) -> None:
    """Two lists, one behind the other."""
    write(src / "train.csv", b"image,label\na.JPEG,0\nimage,label\nb.JPEG,1\n")
    write(src / "a.JPEG", next(iter(train.values()))[1])


def nothing_but_val(src: Path, train: Images, val: Images) -> None:
    layouts.image_folder(src, {}, val)


def classes_without_train(src: Path, train: Images, val: Images) -> None:
    for name, (wnid, data) in train.items():
        write(src / f"class {wnid}" / name, data)


def a_zip(src: Path, train: Images, val: Images) -> None:
    write(src / "imagenet-object-localization-challenge.zip", b"PK")


def tars_of_no_layout(src: Path, train: Images, val: Images) -> None:
    write(src / "part-0.tar", tar_of({"a.jpg": b""}))


REFUSED: dict[Draw, str] = {
    numbered_val: r"val has 0, 1 and 8 more, train has n\d+, n\d+ and 8 more; numbers do not say which classes",
    val_in_capitals: r"val has N\d+, N\d+ and 8 more, train has n.* differ in capital letters only: name the folders",
    val_of_other_classes: r"val has xn\d+, xn\d+ and 8 more, train has n\d+, n\d+ and 8 more; name the folders of val",
    val_not_sorted: r"val: 30 images that are not sorted by class, .* put the devkit .* or Kaggle's LOC_val_sol",
    two_spellings: r"val/ and validation/ could both be val; move one of them away",
    half_unpacked_class: r"\.tar: has 6 images, and the folder n\d+/ beside it 5; it was not unpacked to its end",
    class_twice("folder"): r"/n(\d+) \(1\)/.*: of class n\1 \(1\); is that n\1 once more\? Take it away, or rename it",
    class_twice("tar"): r"/n(\d+)\(1\)\.tar: of class n\1\(1\); is that n\1 once more\? Take it away, or rename it",
    class_twice("link"): r"train/n99999999: a link to what n\d+ is; one cannot be two classes: take the link away",
    dead("train/n99999999"): r"train/n99999999: a link to /elsewhere/x, which is not there; bring that back, or",
    dead("val/n99999999.tar"): r"val/n99999999\.tar: a link to /elsewhere/x, which is not there",
    dead("train.X2"): r"src/train\.X2: a link to /elsewhere/x, which is not there",
    val_beside_classes: r"val/n.*: is in no class n<number>, as others here are; move those into .*train, or this away",
    half_sorted_val: r"val: 18 images lie outside the folders of the classes \(.*\), 12 inside; a sorting that was not",
    flat_train(
        packed=False
    ): r"60 train images lie in no folder or archive of a class, which would be their label; sort",
    flat_train(
        packed=True
    ): r"60 train images lie in no folder or archive of a class, which would be their label; sort",
    hole(0): r"img_train\.tar: its list of members ends [\d,]+ bytes before it does: a hole",
    hole(1024): r"img_train\.tar: its list of members ends [\d,]+ bytes before it does: a hole",
    hole_to_the_end: r"img_val\.tar: its list of members ends 2,097,152 bytes before it does: a hole",
    hole_in_a_class: r"img_train\.tar, n\d+\.tar: its list of members ends [\d,]+ bytes before it does",
    part_missing: r"data/train-00001-of-00002\.parquet is missing: of 2 parts 1 are there; download the rest",
    shard_missing: r"x-train-0001\.tar is missing: of 3 parts 2 are there; download the rest, or rename without gaps",
    parquet_twice: r"train-00000-of-00001\.parquet and \S+/data/train-\S+ are of one split, in two folders; move one",
    hole_at_the_end: r"n99999999\.tar: its list of members ends [\d,]+ bytes before it does: a hole",
    cut_between_members: r"img_train\.tar: lacks the zeros that end a tar: it was cut off between two members",
    two_images_of_a_key: r"train-0\.tar: a\.jpg and a\.mask\.png are images of one key",
    two_copies: r"12 train images of n\d+, and a complete copy has [67]; two copies in one folder\?",
    class_of_no_devkit: r"examples in train, not among the 10 classes of a complete copy; move away what does not bel",
    shard_without_labels: r"train-0000\.tar: n\d+_0\.JPEG has no label, n\d+_0\.cls, beside it",
    list_without_classes: r"train\.txt: line 2 is 'b\.JPEG', not a path and a class",
    list_with_lines_twice: r"train\.txt: 1 of 3 lines name a file that an earlier line names, a\.JPEG first; take",
    list_with_a_heading_inside: r"train\.csv: \S+/b\.JPEG is not there, nor is any other image of its class; paths",
    nothing_but_val: r"found val, but no layout known here: for train/<class>/ and val/<class>/, train/ is missing",
    classes_without_train: r"train/ is missing; if class n\d+/ and class n\d+/ are classes, move them into it",
    a_zip: r"imagenet-object-localization-challenge\.zip is not read in place; unpack it",
    tars_of_no_layout: r"names of WebDataset's shards must say train or val",
}


@pytest.mark.parametrize("draw", REFUSED, ids=lambda draw: draw.__name__)
def test_refused_in_one_line(draw: Draw, images: tuple[Images, Images], tmp_path: Path) -> None:
    draw(tmp_path / "src", *images)
    with pytest.raises(RequestError, match=REFUSED[draw]) as caught:
        prepare(prepare_config(tmp_path / "src", tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_same_image_twice_is_said(
    images: tuple[Images, Images], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of a class copied into itself: nothing forbids it, and the labels are right."""
    train, val = images
    layouts.image_folder(tmp_path / "src", train, val)
    for name, (wnid, data) in list(train.items())[:3]:
        write(tmp_path / "src/train" / wnid / "copy" / name, data)
    prepare(prepare_config(tmp_path / "src", tmp_path / "out"))
    said = capsys.readouterr().out
    assert "warning: 3 train images have the name and the size of another of their class" in said


def test_padding_of_any_block_is_no_hole(images: tuple[Images, Images], tmp_path: Path) -> None:
    """`tar -b 512` pads to 256 KiB, some programs not at all; of tars within a tar as well."""
    layouts.ilsvrc2012_archives(tmp_path / "src", *images)
    train = tmp_path / "src/ILSVRC2012_img_train.tar"
    with tarfile.open(train) as tar:
        inside = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    train.write_bytes(layouts.tar_of({name: data + bytes(-len(data) % (256 << 10)) for name, data in inside.items()}))
    for split, record in (("val", 256 << 10), ("train", 512)):
        path = tmp_path / f"src/ILSVRC2012_img_{split}.tar"
        with tarfile.open(path) as tar:
            tar.getmembers()
            end = tar.offset + 1024
        path.write_bytes(path.read_bytes()[:end] + bytes(-end % record))
    prepare(prepare_config(tmp_path / "src", tmp_path / "out"))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("t-000010.tar t-000011.tar", ""),
        ("t-000010.tar t-000012.tar", "t-000011.tar is missing: of 3 parts 2 are there"),
        ("t1.tar t2.tar t5.tar", "t3.tar, and 1 more, is missing: of 5 parts 3"),
        ("t64.tar t128.tar t2012.tar", ""),  # these do not count
        ("t-00000-of-00002-0123456789abcdef.x t-00001-of-00002-fedcba9876543210.x", ""),
        ("t-00000-of-00001.x t-00000-of-00001-fedcba9876543210.x", "are the same part"),
        ("t-1 (1).tar t-0.tar", ""),
        ("t-1 (1).tar t-1.tar", r"t-1 \(1\).tar and t-1.tar are the same part; move one"),
        (
            "t-00000-of-00001.x t-00000-of-00002.x t-00001-of-00002.x",
            "t-00000-of-00001.x and t-00000-of-00002.x are of two sets",
        ),
        ("0-of-99999999999999.x", "/1-of-99999999999999.x, and 99,999,999,999,997 more, is missing"),
    ],
)
def test_which_numbers_have_a_gap(names: str, said: str) -> None:
    paths = [Path("/src", name) for name in re.findall(r"\S+(?: \(1\)\S+)?", names)]
    with pytest.raises(RequestError, match=said) if said else nullcontext():
        refuse_missing_parts(paths)
