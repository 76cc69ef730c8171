"""python tests/data_prep/speed_benchmark.py FOLDER [ROUNDS]: preparation against the loop that a user would write.

FOLDER holds pictures, at any depth. In each round, one after the other so that what else the machine does strikes all:
the plain loop (Pillow: open, convert, resize, crop, save), this project's work on one core within a process, then the
shards with one and with two worker processes. Medians of the ratios within a round; of the CPU time as well, which
other programs on the machine disturb less.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from PIL import Image

from data_prep.command import load
from data_prep.plan import in_shard_order
from data_prep.pool import run_tasks
from data_prep.prepare import PrepareConfig, _shards
from data_prep.sources import find_source
from data_prep.sources.folders import ENDINGS
from data_prep.work import PictureFormat, ShardTask


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


def main(folder: Path, rounds: int) -> None:
    files = sorted(path.resolve() for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
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

        def measure(way: str, images: int, call: Callable[[], object]) -> None:
            before, started = cpu_seconds(), time.perf_counter()
            call()
            wall.setdefault(way, []).append(images / (time.perf_counter() - started))
            busy.setdefault(way, []).append(images / (cpu_seconds() - before))

        for number in range(rounds):
            measure("plain loop", len(files), partial(plain_loop, files, work / f"plain-{number}"))
            measure("one core", count, partial(one_after_the_other, tasks(f"own-{number}", 1024)))
            for workers, way in ((1, "1 worker"), (2, "2 workers")):
                shards = tasks(f"{workers}-{number}", 20)  # so small that the last ones to finish weigh little
                measure(way, count, partial(run_tasks, shards, workers, NoBar()))
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
