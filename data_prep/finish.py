"""From the records of all shards: index, mean image, previews, and last the manifest."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL

from data_prep.common.errors import RunError
from data_prep.common.files import sha256_of, write_atomically
from data_prep.common.text import encodable
from data_prep.format import INDEX, MEAN, ClassInfo, Manifest, Rejected, ShardInfo, SplitInfo
from data_prep.plan import Plan, PrepareConfig
from data_prep.preview import MEAN_IMAGE, PREVIEW, write_previews
from data_prep.sources import Source
from data_prep.statistics import ImageSums
from data_prep.work import Record, ShardTask


def finish(
    out: Path,
    config: PrepareConfig,
    source: Source,
    plan: Plan,
    wnids: list[str],
    shards: Sequence[ShardTask],
    gathered: Sequence[ShardTask],
) -> Manifest:
    """Writes all but the shards. `wnids` in the order of the labels. RunError if too many images were rejected."""
    sums = ImageSums.empty(config.image_size, source.channels)
    splits: dict[str, SplitInfo] = {}
    rejected: list[Rejected] = []
    for split in plan.image_counts:
        rows: list[np.ndarray] = []
        infos: list[ShardInfo] = []
        for record in (Record.load(task.record) for task in shards if task.split == split):  # one at a time in memory
            rows.append(record.index)
            infos.append(record.info)
            rejected += [Rejected(split, name, reason) for _, name, reason in record.rejected]
            if split == "train":
                sums.merge(record.sums)
        index = np.concatenate(rows)
        write_atomically(out / split / INDEX, lambda file, index=index: np.save(file, index))  # type: ignore[misc]
        per_class = np.bincount(index["label"], minlength=len(wnids)).tolist()
        splits[split] = SplitInfo(len(index), per_class, infos)
    for task in gathered:  # which have decoded the images, and so have the sums
        if task.split == "train":
            sums.merge(Record.load(task.record).sums)
    _check_rejected(rejected, sum(plan.image_counts.values()), splits, config.max_rejected)
    if empty := [wnid for wnid, count in zip(wnids, splits["train"].per_class, strict=True) if not count]:
        more = f" and {len(empty) - 3} more classes" if len(empty) > 3 else ""
        raise RunError(
            f"none of the train images of {', '.join(empty[:3])}{more} can be read, and a label must not be without "
            "images. Mend the source, or take the class out of it; then start again with another out"
        )
    write_atomically(out / MEAN, lambda file: np.save(file, sums.mean_image().astype(np.float32)))
    manifest = Manifest(
        name=encodable(out.resolve().name),
        source={"layout": source.layout, "path": encodable(str(source.path.resolve()))},
        classes=[ClassInfo(wnid, source.class_names.get(wnid, wnid)) for wnid in wnids],
        image_size=config.image_size,
        channels=source.channels,
        encoding=config.encoding,
        preparation={**plan.settings, "plan": plan.fingerprint, "pillow": PIL.__version__},
        statistics=sums.colour(),
        splits=splits,
        rejected=rejected,
        files={name: sha256_of(out / name) for name in (MEAN, *(f"{split}/{INDEX}" for split in splits))},
    )
    write_previews(out, manifest, sums.mean_image())
    manifest.save(out)
    return manifest


def _check_rejected(rejected: list[Rejected], images: int, splits: dict[str, SplitInfo], most: float) -> None:
    if len(rejected) > most * images or not splits["train"].images:
        reason = Counter(r.reason for r in rejected).most_common(1)[0][0]
        too_many = f"more than max_rejected={most}" if len(rejected) > most * images else "and no train image is left"
        remedy = "Mend the source" + (", or start again with a higher max_rejected" if splits["train"].images else "")
        raise RunError(
            f"{len(rejected)} of {images} images cannot be read, {too_many}; "
            f"the first is {rejected[0].name}, the most frequent reason: {reason}. {remedy}"
        )


def print_result(out: Path, manifest: Manifest, seconds: float) -> None:
    for rejected in manifest.rejected[:10]:
        print(f"rejected: {rejected.split} {rejected.name}: {rejected.reason}")
    for split, info in manifest.splits.items():
        least, most = min(info.per_class), max(info.per_class)
        size = sum(shard.bytes for shard in info.shards) / 1e6
        print(f"{split}: {info.images:,} images, {least:,} to {most:,} a class, {size:,.1f} MB")
    mean = ", ".join(f"{value:.1f}" for value in manifest.statistics["rgb_mean"])
    name = "mean RGB" if manifest.channels == 3 else "mean"
    print(f"{name} {mean}; {len(manifest.rejected)} rejected; {seconds:.0f} s")
    print(f"the data set is in {out}; look at {out / PREVIEW} and {out / MEAN_IMAGE}")
