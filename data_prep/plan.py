"""What a preparation is going to make: which pictures in which order, and whether OUT can take them."""

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.common.errors import RequestError, require
from data_prep.common.files import write_atomically
from data_prep.format import INDEX, MANIFEST, MEAN, PREPARE_AGAIN, Manifest
from data_prep.sources import LAYOUTS, Source, SourceImage

UNFINISHED = ".unfinished"
_RECORD = "plan.json"
_VERSION = 2  # of what .unfinished holds

Splits = dict[str, list[SourceImage]]


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
        layouts = f"one of {', '.join(LAYOUTS)}, or null"
        require(self.layout is None or self.layout in LAYOUTS, "layout", self.layout, layouts)
        require(1 <= self.image_size <= 4096, "image_size", self.image_size, "1 to 4096")
        require(self.encoding in ("jpeg", "raw"), "encoding", self.encoding, "jpeg or raw")
        require(1 <= self.jpeg_quality <= 100, "jpeg_quality", self.jpeg_quality, "1 to 100")
        require(1 <= self.images_per_shard <= 8192, "images_per_shard", self.images_per_shard, "1 to 8192")
        require(self.shuffle_seed >= 0, "shuffle_seed", self.shuffle_seed, "0 or more")
        require(self.classes is None or self.classes >= 1, "classes", self.classes, "1 or more, or null for all")
        fraction = self.val_from_train
        require(fraction is None or 0 < fraction < 1, "val_from_train", fraction, "a fraction between 0 and 1, or null")
        require(self.split_seed >= 0, "split_seed", self.split_seed, "0 or more")
        require(0 <= self.max_rejected <= 1, "max_rejected", self.max_rejected, "a fraction, 0 to 1")
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more, or null")

    def pixels_follow_from(self) -> dict[str, Any]:
        """The settings without which the same source gives another data set."""
        keys = ["image_size", "encoding", "jpeg_quality", "images_per_shard", "shuffle_seed"]
        if self.classes is not None:
            keys.append("classes")
        if self.val_from_train is not None:
            keys += ["val_from_train", "split_seed"]
        return {key: getattr(self, key) for key in keys}


def first_classes(source: Source, count: int | None) -> Source:
    """With the first so many classes alone, in the order of their labels; None: all. RequestError if it has fewer."""
    if count is None:
        return source
    wnids = sorted({image.wnid for image in source.splits["train"]})
    if count > len(wnids):
        raise RequestError(f"classes={count}: src has {len(wnids)}")
    chosen = set(wnids[:count])
    splits = {split: [image for image in listed if image.wnid in chosen] for split, listed in source.splits.items()}
    per_class = {
        split: {wnid: number for wnid, number in expected.items() if wnid in chosen}
        for split, expected in source.per_class.items()
    }
    return replace(source, splits=splits, per_class=per_class, complete={})


def divided(source: Source, config: PrepareConfig) -> Splits:
    """The source's own splits; or, with val_from_train, that share of train as `val`, and its val as `test`."""
    splits = dict(source.splits)
    if config.val_from_train is None:
        return splits
    if "test" in splits:
        raise RequestError(
            f"val_from_train={config.val_from_train}: the official val would become test, and there is a test already"
        )
    train = sorted(splits["train"], key=_by_class_and_name)
    order = np.random.Generator(np.random.PCG64(config.split_seed)).permutation(len(train))
    count = round(config.val_from_train * len(train))
    divided = {"train": [train[i] for i in order[count:]], "val": [train[i] for i in order[:count]]}
    return {**divided, "test": splits["val"]} if "val" in splits else divided


def in_shard_order(source: Source, splits: Splits, seed: int) -> Splits:
    """The label space is the classes of the train split: pictures of others are left out. Train is shuffled once.

    Before that all are sorted by name, so that the order, too, is the same from every layout.
    """
    wnids = {image.wnid for image in splits["train"]}
    images = {}
    for split, listed in splits.items():
        kept = [image for image in listed if image.wnid in wnids]
        kept.sort(key=_by_class_and_name if split == "train" else _by_name)
        if len(kept) < len(listed):
            print(f"warning: {len(listed) - len(kept)} {split} pictures are of classes that train lacks: left out")
        if not kept:
            raise RequestError(f"src={source.path}: no {split} pictures of the classes that train has")
        images[split] = kept
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(images["train"]))
    images["train"] = [images["train"][i] for i in order]
    return images


def _by_class_and_name(image: SourceImage) -> tuple[str, str]:
    return image.wnid, _number_padded(image)


def _by_name(image: SourceImage) -> tuple[str, str]:
    return _number_padded(image), image.wnid


def _number_padded(image: SourceImage) -> str:
    """The file's name, to be sorted by with numbers as numbers. Where the picture lies is no part of it."""
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(20), Path(image.name).name)


@dataclass
class Plan:
    """What OUT is being made from, as OUT/.unfinished/plan.json keeps it."""

    plan: str  # a fingerprint of all that follows, and of the name, class and size of each picture
    settings: dict[str, Any]
    pictures: dict[str, int]  # of each split
    in_source_order: bool

    @classmethod
    def of(cls, config: PrepareConfig, images: Splits, slow_at_random: bool) -> "Plan":
        settings = config.pixels_follow_from()
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for split, listed in images.items():
            for image in listed:
                text = f"{split}\0{Path(image.name).name}\0{image.wnid}\0{image.mark()}\n"
                digest.update(text.encode("utf-8", "surrogateescape"))
        in_source_order = slow_at_random if config.in_source_order is None else config.in_source_order
        counts = {split: len(listed) for split, listed in images.items()}
        return cls(digest.hexdigest(), settings, counts, in_source_order)

    def save(self, out: Path) -> None:
        text = json.dumps({"version": _VERSION, **asdict(self)}).encode()
        write_atomically(out / UNFINISHED / _RECORD, lambda file: file.write(text))

    def is_finished_in(self, out: Path) -> bool:
        """Whether this very data set is there. RequestError if OUT holds another, or anything that is not ours."""
        check_settings(out, self.settings)
        if (out / MANIFEST).is_file():
            manifest = Manifest.load(out)
            if manifest.preparation.get("plan") != self.plan:
                pictures = {split: info.images for split, info in manifest.splits.items()}
                for rejected in manifest.rejected:
                    pictures[rejected.split] += 1
                self._refuse(out, _HOLDS, pictures)
            _refuse_if_damaged(out, manifest)
            return True
        if begun := _begun_in(out):
            if begun["plan"] != self.plan:
                self._refuse(out, _BEGUN, begun["pictures"])
            if begun["in_source_order"] != self.in_source_order:
                then = str(begun["in_source_order"]).lower()
                raise RequestError(f"out={out}: was begun with in_source_order={then}; go on with that")
        return False

    def _refuse(self, out: Path, found: tuple[str, str], pictures: dict[str, int]) -> None:
        what, remedy = found
        if pictures != self.pictures:
            then, now = (", ".join(f"{n:,} {split}" for split, n in p.items()) for p in (pictures, self.pictures))
            raise RequestError(f"out={out}: {what} from other pictures ({then}; src has {now}); {remedy}")
        raise RequestError(
            f"out={out}: {what} from other pictures (as many, but not the same names, classes and sizes); {remedy}"
        )


# What OUT may hold already, and what to do then.
_HOLDS = ("holds a data set", "choose another folder")
_BEGUN = ("a data set was begun there", "choose another folder, or delete that one and start again")


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """RequestError if OUT holds what was made with other settings, or is not ours; needs no look at the source."""
    if (out / MANIFEST).is_file():
        (what, remedy), then = _HOLDS, Manifest.load(out).preparation
    elif begun := _begun_in(out):
        (what, remedy), then = _BEGUN, begun["settings"]
    elif out.exists() and not out.is_dir():
        raise RequestError(f"out={out}: is a file; give a folder")
    elif out.exists() and any(entry.name != UNFINISHED for entry in out.iterdir()):
        raise RequestError(f"out={out}: is not empty, and no preparation was begun there; choose another folder")
    else:
        return
    changed = [f"{key}={_typed(then.get(key))}, not {_typed(settings.get(key))}" for key in _ALL_SETTINGS
               if then.get(key) != settings.get(key)]  # fmt: skip
    if changed:
        raise RequestError(f"out={out}: {what} with {'; '.join(changed)}; {remedy}")


def _begun_in(out: Path) -> dict[str, Any] | None:
    record = out / UNFINISHED / _RECORD
    if not record.is_file():
        return None
    begun: dict[str, Any] = json.loads(record.read_text())
    if begun.get("version") != _VERSION:
        raise RequestError(f"out={out}: was begun by another version of this program; delete it and start again")
    return begun


_ALL_SETTINGS = ("image_size", "encoding", "jpeg_quality", "images_per_shard", "shuffle_seed", "classes",
                 "val_from_train", "split_seed")  # fmt: skip


def _typed(value: object) -> str:
    """As it would be typed."""
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
    records = 4 * channels * pixels * (len(images["train"]) // config.images_per_shard + 1)  # sums, until the end
    needed = count * per_image * (2 if in_source_order else 1) + records
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
