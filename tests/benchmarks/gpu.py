"""python tests/benchmarks/gpu.py [FILE.json]: how fast the fast forms are on this GPU, as a Markdown table.

Steps are given back to back, as in training; torchvision's `alexnet` has the same optimiser, and the layout in which
it is faster. Times are medians, measured in this one process; the input path is one pass of 500 batches, the start one
training in a process of its own.
"""

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torchvision

from alexnet_repro import benchmark, runtime
from alexnet_repro.config import RuntimeConfig, TrainConfig
from alexnet_repro.data import Loading, PreparedData, ResidentSplit, draw_epoch, epoch_batches, on_devices, whole_images
from alexnet_repro.data.loader import loader_workers
from alexnet_repro.model import AlexNet, initialise, place
from alexnet_repro.report.environment import machine
from alexnet_repro.runs.metrics_log import read_metrics
from data_prep.common.cli import load
from data_prep.common.endings import run_and_exit
from data_prep.common.errors import RequestError, RunError
from data_prep.prepare import PrepareConfig, prepare
from data_prep.sample import write_sample

GPU = torch.device("cuda", 0)
BATCH = 128
BF16_GOAL = 0.15  # ms, of normalisation with its ReLU and pooling


def settle() -> None:
    """Waits until all GPUs are done."""
    for gpu in range(torch.cuda.device_count()):
        torch.cuda.synchronize(gpu)


def seconds(run: Callable[[], object], steps: int, rounds: int = 5) -> float:
    """Of one call among `steps` given back to back."""
    run()
    times = []
    for _ in range(rounds):
        settle()
        started = time.perf_counter()
        for _ in range(steps):
            run()
        settle()
        times.append((time.perf_counter() - started) / steps)
    return statistics.median(times)


def host_seconds(run: Callable[[], object]) -> float:
    """Until a call returns, with nothing else queued."""
    times = []
    for _ in range(30):
        settle()
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def configured(precision: str) -> RuntimeConfig:
    config = load("train", TrainConfig, ["data.path=none", f"runtime.precision={precision}"]).runtime
    runtime.configure(config)
    return config


def network() -> AlexNet:
    model = load("train", TrainConfig, ["data.path=none"]).model
    return place(initialise(AlexNet(model, 1000), 0), [GPU, GPU])


def torchvision_seconds(precision: str, layout: torch.memory_format) -> float:
    model = torchvision.models.alexnet().to(GPU).to(memory_format=layout)
    images = torch.randn(BATCH, 3, 224, 224, device=GPU).mul_(60).to(memory_format=layout)
    labels = torch.randint(1000, (BATCH,), device=GPU)
    return seconds(benchmark.training_step(model, images, labels, precision), 30, 3)


def steps() -> Iterator[tuple[str, float, str]]:
    for precision in ("bf16", "tf32", "fp32"):
        configured(precision)
        gc.collect()  # the networks of the precision before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run = benchmark.fast_step(network(), BATCH, precision)
        ours = seconds(run, 40)
        yield f"step, {precision} (ms)", 1e3 * ours, f"{BATCH / ours:,.0f} images/s"
        yield f"host time of a step, {precision} (ms)", 1e3 * host_seconds(run), "goal: 0.5 or less"
        yield f"peak memory, {precision} (GiB)", torch.cuda.max_memory_allocated() / 2**30, "the cards of 2012 had 3"
        del run
        theirs = {
            "channels-last": torchvision_seconds(precision, torch.channels_last),
            "contiguous": torchvision_seconds(precision, torch.contiguous_format),
        }
        best = min(theirs, key=lambda name: theirs[name])
        note = f"torchvision, {best}: {1e3 * theirs[best]:.2f} ms"
        yield f"torchvision / ours, {precision}", theirs[best] / ours, note


def two_gpus() -> Iterator[tuple[str, float, str]]:
    """A column on each: the fast form as graphs with copies between, the plain one kernel by kernel."""
    devices = [GPU, torch.device("cuda", 1)]
    for precision in ("bf16", "tf32", "fp32"):
        configured(precision)
        gc.collect()
        torch.cuda.empty_cache()
        model = load("train", TrainConfig, ["data.path=none"]).model
        images = [torch.randn(BATCH, 3, 224, 224, device=device).mul_(60) for device in devices]
        labels = torch.randint(1000, (BATCH,), device=GPU)
        for form in ("plain", "fast"):
            columns = place(initialise(AlexNet(model, 1000), 0), devices)
            run: Callable[[], object] = (
                benchmark.fast_step(columns, BATCH, precision)
                if form == "fast"
                else benchmark.training_step(columns, images, labels, precision)
            )
            took = seconds(run, 30)
            yield f"step on two GPUs, {form}, {precision} (ms)", 1e3 * took, f"{BATCH / took:,.0f} images/s"
            yield f"host time of a step on two GPUs, {form}, {precision} (ms)", 1e3 * host_seconds(run), ""


def kernels() -> Iterator[tuple[str, float, str]]:
    """As a graph: nothing of the host's time is in it."""
    from alexnet_repro.model.fused import after_conv

    norm = load("train", TrainConfig, ["data.path=none"]).model.norm
    for dtype in (torch.bfloat16, torch.float32):
        x = (torch.randn(BATCH, 48, 55, 55, device=GPU) * 60).to(dtype).to(memory_format=torch.channels_last)
        x.requires_grad_()
        bias = torch.zeros(48, device=GPU, requires_grad=True)
        grad = torch.randn(BATCH, 48, 27, 27, device=GPU).to(dtype).to(memory_format=torch.channels_last)

        def both(x: torch.Tensor = x, bias: torch.Tensor = bias, grad: torch.Tensor = grad) -> None:
            torch.autograd.grad(after_conv(x, bias, relu=True, norm=norm, pool=(3, 2)), [x, bias], [grad])

        both()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(10):
                both()
        name = str(dtype).removeprefix("torch.")
        yield (
            f"ReLU, norm, pool of 128x48x55x55, forward and backward, {name} (ms)",
            100 * seconds(graph.replay, 5),
            (f"goal: {BF16_GOAL} or less" if dtype == torch.bfloat16 else ""),
        )


def prepared_sample(folder: Path) -> Path:
    write_sample(folder / "archives", train_per_class=60, val_per_class=1)
    prepare(load("prepare", PrepareConfig, [f"src={folder / 'archives'}", f"out={folder / 'raw'}", "encoding=raw"]))
    return folder / "raw"


def start(data: Path) -> Iterator[tuple[str, float, str]]:
    """Seconds from the command, imports and all. Kernels are compiled by now."""
    workers = loader_workers(configured("bf16"))
    with tempfile.TemporaryDirectory() as runs:
        log = Path(runs) / "output"
        command = [sys.executable, "-m", "alexnet_repro.train", f"data.path={data}", f"runs_dir={runs}", "run=start"]
        started = time.perf_counter()
        with log.open("w") as output:
            training = subprocess.Popen(
                [*command, "gpus=1", "runtime.precision=bf16", "log_every=1"], stdout=output, stderr=output
            )
        try:
            while not read_metrics(Path(runs) / "start" / "metrics.jsonl", "steps"):
                if training.poll() is not None:
                    raise RunError(f"the training ended: {log.read_text()}")
                time.sleep(0.01)
            took = time.perf_counter() - started
        finally:
            training.kill()
            training.wait()
    yield "from the command until its first step is in metrics.jsonl (s)", took, f"{workers} workers; goal: 10 or less"


def inputs(data: Path) -> Iterator[tuple[str, float, str]]:
    """Streamed by workers, and from the memory of the device: alone, and with the step in bf16."""
    config = configured("bf16")
    workers = loader_workers(config)
    reader = PreparedData(data).split("train")
    count = 640 * BATCH  # of which 600 are taken, as the end of the workers is no part of a step
    order = np.resize(np.arange(len(reader)), count)
    augment = load("train", TrainConfig, ["data.path=none"]).augment
    draws = draw_epoch(augment, 0, 0, count, 32)
    loading = Loading(workers, True, 60.0, None)
    resident = ResidentSplit(reader, whole_images(reader, 256, BATCH, loading), GPU)
    step = benchmark.fast_stepper(network(), BATCH, "bf16")
    synthetic = seconds(benchmark.fast_step(network(), BATCH, "bf16"), 100)
    for name, split in (("streamed, raw", reader), ("in the GPU's memory", resident)):
        for what in ("alone", "end to end"):
            if what == "alone" and split is resident:
                continue
            batches = epoch_batches(split, order, draws, 224, BATCH, loading)
            started = pending = None
            for number, on in enumerate(on_devices(batches, [GPU])):
                if what == "end to end":
                    before, pending = pending, step(on, number, True, False)
                    if before is not None:
                        before.read()  # as in training, which is one step ahead of the GPU and no more
                if number == 99:  # workers are up, the graph is captured
                    torch.cuda.synchronize()
                    started = time.perf_counter()
                if number == 599:
                    break
            torch.cuda.synchronize()
            assert started is not None
            took = (time.perf_counter() - started) / 500
            yield f"{name}, {what} (images/s)", BATCH / took, f"{workers} workers" if split is reader else ""
            if what == "end to end":
                yield f"{name}: end to end / synthetic step", synthetic / took, "goal: 0.95"


def main() -> None:
    if not torch.cuda.is_available():
        raise RequestError("needs a GPU that PyTorch can use, and found none")
    about, rows = machine(), []
    with tempfile.TemporaryDirectory() as folder:
        data = prepared_sample(Path(folder))
        print("; ".join(f"{key}: {value}" for key, value in about.items()), f"\nbatch {BATCH}\n")
        print("| | | |\n|---|---|---|")
        sections = [steps(), kernels(), inputs(data), start(data)]
        if torch.cuda.device_count() > 1:
            sections.append(two_gpus())  # last, as it has run nowhere yet
        try:
            for what, value, note in chain(*sections):
                rows.append({"what": what, "value": value, "note": note})
                print(f"| {what} | {value:,.3f} | {note} |", flush=True)
        finally:
            if len(sys.argv) > 1:
                Path(sys.argv[1]).write_text(json.dumps({**about, "rows": rows}, indent=1))


if __name__ == "__main__":
    run_and_exit(main)
