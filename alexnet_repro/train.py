"""python -m alexnet_repro.train +gpus=2 [data=...] [model=...] [experiment=...] [run=NAME]

--multirun experiment=a,b seed=0,1,2      one run after the other, in one process; what is finished is passed over

torchrun --nproc-per-node=N -m alexnet_repro.train ...    N copies of the columns, each with its share of every batch
"""

from alexnet_repro.config import TrainConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("train", TrainConfig)  # first, as the imports below take seconds

import time
from collections.abc import Sequence
from contextlib import ExitStack

import torch

from alexnet_repro import runtime
from alexnet_repro.data import PreparedData
from alexnet_repro.model import AlexNet, choose_devices, initialise, place
from alexnet_repro.runs.checkpoint import load_checkpoint
from alexnet_repro.runs.folder import LAST, RunFolder
from alexnet_repro.training.loop import Stopped, Trainer, refuse_small_pictures
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.schedule import phase_after
from alexnet_repro.training.stop import StopRequest
from alexnet_repro.training.transfer import take_weights
from data_prep.common.errors import STOPPED, RequestError
from data_prep.common.text import duration, percent


def check(config: TrainConfig) -> None:
    """RequestError for whatever can be known to be wrong before one of several jobs begins."""
    if Ranks.of_environment().size > 1:
        raise RequestError("--multirun: not under torchrun; start torchrun once for each job")
    data = PreparedData(config.data.path)
    refuse_small_pictures(config, data)
    for split in ("train", "val"):
        data.split(split)
    devices, _ = choose_devices(config.model.columns, config.gpus, config.devices)
    runtime.fast_form(config.runtime, config.model, devices)
    with torch.device("meta"):
        AlexNet(config.model, len(data.classes), data.channels)
    RunFolder(config.folder).refuse_changes(config)


def train(config: TrainConfig) -> int | None:
    started = time.monotonic()
    ranks = Ranks.of_environment()
    # Everything that can be wrong with the request is found out before the run folder is touched.
    data = PreparedData(config.data.path)
    if ranks.size == 1 and (history := _finished(config, data)):
        print(f"finished before: {_result(config, history)}")
        return None
    devices, warning = choose_devices(
        config.model.columns, config.gpus, config.devices, ranks.local_rank, ranks.local_size
    )
    runtime.fast_form(config.runtime, config.model, devices, ranks.size)
    model = initialise(AlexNet(config.model, len(data.classes), data.channels), config.seed)
    folder = RunFolder(config.folder)
    taken = take_weights(config, data, model, folder)
    place(model, devices)
    runtime.configure(config.runtime)
    stop = StopRequest(same_within=3.0 if ranks.size > 1 else 0.0)
    trainer = Trainer(config, data, model, folder, ranks, stop)
    with ExitStack() as stack:
        stack.enter_context(ranks.joined(devices, config.runtime.loader_timeout))
        if ranks.first:
            stack.enter_context(folder.locked())
        ranks.wait(devices[0])
        folder.refuse_changes(config)
        say = print if ranks.first else _silent
        if warning:
            say(f"warning: {warning}")
        say(f"data: {data.describe()}")
        copies = f"{ranks.size} copies, in the first " if ranks.size > 1 else ""
        say(f"model: {config.model.name}, {copies}columns on {', '.join(map(str, devices))}; run folder {folder.path}")
        checkpoint, warning = folder.last_checkpoint()
        if warning:
            say(f"warning: {warning}")
        if checkpoint:
            trainer.resume(checkpoint)
            say(f"continuing after {_position(trainer)}")
        elif taken:
            trainer.init_from = taken.facts
            say(taken.told)
        trainer.agree()
        if ranks.first:
            folder.keep_config(config)
        stack.enter_context(stop)
        try:
            trainer.run()
        except Stopped:
            say(f"stopped by {stop.by or 'another process'} after {_position(trainer)}; all is saved, and the same "
                "command continues")  # fmt: skip
            return STOPPED
    took = f"{duration(time.monotonic() - started)} since this start"
    say(f"done: {_result(config, trainer.history, took)}")
    return STOPPED if stop else None  # asked when there was nothing left to stop, but perhaps another job


def _finished(config: TrainConfig, data: PreparedData) -> Sequence[dict[str, float]] | None:
    """The epochs of a run that its schedule has ended, with these settings on these pictures. None for any other, and
    where that is not sure at a glance.
    """
    folder = RunFolder(config.folder)
    if config.allow_changes or not folder.exists():
        return None
    folder.refuse_changes(config)
    try:
        last = load_checkpoint(folder.checkpoint_path(LAST), on_disk=True)
    except RequestError:  # damaged, say, and the one before may go on
        return None
    same = last.data["plan"] == data.identity()["plan"]
    return last.history if same and phase_after(config.schedule, last.history).finished else None


def _result(config: TrainConfig, history: Sequence[dict[str, float]], took: str = "") -> str:
    best = min(history, key=lambda row: row["val_top1_error"])
    return (
        f"{len(history)} epochs, {history[-1]['step']} steps{took and ', '}{took}; "
        f"best val top-1 error {percent(best['val_top1_error'])} (centre patch) after epoch {best['epoch']}\n"
        f"next: python -m alexnet_repro.evaluate run={config.run}"
        + (f" runs_dir={config.runs_dir}" if config.runs_dir != "runs" else "")
    )


def _position(trainer: Trainer) -> str:
    within = f" and {trainer.within.batch} batches" if trainer.within.batch else ""
    return f"{trainer.epoch} epochs{within}, step {trainer.step}"


def _silent(_text: str) -> None:
    """On every rank but the first."""


if __name__ == "__main__":
    main(jobs, train, check, writes=lambda config: config.folder)
