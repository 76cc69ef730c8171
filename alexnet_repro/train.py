"""python -m alexnet_repro.train +gpus=2 [data=...] [model=...] [experiment=...] [run=NAME]

torchrun --nproc-per-node=N -m alexnet_repro.train ...    N copies of the columns, each with its share of every batch
"""

import time
from contextlib import ExitStack

from alexnet_repro import runtime
from alexnet_repro.config import TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.model import AlexNet, choose_devices, initialise, place
from alexnet_repro.ranks import Ranks
from alexnet_repro.reporting.progress import duration, percent
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.training.loop import Stopped, Trainer
from alexnet_repro.training.stop import StopRequest
from alexnet_repro.transfer import take_weights
from data_prep.command import main


def train(config: TrainConfig) -> None:
    started = time.monotonic()
    ranks = Ranks.of_environment()
    # Everything that can be wrong with the request is found out before the run folder is touched.
    data = PreparedData(config.data.path)
    devices, warning = choose_devices(
        config.model.columns, config.gpus, config.devices, ranks.local_rank, ranks.local_size
    )
    model = initialise(AlexNet(config.model, len(data.classes), data.channels), config.seed)
    folder = RunFolder(config.folder)
    taken = take_weights(config, data, model, folder)
    place(model, devices)
    runtime.configure(config.runtime)
    runtime.compile_network(model, config.runtime, devices)
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
            return
    best = min(trainer.history, key=lambda row: row["val_top1_error"])
    say(
        f"done: {trainer.epoch} epochs, {trainer.step} steps, {duration(time.monotonic() - started)} since this start; "
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
    main("train", TrainConfig, train)
