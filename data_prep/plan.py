"""What a preparation will make: the settings, which images in which order, and whether OUT can take them."""

import hashlib
import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.common.errors import RequestError, require, require_one_of
from data_prep.common.files import write_atomically
from data_prep.common.text import few
from data_prep.format import INDEX, MANIFEST, MEAN, PREPARE_AGAIN, Manifest
from data_prep.sources import LAYOUTS, Listing, Source
from data_prep.sources.inventory import is_system

UNFINISHED = ".unfinished"
_RECORD = "plan.json"
_VERSION = 2  # of what .unfinished holds

# The settings without which the same source gives another data set.
_PIXEL_SETTINGS = (
    "image_size", "encoding", "jpeg_quality", "images_per_shard", "shuffle_seed", "classes", "val_from_train",
    "split_seed",
)  # fmt: skip

Splits = dict[str, Listing]


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
    classes: int | None
    val_from_train: float | None
    split_seed: int
    max_rejected: float
    workers: int | None
    in_source_order: bool | None
    md5: bool

    def __post_init__(self) -> None:
        layouts = ", ".join(LAYOUTS)
        require(self.layout is None or self.layout in LAYOUTS, "layout", self.layout, f"one of {layouts}, or null")
        require(1 <= self.image_size <= 4096, "image_size", self.image_size, "1 to 4096")
        require_one_of("encoding", self.encoding, ("jpeg", "raw"))
        require(1 <= self.jpeg_quality <= 100, "jpeg_quality", self.jpeg_quality, "1 to 100")
        require(1 <= self.images_per_shard <= 8192, "images_per_shard", self.images_per_shard, "1 to 8192")
        require(self.shuffle_seed >= 0, "shuffle_seed", self.shuffle_seed, "0 or more")
        require(self.classes is None or self.classes >= 1, "classes", self.classes, "1 or more, or null for all")
        share = self.val_from_train
        require(share is None or 0 < share < 1, "val_from_train", share, "a fraction between 0 and 1, or null")
        require(self.split_seed >= 0, "split_seed", self.split_seed, "0 or more")
        require(0 <= self.max_rejected <= 1, "max_rejected", self.max_rejected, "a fraction, 0 to 1")
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more, or null")

    def pixel_settings(self) -> dict[str, Any]:
        """The settings that the data set follows from, besides the source; those that are not in use are left out."""
        settings = {key: getattr(self, key) for key in _PIXEL_SETTINGS}
        if self.val_from_train is None:
            del settings["split_seed"]
        return {key: value for key, value in settings.items() if value is not None}


def first_classes(source: Source, count: int | None) -> Source:
    """The source reduced to its first `count` classes in label order; None keeps all. RequestError if it has fewer."""
    if count is None:
        return source
    wnids = sorted(source.splits["train"].class_counts())
    if count > len(wnids):
        raise RequestError(f"classes={count}: src has {len(wnids)}")
    chosen = set(wnids[:count])
    splits = {split: listed.of_classes(chosen) for split, listed in source.splits.items()}
    per_class = {
        split: {wnid: number for wnid, number in expected.items() if wnid in chosen}
        for split, expected in source.per_class.items()
    }
    return replace(source, splits=splits, per_class=per_class, complete={})


def split_train(source: Source, config: PrepareConfig) -> Splits:
    """The source's own splits; or, with val_from_train, that share of train as `val`, and its val as `test`."""
    splits = dict(source.splits)
    if config.val_from_train is None:
        return splits
    if "val" in splits and "test" in splits:
        raise RequestError(
            f"val_from_train={config.val_from_train}: the official val would become test, and there is a test already"
        )
    if "val" in splits:
        splits["test"] = splits["val"]
    train = splits["train"].by_class_and_name()
    order = np.random.Generator(np.random.PCG64(config.split_seed)).permutation(len(train))
    count = round(config.val_from_train * len(train))
    splits["train"], splits["val"] = train.take(order[count:]), train.take(order[:count])
    return splits


def in_shard_order(source: Source, splits: Splits, seed: int) -> Splits:
    """The images of each split in the order of its shards, without those of classes that train lacks.

    All are sorted by name, so that the order is the same from every layout; train is then shuffled once, by `seed`.
    """
    wnids = splits["train"].class_counts().keys()
    images = {}
    for split, listed in splits.items():
        kept = listed.of_classes(wnids)
        kept = kept.by_class_and_name() if split == "train" else kept.by_name()
        if not kept:
            raise RequestError(f"src={source.path}: {_why_none_is_usable(split, listed, wnids)}")
        if len(kept) < len(listed):
            print(f"warning: {len(listed) - len(kept)} {split} images are of classes that train lacks: left out")
        images[split] = kept
    if doubled := images["train"].doubled():
        print(
            f"warning: {len(doubled):,} train images have the name and the size of another of their class, "
            f"{doubled[0].name} first: the same images twice?"
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(images["train"]))
    images["train"] = images["train"].take(order)
    return images


def _why_none_is_usable(split: str, listed: Listing, wnids: Collection[str]) -> str:
    """Why none of a split's images can be used: what both sides call their classes, and what to do."""
    here, there = sorted(listed.class_counts()), sorted(wnids)
    if not here:  # all of these classes went elsewhere: classes=N, or a split of a few images
        return f"no {split} images of the classes that train has ({few(there, 2)}); take more classes or images"
    remedy = f"name the folders of {split} as those of train"
    if all(name.isdecimal() for name in here):
        remedy = f"numbers do not say which classes they are: {remedy}"
    elif {name.lower() for name in here} & {name.lower() for name in there}:
        remedy = f"they differ in capital letters only: {remedy}"
    both = f"{split} has {few(here, 2)}, train has {few(there, 2)}"
    return f"no {split} images of the classes that train has: {both}; {remedy}"


@dataclass
class Plan:
    """What OUT is being made from, as OUT/.unfinished/plan.json keeps it."""

    fingerprint: str  # of all that follows, and of the name, class and size of each image
    settings: dict[str, Any]
    image_counts: dict[str, int]  # of each split
    in_source_order: bool

    @classmethod
    def of(cls, config: PrepareConfig, images: Splits, slow_at_random: bool) -> "Plan":
        settings = config.pixel_settings()
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for split, listed in images.items():
            for image in listed:
                text = f"{split}\0{image.name.rpartition('/')[2]}\0{image.wnid}\0{image.mark()}\n"
                digest.update(text.encode("utf-8", "surrogateescape"))
        in_source_order = slow_at_random if config.in_source_order is None else config.in_source_order
        counts = {split: len(listed) for split, listed in images.items()}
        return cls(digest.hexdigest(), settings, counts, in_source_order)

    def save(self, out: Path) -> None:
        begun = {"version": _VERSION, "plan": self.fingerprint, "settings": self.settings,
                 "pictures": self.image_counts, "in_source_order": self.in_source_order}  # fmt: skip
        write_atomically(out / UNFINISHED / _RECORD, lambda file: file.write(json.dumps(begun).encode()))

    def is_finished_in(self, out: Path) -> bool:
        """Whether this very data set is there. RequestError if OUT holds another, or anything that is not ours."""
        earlier = check_out(out, self.settings)
        if earlier is None:
            return False
        if earlier.plan.fingerprint != self.fingerprint:
            then, now = earlier.plan.image_counts, self.image_counts
            how = "as many, but not the same names, classes and sizes"
            if then != now:
                how = "; src has ".join(", ".join(f"{n:,} {split}" for split, n in x.items()) for x in (then, now))
            raise RequestError(f"out={out}: {earlier.what} from other images ({how}); {earlier.remedy}")
        if earlier.manifest is not None:
            _refuse_if_damaged(out, earlier.manifest)
        elif earlier.plan.in_source_order != self.in_source_order:
            begun_with = str(earlier.plan.in_source_order).lower()
            raise RequestError(f"out={out}: was begun with in_source_order={begun_with}; go on with that")
        return earlier.manifest is not None


@dataclass
class Earlier:
    """A preparation that OUT holds, finished or not."""

    what: str
    remedy: str
    plan: Plan
    manifest: Manifest | None = None  # there once it is finished


def check_out(out: Path, settings: dict[str, Any]) -> Earlier | None:
    """RequestError if OUT holds what was made with other settings, or is not ours; needs no look at the source."""
    earlier = _finished_in(out) or _begun_in(out)
    if earlier is None:
        if out.exists() and not out.is_dir():
            raise RequestError(f"out={out}: is a file; give a folder")
        if out.exists() and any(entry.name != UNFINISHED and not is_system(entry.name) for entry in out.iterdir()):
            raise RequestError(f"out={out}: is not empty, and no preparation was begun there; choose another folder")
        return None
    then = earlier.plan.settings
    changed = [
        f"{key}={_typed(then.get(key))}, not {_typed(settings.get(key))}"
        for key in _PIXEL_SETTINGS
        if then.get(key) != settings.get(key)
    ]
    if changed:
        raise RequestError(f"out={out}: {earlier.what} with {'; '.join(changed)}; {earlier.remedy}")
    return earlier


def _finished_in(out: Path) -> Earlier | None:
    if not (out / MANIFEST).is_file():
        return None
    manifest = Manifest.load(out)
    counts = {split: info.images for split, info in manifest.splits.items()}
    for rejected in manifest.rejected:
        counts[rejected.split] += 1
    made = manifest.preparation
    plan = Plan(made.get("plan", ""), made, counts, in_source_order=False)  # or true: the data set is the same
    return Earlier("holds a data set", "choose another folder", plan, manifest)


def _begun_in(out: Path) -> Earlier | None:
    record = out / UNFINISHED / _RECORD
    if not record.is_file():
        return None
    begun: dict[str, Any] = json.loads(record.read_text())
    if begun.get("version") != _VERSION:
        raise RequestError(f"out={out}: was begun by another version of this program; delete it and start again")
    plan = Plan(begun["plan"], begun["settings"], begun["pictures"], begun["in_source_order"])
    return Earlier("a data set was begun there", "choose another folder, or delete that one and start again", plan)


def _typed(value: object) -> str:
    """The value of a setting as one types it."""
    return "null" if value is None else str(value)


def _refuse_if_damaged(out: Path, manifest: Manifest) -> None:
    sizes = {out / split / shard.file: shard.bytes for split, info in manifest.splits.items() for shard in info.shards}
    whole = [out / MEAN, *(out / split / INDEX for split in manifest.splits)]
    missing = [path for path in (*sizes, *whole) if not path.is_file()]
    changed = [path for path, size in sizes.items() if path.is_file() and path.stat().st_size != size]
    if missing or changed:
        raise RequestError(f"{(missing + changed)[0]}: is missing or has changed; {PREPARE_AGAIN}")


def check_free_space(out: Path, config: PrepareConfig, images: Splits, channels: int, in_source_order: bool) -> None:
    """RequestError if the disk cannot hold what is expected."""
    pixels = config.image_size**2
    # JPEG at quality 95: about 5 bits a pixel.
    per_image = (channels * pixels if config.encoding == "raw" else 0.6 * pixels) + 2048
    count = sum(map(len, images.values()))
    shards = sum(-(-len(listed) // config.images_per_shard) for listed in images.values())
    records = 4 * channels * pixels * shards  # sums, until the end
    needed = (count * per_image + records) * (2 if in_source_order else 1)
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    written = sum(file.stat().st_size for file in (*out.glob("*/shard-*"), *out.glob(f"{UNFINISHED}/*")))
    free = shutil.disk_usage(existing).free + written
    if needed > free:
        raise RequestError(
            f"out={out}: needs about {_readable(needed)}, and {_readable(free)} are free there; "
            "make room, or give out=FOLDER on a larger disk"
        )


def _readable(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
