"""python -m data_prep.prepare src=DIR out=DIR [image_size=256] [encoding=jpeg|raw] [workers=N]

Shards are planned first and then made in any order by any number of processes, each as soon as it is complete being
recorded in OUT/.unfinished; a preparation that was stopped goes on with the shards that have no record.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from tqdm import tqdm

from data_prep.command import RequestError, RunError, main
from data_prep.format import (
    INDEX,
    MANIFEST,
    MEAN,
    PREPARE_AGAIN,
    ClassInfo,
    Manifest,
    Rejected,
    SplitInfo,
    exclusive,
    shard_name,
    write_atomically,
)
from data_prep.preview import PICTURES, as_picture, contact_sheet
from data_prep.reader import SplitReader
from data_prep.sources import LAYOUTS, Source, SourceImage, find_source
from data_prep.sources.checks import check_md5, say_what_was_understood
from data_prep.statistics import ImageSums
from data_prep.work import ShardRecord, ShardTask, run_tasks

UNFINISHED = ".unfinished"
PREVIEW, MEAN_PICTURE = "preview.png", "mean.png"


@dataclass
class PrepareConfig:
    src: str
    out: str
    layout: str | None
    image_size: int
    encoding: str
    jpeg_quality: int
    images_per_shard: int
    shuffle_seed: int
    max_rejected: float
    workers: int | None
    md5: bool

    def __post_init__(self) -> None:
        def require(condition: bool, key: str, constraint: str) -> None:
            if not condition:
                raise RequestError(f"{key}={getattr(self, key)}: must be {constraint}")

        require(self.layout is None or self.layout in LAYOUTS, "layout", "one of " + ", ".join(LAYOUTS) + ", or null")
        require(1 <= self.image_size <= 4096, "image_size", "1 to 4096")
        require(self.encoding in ("jpeg", "raw"), "encoding", "jpeg or raw")
        require(1 <= self.jpeg_quality <= 100, "jpeg_quality", "1 to 100")
        require(1 <= self.images_per_shard <= 8192, "images_per_shard", "1 to 8192")
        require(self.shuffle_seed >= 0, "shuffle_seed", "0 or more")
        require(0 <= self.max_rejected <= 1, "max_rejected", "a fraction, 0 to 1")
        require(self.workers is None or self.workers >= 1, "workers", "1 or more, or null")

    def pixels_follow_from(self) -> dict[str, Any]:
        keys = ("image_size", "encoding", "jpeg_quality", "images_per_shard", "shuffle_seed")
        return {key: getattr(self, key) for key in keys}


def prepare(config: PrepareConfig) -> None:
    started = time.monotonic()
    out = Path(config.out)
    source = find_source(Path(config.src), config.layout)
    wnids = sorted(source.words)
    images = _in_shard_order(source, set(wnids), config.shuffle_seed)
    say_what_was_understood(source, wnids, images)
    if config.md5:
        check_md5(source)
    plan = _fingerprint(config, images)
    if not _open(out, plan, config, images):
        print(f"{out}: already prepared, with these settings from these pictures; nothing to do")
        return
    with exclusive(out / UNFINISHED / "lock", f"out={out}"):
        manifest = _make(config, out, source, wnids, images, plan)
    shutil.rmtree(out / UNFINISHED)
    _say_what_was_done(out, manifest, time.monotonic() - started)


def _make(
    config: PrepareConfig, out: Path, source: Source, wnids: list[str], images: dict[str, list[SourceImage]], plan: str
) -> Manifest:
    tasks = list(_tasks(config, out, images, wnids))
    unfinished = [task for task in tasks if not task.is_done()]
    if len(unfinished) < len(tasks):
        print(f"continuing: {len(tasks) - len(unfinished)} of {len(tasks)} shards are there already")
    done = sum(len(task.images) for task in tasks) - sum(len(task.images) for task in unfinished)
    workers = config.workers or os.cpu_count() or 1
    with tqdm(total=sum(map(len, images.values())), initial=done, unit=" images", desc="prepare") as bar:
        run_tasks(unfinished, workers, bar)
    return _finish(config, out, source, wnids, tasks, plan)


def _in_shard_order(source: Source, wnids: set[str], seed: int) -> dict[str, list[SourceImage]]:
    """The label space is the classes of the train split: pictures of others are left out. Train is shuffled once.

    Before that all are sorted by name, so that the order, too, is the same from every layout.
    """
    images = {}
    for split, listed in source.splits.items():
        kept = [image for image in listed if image.wnid in wnids]
        kept.sort(key=lambda image: (image.wnid * (split == "train"), _by_number(image), image.wnid))
        if len(kept) < len(listed):
            print(f"warning: {len(listed) - len(kept)} {split} pictures are of classes that train lacks: left out")
        if not kept:
            raise RequestError(f"src={source.path}: no {split} pictures of the classes that train has")
        images[split] = kept
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(images["train"]))
    images["train"] = [images["train"][i] for i in order]
    return images


def _by_number(image: SourceImage) -> str:
    """The file's name, to be sorted by with numbers as numbers. Where the picture lies is no part of it."""
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(20), Path(image.name).name)


def _fingerprint(config: PrepareConfig, images: dict[str, list[SourceImage]]) -> str:
    digest = hashlib.sha256(json.dumps(config.pixels_follow_from(), sort_keys=True).encode())
    for split, listed in images.items():
        for image in listed:
            digest.update(
                f"{split}\0{Path(image.name).name}\0{image.wnid}\0{image.size}\n".encode("utf-8", "surrogateescape")
            )
    return digest.hexdigest()


def _open(out: Path, plan: str, config: PrepareConfig, images: dict[str, list[SourceImage]]) -> bool:
    """Makes OUT ready for writing. False if this very data set is there already."""
    record = out / UNFINISHED / "plan.json"
    other = f"out={out}: holds a data set made from other pictures or with other settings; choose another folder"
    if (out / MANIFEST).is_file():
        manifest = Manifest.load(out)
        if manifest.preparation.get("plan") != plan:
            raise RequestError(other)
        _refuse_if_damaged(out, manifest)
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # left by a kill between the manifest and the cleaning up
        return False
    if record.is_file():
        if json.loads(record.read_text())["plan"] != plan:
            raise RequestError(other + f", or delete {out} and start again")
    elif out.exists() and not out.is_dir():
        raise RequestError(f"out={out}: is a file; give a folder")
    elif out.exists() and any(entry.name != UNFINISHED for entry in out.iterdir()):
        raise RequestError(f"out={out}: is not empty, and no preparation was begun there; choose another folder")
    _check_free_space(out, config, images)
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, lambda file: file.write(json.dumps({"plan": plan}).encode()))
        for split in images:  # after the record: until it is there, nothing else marks OUT as ours
            (out / split).mkdir(exist_ok=True)
    except OSError as error:
        raise RequestError(f"out={out}: cannot be written ({error.strerror})") from None
    return True


def _refuse_if_damaged(out: Path, manifest: Manifest) -> None:
    sizes = {out / split / shard.file: shard.bytes for split, info in manifest.splits.items() for shard in info.shards}
    whole = [out / MEAN, *(out / split / INDEX for split in manifest.splits)]
    missing = [path for path in (*sizes, *whole) if not path.is_file()]
    changed = [path for path, size in sizes.items() if path.is_file() and path.stat().st_size != size]
    if missing or changed:
        raise RequestError(f"{(missing + changed)[0]}: is missing or has changed; {PREPARE_AGAIN}")


def _check_free_space(out: Path, config: PrepareConfig, images: dict[str, list[SourceImage]]) -> None:
    pixels = config.image_size**2
    per_image = 3 * pixels if config.encoding == "raw" else 0.6 * pixels  # JPEG at quality 95: about 5 bits a pixel
    records = 12 * pixels * (len(images["train"]) // config.images_per_shard + 1)  # sums of each shard, until the end
    needed = sum(map(len, images.values())) * (per_image + 2048) + records
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free + sum(f.stat().st_size for f in out.glob("*/shard-*"))
    if needed > free:
        raise RequestError(f"out={out}: needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there")


def _tasks(config: PrepareConfig, out: Path, images: dict[str, list[SourceImage]], wnids: list[str]):  # type: ignore[no-untyped-def]
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    for split, listed in images.items():
        for number, first in enumerate(range(0, len(listed), config.images_per_shard)):
            chosen = listed[first : first + config.images_per_shard]
            yield ShardTask(
                split=split,
                number=number,
                first_key=first,
                images=chosen,
                labels=[label_of[image.wnid] for image in chosen],
                shard=out / split / shard_name(number),
                record=out / UNFINISHED / f"{split}-{number:05d}.npz",
                image_size=config.image_size,
                encoding=config.encoding,
                jpeg_quality=config.jpeg_quality,
            )


def _finish(
    config: PrepareConfig, out: Path, source: Source, wnids: list[str], tasks: list[ShardTask], plan: str
) -> Manifest:
    """Index, mean image, and last the manifest, from the records of the shards in their order."""
    sums = ImageSums.empty(config.image_size, 3)
    splits: dict[str, SplitInfo] = {}
    rejected: list[Rejected] = []
    for split in source.splits:
        records = [ShardRecord.load(task.record) for task in tasks if task.split == split]
        index = np.concatenate([record.index for record in records])
        write_atomically(out / split / INDEX, lambda file, index=index: np.save(file, index))  # type: ignore[misc]
        per_class = np.bincount(index["label"], minlength=len(wnids)).tolist()
        splits[split] = SplitInfo(len(index), per_class, [record.info for record in records])
        for record in records:
            rejected += [Rejected(split, name, reason) for name, reason in record.rejected]
            if split == "train":
                sums.merge(record.sums)
    _check_rejected(rejected, sum(len(task.images) for task in tasks), config.max_rejected)
    write_atomically(out / MEAN, lambda file: np.save(file, sums.mean_image().astype(np.float32)))
    manifest = Manifest(
        name=out.resolve().name,
        source=source.describe(),
        classes=[ClassInfo(wnid, source.words[wnid]) for wnid in wnids],
        image_size=config.image_size,
        channels=3,
        encoding=config.encoding,
        preparation={**config.pixels_follow_from(), "plan": plan, "pillow": PIL.__version__},
        statistics=sums.colour(),
        splits=splits,
        rejected=rejected,
    )
    _write_pictures(out, manifest, sums.mean_image())
    manifest.save(out)
    return manifest


def _write_pictures(out: Path, manifest: Manifest, mean: np.ndarray) -> None:
    train = SplitReader(out, manifest, "train")
    first = [train[i] for i in range(min(PICTURES, len(train)))]
    shown = [(pixels, manifest.classes[label].words) for pixels, label in first]
    write_atomically(out / PREVIEW, lambda file: contact_sheet(shown).save(file, "PNG"))
    write_atomically(out / MEAN_PICTURE, lambda file: as_picture(mean).save(file, "PNG"))


def _check_rejected(rejected: list[Rejected], images: int, share: float) -> None:
    if len(rejected) > share * images:
        reasons = Counter(f"{r.reason}" for r in rejected).most_common(1)[0][0]
        raise RunError(
            f"{len(rejected)} of {images} pictures cannot be read, more than max_rejected={share}; "
            f"the first is {rejected[0].name}, the most frequent reason: {reasons}. Mend the source, "
            "or start again with a higher max_rejected"
        )


def _say_what_was_done(out: Path, manifest: Manifest, seconds: float) -> None:
    for rejected in manifest.rejected[:10]:
        print(f"rejected: {rejected.split} {rejected.name}: {rejected.reason}")
    for split, info in manifest.splits.items():
        short = min(info.per_class)
        size = sum(shard.bytes for shard in info.shards) / 1e6
        print(f"{split}: {info.images:,} images, {short:,} to {max(info.per_class):,} a class, {size:,.1f} MB")
    mean = ", ".join(f"{value:.1f}" for value in manifest.statistics["rgb_mean"])
    print(f"mean RGB {mean}; {len(manifest.rejected)} rejected; {seconds:.0f} s")
    print(f"the data set is in {out}; look at {out / PREVIEW} and {out / MEAN_PICTURE}")


if __name__ == "__main__":
    main("prepare", PrepareConfig, prepare)
