"""python tests/benchmarks/preparation.py FOLDER [ROUNDS]: preparation against the loop that a user would write.

FOLDER holds images, at any depth; ROUNDS is 2 or more, 5 by default. Two things are compared, each time one way
straight after the other, so that what else the machine does strikes both: on one core the plain loop (Pillow: open,
convert, resize, crop, save), in a process of its own, with this project's work in another that is started as its
workers are; then one worker process with two, over all images TIMES, or their start would weigh more than it does in a
preparation of a million. In every second round the other one goes first. Medians of the ratios; of the CPU time as
well, which other programs disturb less.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

from PIL import Image

from data_prep.common.cli import load
from data_prep.plan import in_shard_order
from data_prep.pool import _start_worker, run_tasks
from data_prep.prepare import PrepareConfig
from data_prep.sources import find_source
from data_prep.sources.inventory import ENDINGS
from data_prep.work import ImageFormat, ShardTask, shard_tasks

TIMES = 3


class NoBar:
    n = initial = 0

    def set_postfix_str(self, *_: object, **__: object) -> None: ...
    def update(self, *_: object) -> None: ...


def plain_loop(files: list[Path], out: Path) -> None:
    out.mkdir()
    for number, path in enumerate(files):
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - 256) // 2, (image.height - 256) // 2
        image.crop((left, top, left + 256, top + 256)).save(out / f"{number}.jpg", quality=95)


def one_after_the_other(tasks: list[ShardTask]) -> None:
    for task in tasks:
        task.run()


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of processor time."""
    before, started = cpu_seconds(), time.perf_counter()
    call()
    return time.perf_counter() - started, cpu_seconds() - before


def one_process(as_worker: bool) -> ProcessPoolExecutor:
    context = get_context("spawn")
    if not as_worker:
        return ProcessPoolExecutor(1, context)
    return ProcessPoolExecutor(1, context, _start_worker, (context.Array("q", 2), context.Event()))


def main(folder: Path, rounds: int) -> None:
    files = sorted(path.resolve() for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    work = Path(tempfile.mkdtemp(prefix="speed-"))
    try:
        for source, times in (("once", 1), ("more", TIMES)):
            for split, chosen in (("train", times * files), ("val", files[:1])):
                (work / source / split / "all").mkdir(parents=True)
                for number, path in enumerate(chosen):
                    (work / source / split / "all" / f"{number}{path.suffix}").symlink_to(path)

        def tasks(src: str, name: str, images_per_shard: int) -> list[ShardTask]:
            out = work / name
            settings = [f"src={work / src}", f"out={out}", f"images_per_shard={images_per_shard}"]
            config = load("prepare", PrepareConfig, settings)
            source = find_source(work / src)
            images = in_shard_order(source, dict(source.splits), 0)
            for part in (*images, ".unfinished"):
                (out / part).mkdir(parents=True)
            form = ImageFormat(config.image_size, 3, config.encoding, config.jpeg_quality)
            return shard_tasks(config, out, images, ["all"], form)

        wall: dict[str, list[float]] = {}
        busy: dict[str, list[float]] = {}

        def keep(way: str, images: int, seconds: tuple[float, float]) -> None:
            for rates, taken in zip((wall, busy), seconds, strict=True):
                rates.setdefault(way, []).append(images / taken)

        with one_process(False) as plain, one_process(True) as own:
            plain.submit(plain_loop, files[:8], work / "warm-up").result()
            own.submit(one_after_the_other, tasks("once", "own-warm-up", 1024)).result()
            for number in range(TIMES * rounds):
                loop = partial(plain_loop, files, work / f"plain-{number}")
                work_of_one = partial(one_after_the_other, tasks("once", f"own-{number}", 1024))
                ways = [("plain loop", plain, len(files), loop), ("one core", own, len(files) + 1, work_of_one)]
                for way, process, count, call in ways[:: 1 if number % 2 else -1]:
                    keep(way, count, process.submit(timed, call).result())
                shutil.rmtree(work / f"plain-{number}")
                shutil.rmtree(work / f"own-{number}")
                print("  ".join(f"{way} {wall[way][-1]:.1f}/s" for way in ("plain loop", "one core")), flush=True)
        for number in range(rounds):
            for workers in (1, 2)[:: 1 if number % 2 else -1]:
                shards = tasks("more", f"{workers}-{number}", 20)  # so small that the last ones to finish weigh little
                way = "1 worker" if workers == 1 else "2 workers"
                keep(way, TIMES * len(files) + 1, timed(partial(run_tasks, shards, workers, NoBar())))
                shutil.rmtree(work / f"{workers}-{number}")
            print("  ".join(f"{way} {wall[way][-1]:.1f}/s" for way in ("1 worker", "2 workers")), flush=True)
        print("images a second:", ", ".join(f"{way} {median(rates):.1f}" for way, rates in wall.items()))
        for what, rates, way, other in (
            ("", wall, "one core", "plain loop"),
            ("in CPU time, ", busy, "one core", "plain loop"),
            ("", wall, "2 workers", "1 worker"),
        ):
            ratios = [a / b for a, b in zip(rates[way], rates[other], strict=True)]
            low, middle, high = quantiles(ratios, n=4, method="inclusive")
            print(f"  {what}{way} against {other}: {middle:.3f} x (middle half {low:.2f} to {high:.2f}; "
                  f"all {min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # as worker processes have it, and read when numpy is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    rounds = int(sys.argv[2]) if len(sys.argv) == 3 else 5
    if not 2 <= len(sys.argv) <= 3 or not Path(sys.argv[1]).is_dir() or rounds < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), rounds)
