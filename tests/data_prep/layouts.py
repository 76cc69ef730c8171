"""The same images in every layout that people have, each written by hand as the layout is documented."""

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from conftest import Images
from PIL import Image

WORDS = {"n03530642": "honeycomb"}


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def encoded(pixels: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def of_class(images: Images) -> dict[str, dict[str, bytes]]:
    classes: dict[str, dict[str, bytes]] = {}
    for name, (wnid, data) in images.items():
        classes.setdefault(wnid, {})[name] = data
    return classes


def meta_mat(train: Images, year: int) -> bytes:
    """Ids against the order of the wnids, as in the real one; and a node that is no leaf. Never fewer images than here
    are.
    """
    counts = Counter(wnid for wnid, _ in train.values())
    wnids = sorted(counts)
    fields = [f"ILSVRC{year}_ID", "WNID", "words", "num_children", "num_train_images"]
    rows = [
        (len(wnids) - i, wnid, WORDS.get(wnid, "some words"), 0, max(6 + i % 2, counts[wnid]))
        for i, wnid in enumerate(wnids)
    ]
    rows.append((len(wnids) + 1, "n00001740", "entity", len(wnids), 0))
    synsets = np.array([row for row in rows], dtype=[(field, object) for field in fields])
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets.reshape(-1, 1)})
    return buffer.getvalue()


def truth(images: Images, wnids: list[str]) -> bytes:
    """Line i is the id of image i."""
    return "".join(f"{len(wnids) - wnids.index(images[name][0])}\n" for name in sorted(images)).encode()


def devkit(train: Images, val: Images, year: int, root: str) -> dict[str, bytes]:
    wnids = sorted({wnid for wnid, _ in train.values()})
    return {
        f"{root}/data/meta.mat": meta_mat(train, year),
        f"{root}/data/ILSVRC{year}_validation_ground_truth.txt": truth(val, wnids),
    }


def ilsvrc2012_archives(folder: Path, train: Images, val: Images) -> None:
    inner = {f"{wnid}.tar": tar_of(files) for wnid, files in of_class(train).items()}
    write(folder / "ILSVRC2012_img_train.tar", tar_of(inner))
    write(folder / "ILSVRC2012_img_val.tar", tar_of({name: data for name, (_, data) in reversed(val.items())}))
    kit = tar_of(devkit(train, val, 2012, "ILSVRC2012_devkit_t12"))
    write(folder / "ILSVRC2012_devkit_t12.tar.gz", gzip.compress(kit))


def ilsvrc2012_unpacked(folder: Path, train: Images, val: Images) -> None:
    for name, (wnid, data) in train.items():
        write(folder / "train" / wnid / name, data)
    for name, (_, data) in val.items():
        write(folder / "val" / name, data)
    for name, data in devkit(train, val, 2012, "ILSVRC2012_devkit_t12").items():
        write(folder / name, data)


def ilsvrc2012_half_unpacked(folder: Path, train: Images, val: Images) -> None:
    """One level of the train archive; val sorted by class, so that no devkit is needed."""
    for wnid, files in of_class(train).items():
        write(folder / "ILSVRC2012_img_train" / f"{wnid}.tar", tar_of(files))
    for name, (wnid, data) in val.items():
        write(folder / "val" / wnid / name, data)


def ilsvrc2010_archives(folder: Path, train: Images, val: Images) -> None:
    """A few members compressed, two images blank and replaced by patch_images.tar, a test split."""
    val2010 = {name.replace("2012", "2010"): image for name, image in val.items()}
    test = {name.replace("val", "test"): image for name, image in val2010.items()}
    blank_train, blank_val = sorted(train)[5], sorted(val2010)[2]
    inner = {}
    for wnid, files in of_class(train).items():
        names = sorted(files)
        packed = {names[0]: gzip.compress(files[names[0]]), **{name: files[name] for name in names[1:]}}
        inner[f"{wnid}.tar"] = tar_of({**packed, **({blank_train: b"blank"} if blank_train in packed else {})})
    write(folder / "ILSVRC2010_images_train.tar", tar_of(inner))
    for split, images in (("val", val2010), ("test", test)):
        files = {f"{split}/{name}": b"blank" if name == blank_val else data for name, (_, data) in images.items()}
        write(folder / f"ILSVRC2010_images_{split}.tar", tar_of(files))
    patches = {f"patch_images/train/{blank_train}": train[blank_train][1]}
    patches[f"patch_images/val/{blank_val}"] = val2010[blank_val][1]
    write(folder / "patch_images.tar", tar_of(patches))
    write(folder / "ILSVRC2010_devkit-1.0.tar.gz", gzip.compress(tar_of(devkit(train, val2010, 2010, "devkit-1.0"))))
    write(folder / "ILSVRC2010_test_ground_truth.txt", truth(test, sorted({wnid for wnid, _ in train.values()})))


def kaggle(folder: Path, train: Images, val: Images) -> None:
    images = folder / "ILSVRC" / "Data" / "CLS-LOC"
    for name, (wnid, data) in train.items():
        write(images / "train" / wnid / name, data)
    for name, (_, data) in val.items():
        write(images / "val" / name, data)
    write(images / "test" / "ILSVRC2012_test_00000001.JPEG", b"without a label")
    with (folder / "LOC_val_solution.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "PredictionString"])
        rows.writerows([Path(name).stem, f"{wnid} 1 2 3 4 {wnid} 5 6 7 8 "] for name, (wnid, _) in val.items())
    wnids = sorted({wnid for wnid, _ in train.values()})
    write(folder / "LOC_synset_mapping.txt", "".join(f"{w} {WORDS.get(w, 'some words')}\n" for w in wnids).encode())


def image_folder(folder: Path, train: Images, val: Images) -> None:
    for split, images in (("train", train), ("val", val)):
        for name, (wnid, data) in images.items():
            write(folder / split / wnid / name, data)


def tiny_imagenet_files(train: Images, val: Images) -> dict[str, bytes]:
    """The tree of tiny-imagenet-200: lists with tabs, classes in no order, words of more than these classes; boxes
    beside the training images; a test split without labels.
    """
    wnids = sorted({wnid for wnid, _ in train.values()}, reverse=True)
    files = {f"train/{wnid}/images/{name}": data for name, (wnid, data) in train.items()}
    files |= {f"train/{wnid}/{wnid}_boxes.txt": b"x.JPEG\t0\t0\t9\t9\n" for wnid in wnids}
    files |= {f"val/images/{name}": data for name, (_, data) in val.items()}
    lines = [f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, (wnid, _) in val.items()]
    files["val/val_annotations.txt"] = "".join(lines).encode()
    files["wnids.txt"] = "\n".join(wnids).encode()
    words = {"n00001740": "entity", **{wnid: WORDS.get(wnid, "some words") for wnid in wnids}}
    files["words.txt"] = "".join(f"{wnid}\t{text}\n" for wnid, text in words.items()).encode()
    return {**files, "test/images/test_0.JPEG": b"without a label"}


def tiny_imagenet_unpacked(folder: Path, train: Images, val: Images) -> None:
    for name, data in tiny_imagenet_files(train, val).items():
        write(folder / "tiny-imagenet-200" / name, data)


def tiny_imagenet_zip(folder: Path, train: Images, val: Images) -> None:
    """Every third member as it is, as images mostly are, the others deflated; and what macOS adds."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip", "w") as archive:
        archive.writestr("tiny-imagenet-200/train/", b"")
        for number, (name, data) in enumerate(tiny_imagenet_files(train, val).items()):
            kind = zipfile.ZIP_STORED if number % 3 == 0 else zipfile.ZIP_DEFLATED
            archive.writestr(f"tiny-imagenet-200/{name}", data, kind)
        archive.writestr("__MACOSX/tiny-imagenet-200/val/images/._val_0.JPEG", b"\0\5\x16\7")
        archive.writestr("tiny-imagenet-200/val/images/._val_0.JPEG", b"\0\5\x16\7")


def fall2011(folder: Path, train: Images, val: Images) -> None:
    inner = {f"{wnid}.tar": tar_of(files) for wnid, files in of_class(train).items()}
    write(folder / "fall11_whole.tar", tar_of(inner))


def fall2011_unpacked(folder: Path, train: Images, val: Images) -> None:
    for wnid, files in of_class(train).items():
        write(folder / f"{wnid}.tar", tar_of(files))


def parquet(folder: Path, train: Images, val: Images) -> None:
    """As imagenet-1k: the class behind each name, val's too, the classes' words in the metadata, test without labels.

    The rows are in no order, and groups of them end within and at the end of files.
    """
    wnids = sorted({wnid for wnid, _ in train.values()})
    words = [WORDS.get(wnid, "some words") for wnid in wnids]

    def rows(images: Images) -> list[ParquetRow]:
        return [(data, f"{Path(name).stem}_{wnid}.JPEG", wnids.index(wnid)) for name, (wnid, data) in images.items()]

    shuffled = rows(train)
    np.random.default_rng(1).shuffle(shuffled)  # type: ignore[arg-type]
    half = len(shuffled) // 2
    data = folder / "data"
    write_parquet(data / "train-00000-of-00002.parquet", shuffled[:half], words, row_group_size=7)
    write_parquet(data / "train-00001-of-00002.parquet", shuffled[half:], words, row_group_size=15)
    write_parquet(data / "validation-00000-of-00001.parquet", rows(val)[::-1], words, row_group_size=1000)
    write_parquet(data / "test-00000-of-00001.parquet", [(b"x", "ILSVRC2012_test_00000001.JPEG", -1)], words, 1)


def parquet_of_folders(folder: Path, train: Images, val: Images) -> None:
    """As `datasets` makes them of folders: the classes' names are the folders'. In one folder a split, as converted."""
    wnids = sorted({wnid for wnid, _ in train.values()})
    for split, images in (("train", train), ("validation", val)):
        rows = [(data, name, wnids.index(wnid)) for name, (wnid, data) in images.items()]
        write_parquet(folder / "default" / split / "0000.parquet", rows, wnids, row_group_size=16)


ParquetRow = tuple[bytes | None, str | None, int | str]


def write_parquet(path: Path, rows: list[ParquetRow], names: list[str] | None, row_group_size: int) -> None:
    import pyarrow
    import pyarrow.parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("label", pyarrow.array([rows[0][2]]).type)])
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    images = [{"bytes": data, "path": name} for data, name, _ in rows]
    table = pyarrow.table({"image": images, "label": [label for *_, label in rows]}, schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Pages of 1 MB, as documented; by itself pyarrow looks at their size only every 1024 rows, whatever those hold.
    pyarrow.parquet.write_table(table, path, row_group_size=row_group_size, write_batch_size=16)


LAYOUTS: dict[str, Callable[[Path, Images, Images], None]] = {
    layout.__name__: layout
    for layout in (
        ilsvrc2012_archives, ilsvrc2012_unpacked, ilsvrc2012_half_unpacked, ilsvrc2010_archives, kaggle, image_folder,
        parquet, parquet_of_folders, fall2011, fall2011_unpacked, tiny_imagenet_unpacked, tiny_imagenet_zip,
    )
}  # fmt: skip
