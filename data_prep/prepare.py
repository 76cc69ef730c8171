"""python -m data_prep.prepare src=DIR out=DIR [image_size=256] [encoding=jpeg|raw] [workers=N]

Shards are planned first and then made in any order by any number of processes, each as soon as it is complete being
recorded in OUT/.unfinished; a preparation that was stopped goes on with the shards that have no record.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.common.cli import command_line, main
from data_prep.common.errors import RequestError
from data_prep.common.files import exclusive
from data_prep.common.progress import progress_bar
from data_prep.finish import finish, say_what_was_done
from data_prep.format import Manifest, shard_name
from data_prep.plan import (
    UNFINISHED,
    Plan,
    PrepareConfig,
    Splits,
    check_free_space,
    check_settings,
    divided,
    first_classes,
    in_shard_order,
)
from data_prep.pool import run_tasks
from data_prep.sources import Source, SourceImage, find_source
from data_prep.sources.completeness import check_md5, say_what_was_understood
from data_prep.work import GatherTask, PictureFormat, ShardTask, Task, cannot_be_written, gathered

__all__ = ["PrepareConfig", "prepare"]


def prepare(config: PrepareConfig) -> None:
    """Makes the data set, or what is missing of it. RequestError and RunError as everywhere."""
    started = time.monotonic()
    out = Path(config.out)
    lock = out / UNFINISHED / "lock"
    # What can be refused at once, before the source is listed, which takes minutes for the archives of ImageNet.
    check_settings(out, config.pixels_follow_from())
    with contextlib.suppress(FileNotFoundError), exclusive(lock, f"out={out}"):
        pass
    source = find_source(Path(config.src), config.layout)
    if not source.splits.get("train"):
        raise RequestError(f"src={source.path}: no training pictures")
    source = first_classes(source, config.classes)
    splits = divided(source, config)
    say_what_was_understood(source, splits, config.image_size)
    images = in_shard_order(source, splits, config.shuffle_seed)
    if config.md5:
        check_md5(source)
    plan = Plan.of(config, images, source.slow_at_random)
    if plan.is_finished_in(out):
        return _nothing_to_do(out)
    check_free_space(out, config, images, source.channels, plan.in_source_order)
    try:
        (out / UNFINISHED).mkdir(parents=True, exist_ok=True)
        with exclusive(lock, f"out={out}"):
            if plan.is_finished_in(out):  # once more: another process may have been there since
                return _nothing_to_do(out)
            plan.save(out)
            for split in images:  # after the record: until it is there, nothing else marks OUT as ours
                (out / split).mkdir(exist_ok=True)
            manifest = _make(config, out, source, images, plan)
            shutil.rmtree(out / UNFINISHED)
    except OSError as error:
        raise cannot_be_written(out, error) from None
    say_what_was_done(out, manifest, time.monotonic() - started)


def _nothing_to_do(out: Path) -> None:
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # left by a kill between the manifest and the cleaning up
    print(f"{out}: already prepared, with these settings from these pictures; nothing to do")


def _make(config: PrepareConfig, out: Path, source: Source, images: Splits, plan: Plan) -> Manifest:
    form = PictureFormat(config.image_size, source.channels, config.encoding, config.jpeg_quality)
    wnids = sorted({image.wnid for image in images["train"]})
    gather: list[GatherTask] = []
    if plan.in_source_order:
        gather = list(_gather(config, out, images, form))
        _run(gather, config, "read the source")
        images = _from_gathered(images, gather)
    shards = list(_shards(config, out, images, wnids, form))
    _run(shards, config, "fill the shards" if gather else "prepare")
    return finish(out, config, source, plan, wnids, shards, gather)


def _run(tasks: Sequence[Task], config: PrepareConfig, what: str) -> None:
    unfinished = [task for task in tasks if not task.is_done()]
    if len(unfinished) < len(tasks):
        print(f"continuing: {len(tasks) - len(unfinished)} of {len(tasks)} parts are there already ({what})")
    total = sum(len(task.images) for task in tasks)
    done = total - sum(len(task.images) for task in unfinished)
    workers = config.workers or os.cpu_count() or 1
    with progress_bar(total, what, done=done) as bar:
        run_tasks(unfinished, workers, bar)


def _shards(
    config: PrepareConfig, out: Path, images: Splits, wnids: list[str], form: PictureFormat
) -> Iterator[ShardTask]:
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    for split, listed in images.items():
        for number, first in enumerate(range(0, len(listed), config.images_per_shard)):
            chosen = listed[first : first + config.images_per_shard]
            yield ShardTask(
                split=split,
                images=chosen,
                file=out / split / shard_name(number),
                record=out / UNFINISHED / f"{split}-{number:05d}.npz",
                format=form,
                number=number,
                first_key=first,
                labels=[label_of[image.wnid] for image in chosen],
            )


def _gather(config: PrepareConfig, out: Path, images: Splits, form: PictureFormat) -> Iterator[GatherTask]:
    for split, listed in images.items():
        ordered = [listed[i] for i in _as_they_lie(listed)]
        for number, first in enumerate(range(0, len(ordered), config.images_per_shard)):
            name = f"source-{split}-{number:05d}"
            yield GatherTask(
                split=split,
                images=ordered[first : first + config.images_per_shard],
                file=out / UNFINISHED / f"{name}.bin",
                record=out / UNFINISHED / f"{name}.npz",
                format=form,
            )


def _from_gathered(images: Splits, tasks: Sequence[GatherTask]) -> Splits:
    """The same pictures in the same places, as the tasks have left them."""
    result: Splits = {}
    for split, listed in images.items():
        prepared: list[SourceImage] = list(listed)
        places = _as_they_lie(listed)
        for place, image in zip(places, gathered([t for t in tasks if t.split == split]), strict=True):
            prepared[place] = image
        result[split] = prepared
    return result


def _as_they_lie(listed: Sequence[SourceImage]) -> list[int]:
    return sorted(range(len(listed)), key=lambda i: (listed[i].path, listed[i].offset))


if __name__ == "__main__":
    main(command_line("prepare", PrepareConfig), prepare)
