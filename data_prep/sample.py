"""python -m data_prep.sample DIR [--train N] [--val N]: the embedded sample, as official ILSVRC-2012 archives.

The images are drawn (sample_images.py), so that nothing needs to be downloaded; the archives have the official names
and layout, so that the sample goes through the code that real ImageNet goes through. Among them, as in ImageNet, are
greyscale and CMYK JPEGs and PNGs named .JPEG.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import sys
import tarfile
from pathlib import Path

import numpy as np
import scipy.io

from data_prep import sample_images
from data_prep.common.endings import run_and_exit
from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically
from data_prep.common.progress import progress_bar
from data_prep.sample_images import CLASSES
from data_prep.sources.ilsvrc import ILSVRC2012

# (ILSVRC2012_ID in this devkit, name) by wnid. As in the real devkit, ids are not in the order of the wnids.
SYNSETS = {
    "n02129604": (1, "tiger, Panthera tigris"),
    "n02391049": (2, "zebra"),
    "n02128385": (3, "leopard, Panthera pardus"),
    "n07753592": (4, "banana"),
    "n07742313": (5, "Granny Smith"),
    "n11939491": (6, "daisy"),
    "n07747607": (7, "orange"),
    "n03530642": (8, "honeycomb"),
    "n06874185": (9, "traffic light, traffic signal, stoplight"),
    "n07749582": (10, "lemon"),
}
ROOT_SYNSET = (11, "n00001740", "entity")
SEED = 2012
TRAIN, VAL, DEVKIT = *ILSVRC2012.archives.values(), ILSVRC2012.devkits[0]
_STAMP = "sample.json"  # what the archives were drawn from

_Drawn = tuple[str, tuple[int, ...]]  # the arguments of image_file


def image_file(wnid: str, seed: tuple[int, ...]) -> bytes:
    """The bytes of one image file; a function of the class and the seed."""
    rng = np.random.default_rng([SEED, *seed])
    side, aspect = rng.integers(200, 360), rng.uniform(1, 1.6)
    width, height = (round(side * aspect), side) if rng.random() < 0.7 else (side, round(side * aspect))
    image = sample_images.draw(wnid, rng, int(width), int(height))
    kind = rng.random()
    buffer = io.BytesIO()
    if kind < 0.02:
        image.save(buffer, "PNG")
    else:
        mode = "L" if kind < 0.04 else "CMYK" if kind < 0.05 else "RGB"
        image.convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_sample(folder: Path, train_per_class: int, val_per_class: int) -> None:
    """Writes the three archives into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    wnids = sorted(CLASSES)
    train: list[_Drawn] = [(wnid, (0, number, i)) for number, wnid in enumerate(wnids) for i in range(train_per_class)]
    order = np.random.default_rng(SEED).permutation(val_per_class * len(wnids))
    val: list[_Drawn] = [(wnids[chosen % len(wnids)], (1, int(chosen))) for chosen in order]
    with multiprocessing.get_context("spawn").Pool() as pool:
        drawn = pool.imap(_drawn, train + val, chunksize=16)
        files = []
        with progress_bar(len(train) + len(val), "draw") as bar:
            for data in drawn:
                files.append(data)
                bar.update()
    inner: dict[str, list[tuple[str, bytes]]] = {wnid: [] for wnid in wnids}
    for (wnid, seed), data in zip(train, files, strict=False):
        inner[wnid].append((f"{wnid}_{seed[-1]}.JPEG", data))
    outer = [(f"{wnid}.tar", _tar(members)) for wnid, members in inner.items()]
    flat = [(f"ILSVRC2012_val_{i:08d}.JPEG", data) for i, data in enumerate(files[len(train) :], start=1)]
    truth = "".join(f"{SYNSETS[wnid][0]}\n" for wnid, _ in val)
    (folder / _STAMP).unlink(missing_ok=True)  # until all three are there again
    write_atomically(folder / TRAIN, lambda file: file.write(_tar(outer)))
    write_atomically(folder / VAL, lambda file: file.write(_tar(flat)))
    write_atomically(folder / DEVKIT, lambda file: file.write(_devkit(truth.encode())))
    write_atomically(folder / _STAMP, lambda file: file.write(_stamp(train_per_class, val_per_class)))


def _stamp(train_per_class: int, val_per_class: int) -> bytes:
    files = (Path(sample_images.__file__), Path(__file__))
    program = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return json.dumps({"train": train_per_class, "val": val_per_class, "drawing": program}).encode()


def _drawn(arguments: _Drawn) -> bytes:
    return image_file(*arguments)


def _devkit(ground_truth: bytes) -> bytes:
    fields = [
        "ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images",
    ]  # fmt: skip
    rows = [(i, wnid, name, "", 0, np.empty(0), 0, 0) for wnid, (i, name) in SYNSETS.items()]
    children = np.array([i for i, _ in SYNSETS.values()], dtype=float)
    rows.append((*ROOT_SYNSET, "", len(SYNSETS), children, 1, 0))
    synsets = np.array(rows, dtype=[(field, object) for field in fields])
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets.reshape(-1, 1)})
    data = "ILSVRC2012_devkit_t12/data"
    return _tar(
        [(f"{data}/meta.mat", meta.getvalue()), (f"{data}/ILSVRC2012_validation_ground_truth.txt", ground_truth)],
        mode="w:gz",
    )


def _tar(files: list[tuple[str, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m data_prep.sample", description="Draws the embedded sample.")
    parser.add_argument("folder", type=Path, help="where the archives go")
    parser.add_argument("--train", type=int, default=120, help="training images a class (default %(default)s)")
    parser.add_argument("--val", type=int, default=30, help="validation images a class (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.train < 1 or options.val < 1:
        raise RequestError("--train and --val must be 1 or more")
    stamp = options.folder / _STAMP  # written last
    whole = all((options.folder / name).is_file() for name in (TRAIN, VAL, DEVKIT, _STAMP))
    if whole and stamp.read_bytes() == _stamp(options.train, options.val):
        return print(f"{options.folder}: the sample is there already")
    try:
        write_sample(options.folder, options.train, options.val)
    except OSError as error:
        raise RequestError(f"{options.folder}: {error.strerror or error}") from None
    counts = f"{options.train} training and {options.val} validation images"
    print(f"{options.folder}: {counts} of each of {len(CLASSES)} classes")


if __name__ == "__main__":
    run_and_exit(lambda: main(sys.argv[1:]))
