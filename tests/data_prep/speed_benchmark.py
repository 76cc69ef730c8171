"""python tests/data_prep/speed_benchmark.py FOLDER [ROUNDS]: preparation against the loop that a user would write.

FOLDER holds pictures, at any depth. In each round, one after the other so that what else the machine does strikes all:
the plain loop (Pillow: open, convert, resize, crop, save) in a process of its own, this project's work in another that
is set up as a worker is, then the shards with one and with two worker processes. Medians of the ratios within a round;
of the CPU time as well, which other programs on the machine disturb less. Every picture is done TIMES over, or the
start of the workers would weigh more than it does in a preparation of a million.
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
from statistics import median

from PIL import Image

from data_prep.command import load
from data_prep.memory import keep_freed_memory
from data_prep.plan import in_shard_order
from data_prep.pool import KEPT, run_tasks
from data_prep.prepare import PrepareConfig, _shards
from data_prep.sources import find_source
from data_prep.sources.folders import ENDINGS
from data_prep.work import PictureFormat, ShardTask

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


def in_a_process(call: Callable[[], object], setup: Callable[[], object]) -> tuple[float, float]:
    """`timed` in a process of its own, started and set up before."""
    with ProcessPoolExecutor(1, get_context("spawn"), setup) as pool:
        return pool.submit(timed, call).result()


def nothing() -> None: ...


def main(folder: Path, rounds: int) -> None:
    files = TIMES * sorted(path.resolve() for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    work = Path(tempfile.mkdtemp(prefix="speed-"))
    try:
        for split, chosen in (("train", files), ("val", files[:1])):
            (work / "src" / split / "all").mkdir(parents=True)
            for number, path in enumerate(chosen):
                (work / "src" / split / "all" / f"{number}{path.suffix}").symlink_to(path)
        count = len(files) + 1

        def tasks(name: str, images_per_shard: int) -> list[ShardTask]:
            out = work / name
            settings = [f"src={work / 'src'}", f"out={out}", f"images_per_shard={images_per_shard}"]
            config = load("prepare", PrepareConfig, settings)
            source = find_source(work / "src")
            images = in_shard_order(source, dict(source.splits), 0)
            for part in (*images, ".unfinished"):
                (out / part).mkdir(parents=True)
            form = PictureFormat(config.image_size, 3, config.encoding, config.jpeg_quality)
            return list(_shards(config, out, images, ["all"], form))

        wall: dict[str, list[float]] = {}
        busy: dict[str, list[float]] = {}

        def keep(way: str, images: int, seconds: tuple[float, float]) -> None:
            for rates, taken in zip((wall, busy), seconds, strict=True):
                rates.setdefault(way, []).append(images / taken)

        for number in range(rounds):
            plain = partial(plain_loop, files, work / f"plain-{number}")
            keep("plain loop", len(files), in_a_process(plain, nothing))
            own = partial(one_after_the_other, tasks(f"own-{number}", 1024))
            keep("one core", count, in_a_process(own, partial(keep_freed_memory, KEPT)))
            for workers, way in ((1, "1 worker"), (2, "2 workers")):
                shards = tasks(f"{workers}-{number}", 20)  # so small that the last ones to finish weigh little
                keep(way, count, timed(partial(run_tasks, shards, workers, NoBar())))
            print("  ".join(f"{way} {rates[-1]:.1f}/s" for way, rates in wall.items()), flush=True)
        for what, ways in (("second", wall), ("second of CPU time", busy)):
            print(f"pictures a {what}:", ", ".join(f"{way} {median(rates):.1f}" for way, rates in ways.items()))
            for way, other in (("one core", "plain loop"), ("2 workers", "1 worker")):
                if ways is busy and way == "2 workers":
                    continue
                ratios = [a / b for a, b in zip(ways[way], ways[other], strict=True)]
                print(f"  {way} against {other}: {median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # as worker processes have it, and read when numpy is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    if not 2 <= len(sys.argv) <= 3 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 5)
