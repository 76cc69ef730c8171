"""Shards as units of work for several processes, each leaving a record by which a stopped preparation continues."""

import json
import multiprocessing
import signal
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import SynchronizedArray
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.command import RunError
from data_prep.format import ShardInfo, ShardWriter, encode, write_atomically
from data_prep.resize import MOST_BYTES, prepare_picture
from data_prep.sources import SourceImage
from data_prep.statistics import ImageSums


@dataclass
class ShardRecord:
    """What the manifest, the index and the statistics need to know of one finished shard."""

    info: ShardInfo
    index: np.ndarray
    sums: ImageSums
    rejected: list[tuple[str, str]]  # name, reason

    def save(self, path: Path) -> None:
        text = json.dumps({"info": asdict(self.info), "rejected": self.rejected, "images": self.sums.images})
        arrays = {"index": self.index, "pixels": self.sums.pixels.astype(np.int32), "products": self.sums.products}
        write_atomically(path, lambda file: np.savez(file, text=np.array(text), **arrays))  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "ShardRecord":
        with np.load(path, allow_pickle=False) as arrays:
            text = json.loads(str(arrays["text"]))
            sums = ImageSums(text["images"], arrays["pixels"].astype(np.int64), arrays["products"])
            rejected = [(name, reason) for name, reason in text["rejected"]]
            return cls(ShardInfo(**text["info"]), arrays["index"], sums, rejected)


@dataclass
class ShardTask:
    """One shard to make: its pictures, their labels, and where it goes."""

    split: str
    number: int
    first_key: int
    images: Sequence[SourceImage]
    labels: Sequence[int]
    shard: Path
    record: Path
    image_size: int
    encoding: str
    jpeg_quality: int

    def is_done(self) -> bool:
        return self.record.is_file()

    def run(self) -> None:
        writer = ShardWriter(self.shard, self.number)
        sums = ImageSums.empty(self.image_size, 3)
        rejected: list[tuple[str, str]] = []
        for key, (image, label) in enumerate(zip(self.images, self.labels, strict=True), start=self.first_key):
            if _stop is not None and _stop.is_set():
                return
            data = image.read(
                MOST_BYTES + 1
            )  # an unreadable disk stops the preparation; an unreadable picture does not
            try:
                pixels = prepare_picture(data, self.image_size)
            except (OSError, ValueError) as error:
                rejected.append((image.name, " ".join(str(error).split())))
            else:
                writer.add(key, *encode(pixels, self.encoding, self.jpeg_quality), label)
                sums.add(pixels)
            if _progress is not None:
                with _progress.get_lock():
                    _progress[0] += 1
                    _progress[1] += len(data)
        info, index = writer.close()
        ShardRecord(info, index, sums, rejected).save(self.record)


_progress: "SynchronizedArray[int] | None" = None  # pictures done and bytes read, in all processes; set at their start
_stop: Event | None = None


def _start_worker(progress: "SynchronizedArray[int]", stop: Event) -> None:
    global _progress, _stop
    _progress, _stop = progress, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and sets `stop`


def run_tasks(tasks: Sequence[ShardTask], workers: int, bar: Any) -> None:
    """Runs the tasks on `workers` processes, and moves the tqdm `bar` picture by picture."""
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    progress, stop = context.Array("q", 2), context.Event()
    workers = min(workers, len(tasks))
    started = time.monotonic()
    with ProcessPoolExecutor(workers, context, _start_worker, (progress, stop)) as pool:
        futures = {pool.submit(task.run) for task in tasks}
        try:
            pending = futures
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                pictures, read = progress[:]
                bar.set_postfix_str(f"{read / 1e6 / (time.monotonic() - started):.1f} MB/s", refresh=False)
                bar.update(pictures - (bar.n - bar.initial))
                for future in done:
                    future.result()
        except BrokenProcessPool:
            raise RunError("a worker process died (out of memory?); start again to continue") from None
        except OSError as error:
            raise RunError(
                f"{error.filename or 'reading'}: {error.strerror or error}; start again to continue"
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
