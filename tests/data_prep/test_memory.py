"""Memory does not grow with the number of images, in any of the ways in which they are read."""

import platform
import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest

# In processes of its own, each of which leaves its peak in KiB. (What getrusage says contains the parent's peak.)
PROGRAM = """
import multiprocessing.util, os, re, sys
from pathlib import Path
from data_prep import pool
from data_prep.common.cli import load
from data_prep.prepare import PrepareConfig, prepare

def leave_peak(kind):
    peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
    Path(__file__).with_name(f"{kind}-{os.getpid()}").write_text(peak)

pool._context = lambda tasks: multiprocessing.get_context("spawn")  # workers that import this file
if __name__ == "__main__":
    prepare(load("prepare", PrepareConfig, sys.argv[1:]))
    leave_peak("command")
else:
    multiprocessing.util.Finalize(None, leave_peak, ("worker",), exitpriority=1)
"""


def peaks(tmp_path: Path, layout: str, count: int) -> tuple[int, int]:
    """Of preparing `count` images of 64x64, 500 to a shard."""
    src, rng = tmp_path / f"src-{count}", np.random.default_rng(0)
    images = [b"P6 64 64 255\n" + rng.integers(0, 256, 64 * 64 * 3, np.uint8).tobytes() for _ in range(100)]
    named = {f"n{i % 10:08d}_{i}.JPEG": (f"n{i % 10:08d}", images[i % 100]) for i in range(count)}
    val = dict(list(named.items())[:10])
    if layout == "tars":
        layouts.ilsvrc2012_half_unpacked(src, named, val)
    else:  # one row group a file, as some writers leave it
        rows = [(data, name, int(wnid[1:])) for name, (wnid, data) in named.items()]
        layouts.write_parquet(src / "train.parquet", rows, None, count)
        layouts.write_parquet(src / "validation.parquet", rows[:10], None, count)
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    settings = ["image_size=64", "images_per_shard=500", "workers=1", f"src={src}", f"out={tmp_path / f'out-{count}'}"]
    subprocess.run([sys.executable, script, *settings], capture_output=True, text=True, check=True)
    worker, command = ([int(path.read_text()) for path in tmp_path.glob(f"{kind}-*")] for kind in ("worker", "command"))
    return max(worker), max(command)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("layout", ["tars", "parquet"])
def test_ten_times_the_images_in_the_same_memory(layout: str, tmp_path: Path) -> None:
    (few, few_command), (many, many_command) = (peaks(tmp_path / str(count), layout, count) for count in (500, 5000))
    print(f"{layout}: peak of a worker {few / 1024:.0f} MiB for 500, {many / 1024:.0f} MiB for 5,000 images;")
    print(f"of the command itself {few_command / 1024:.0f} and {many_command / 1024:.0f} MiB")
    assert many < 1.2 * few
    assert many_command < 1.2 * few_command


FAULTS = """
import resource, sys
from pathlib import Path
from tqdm import tqdm
from data_prep.pool import run_tasks

class Images:
    def __init__(self, out):
        self.out = out

    def run(self):
        for number in range(60):
            if number == 10:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            stages = [bytearray(1 << 20) for _ in range(4)]  # decoded, resized, cut, encoded
            for stage in stages:
                for page in range(0, len(stage), 4096):
                    stage[page] = 1
            del stage, stages
        Path(self.out).write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))

if __name__ == "__main__":
    Images("elsewhere").run()
    run_tasks([Images("in a worker")], 1, tqdm(file=sys.stderr))
"""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
@pytest.mark.skipif(HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="pages are few anyway")
def test_in_a_worker_the_memory_of_one_image_serves_the_next(tmp_path: Path) -> None:
    """Pages that the kernel has to map for fifty images: none in a worker, hundreds for each elsewhere."""
    (tmp_path / "program.py").write_text(FAULTS)
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, check=True)
    in_a_worker, elsewhere = (int((tmp_path / name).read_text()) for name in ("in a worker", "elsewhere"))
    print(f"{in_a_worker} and {elsewhere} pages")
    assert 50 * in_a_worker < elsewhere
