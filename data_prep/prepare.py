"""python -m data_prep.prepare src=DIR out=DIR [image_size=256] [encoding=jpeg|raw] [workers=N]

Shards are planned first and then made in any order by any number of processes; each leaves a record in OUT/.unfinished
when it is complete. A preparation that was stopped continues with the shards that have no record.
"""

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from data_prep.common.cli import command_line, main
from data_prep.common.files import exclusive
from data_prep.common.progress import progress_bar
from data_prep.finish import finish, print_result
from data_prep.format import Manifest
from data_prep.plan import (
    UNFINISHED,
    Plan,
    PrepareConfig,
    Splits,
    check_free_space,
    check_out,
    first_classes,
    in_shard_order,
    split_train,
)
from data_prep.pool import cores, run_tasks
from data_prep.sources import Source, find_source
from data_prep.sources.completeness import check_md5, print_summary, refuse_more
from data_prep.work import ImageFormat, ShardTask, gathered, shard_tasks, write_error


def prepare(config: PrepareConfig) -> None:
    """Makes the data set, or what is missing of it.

    RequestError: the request is wrong, or OUT holds something else. RunError: the source cannot be read, OUT cannot be
    written, or too many images are rejected.
    """
    started = time.monotonic()
    out = Path(config.out)
    lock = out / UNFINISHED / "lock"
    # What can be refused at once, before the source is listed, which takes minutes for the archives of ImageNet.
    check_out(out, config.pixel_settings())
    with contextlib.suppress(FileNotFoundError), exclusive(lock, f"out={out}"):
        pass
    source = find_source(Path(config.src), config.layout, needs_val=config.val_from_train is None)
    source = first_classes(source, config.classes)
    splits = split_train(source, config)
    print_summary(source, splits, config.image_size)
    refuse_more(source)
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
            for split in images:  # after plan.json: until that is there, nothing else marks OUT as ours
                (out / split).mkdir(exist_ok=True)
            manifest = _make(config, out, source, images, plan)
    except OSError as error:
        raise write_error(out, error) from None
    # Only now that the lock is let go: NFS keeps the name of an open file, and so its folder. What stays does no harm.
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    print_result(out, manifest, time.monotonic() - started)


def _nothing_to_do(out: Path) -> None:
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # left by a kill between the manifest and the cleaning up
    print(f"{out}: already prepared, with these settings from these images; nothing to do")


def _make(config: PrepareConfig, out: Path, source: Source, images: Splits, plan: Plan) -> Manifest:
    form = ImageFormat(config.image_size, source.channels, config.encoding, config.jpeg_quality)
    wnids = sorted(images["train"].class_counts())
    gather: list[ShardTask] = []
    if plan.in_source_order:
        gather = shard_tasks(config, out, images, wnids, form, gather=True)
        _run(gather, config, "read the source")
        images = gathered(images, gather)
    shards = shard_tasks(config, out, images, wnids, form)
    _run(shards, config, "fill the shards" if gather else "prepare")
    return finish(out, config, source, plan, wnids, shards, gather)


def _run(tasks: Sequence[ShardTask], config: PrepareConfig, what: str) -> None:
    """Runs the tasks that have no record yet, under a bar named `what`."""
    unfinished = [task for task in tasks if not task.is_done()]
    if len(unfinished) < len(tasks):
        print(f"continuing: {len(tasks) - len(unfinished)} of {len(tasks)} parts are there already ({what})")
    total = sum(len(task.images) for task in tasks)
    done = total - sum(len(task.images) for task in unfinished)
    with progress_bar(total, what, done=done) as bar:
        run_tasks(unfinished, config.workers or cores(), bar)


if __name__ == "__main__":
    main(command_line("prepare", PrepareConfig), prepare, writes=lambda config: Path(config.out))
