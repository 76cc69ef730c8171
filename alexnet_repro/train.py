"""python -m alexnet_repro.train +gpus=2 [data=...] [model=...] [experiment=...] [run=NAME]

--multirun experiment=a,b seed=0,1,2      one run after the other, in one process; finished runs are skipped

torchrun --nproc-per-node=N -m alexnet_repro.train ...    N copies of the columns, each with its share of every batch
"""

from alexnet_repro.config import TrainConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("train", TrainConfig)  # first, as the imports below take seconds

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext

import torch

from alexnet_repro import runtime
from alexnet_repro.data import ColumnInputs, PreparedData
from alexnet_repro.data.loader import note_on_workers
from alexnet_repro.evaluation.inference import forward_for
from alexnet_repro.model import AlexNet, choose_devices, initialise, place
from alexnet_repro.runs.checkpoint import load_checkpoint
from alexnet_repro.runs.folder import LAST, RunFolder, runs_dir_option
from alexnet_repro.training.background import Background
from alexnet_repro.training.batches import Batches, note_on_patches, refuse_misfit
from alexnet_repro.training.loop import Trainer
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.saver import Saver
from alexnet_repro.training.schedule import described, divisions_done, phase_after
from alexnet_repro.training.state import TrainingState
from alexnet_repro.training.step import Stepper
from alexnet_repro.training.stop import Stopped, StopRequest
from alexnet_repro.training.transfer import take_weights
from alexnet_repro.training.watch import Watch
from data_prep.common.errors import STOPPED, RequestError
from data_prep.common.text import duration, percent


def check(config: TrainConfig) -> None:
    """RequestError for whatever can be known to be wrong before one of several jobs begins."""
    ranks = Ranks.from_env()
    if ranks.size > 1:
        raise RequestError("--multirun: not under torchrun; start torchrun once for each job")
    data = PreparedData(config.data.path)
    _checked_devices(config, data, ranks)
    with torch.device("meta"):  # where a network takes no memory
        model = AlexNet(config.model, len(data.classes), data.channels)
    # Not on "meta": Adam imports torch._dynamo, which PyTorch 2.6 cannot do there.
    TrainingState(config, data, model)
    RunFolder(config.folder).refuse_changes(config)


def _checked_devices(config: TrainConfig, data: PreparedData, ranks: Ranks) -> tuple[list[torch.device], str | None]:
    """The columns' devices and a warning, as choose_devices gives them. RequestError for whatever is wrong and can be
    seen without the network and the run's folder.
    """
    refuse_misfit(config, data, ranks)
    for split in ("train", "val"):
        data.split(split)  # for its RequestError alone, as fast_form below
    of_rank = ranks.local_rank, ranks.local_size
    devices, warning = choose_devices(config.model.columns, config.gpus, config.devices, *of_rank)
    runtime.fast_form(config.runtime, config.model, devices, ranks.size)
    return devices, warning


def train(config: TrainConfig) -> int | None:
    started = time.monotonic()
    ranks = Ranks.from_env()
    # Everything that can be wrong with the request is found out before the run folder is touched.
    data = PreparedData(config.data.path)
    if ranks.size == 1 and (history := _finished(config, data)):
        print(f"finished before: {_result(config, history)}")
        return None
    devices, warning = _checked_devices(config, data, ranks)
    model = initialise(AlexNet(config.model, len(data.classes), data.channels), config.seed)
    folder = RunFolder(config.folder)
    taken = take_weights(config, data, model, folder)
    place(model, devices)
    runtime.configure(config.runtime)
    state = TrainingState(config, data, model)
    stop = StopRequest(same_within=3.0 if ranks.size > 1 else 0.0)
    batches = Batches(config, data, devices, ranks, stop)
    with ExitStack() as stack:
        stack.enter_context(ranks.process_group(devices, config.runtime.loader_timeout))
        if ranks.first:
            stack.enter_context(folder.locked())
        ranks.wait(devices[0])
        folder.refuse_changes(config)
        say: Callable[[str], None] = print if ranks.first else lambda _: None  # the first rank alone
        if warning:
            say(f"warning: {warning}")
        for note in (note_on_workers(config.runtime, ranks.local_size), note_on_patches(config, data)):
            if note:
                say(note)
        say(f"data: {data.describe()}")
        copies = f"{ranks.size} copies, in the first " if ranks.size > 1 else ""
        narrow = f", {config.model.width:g} of its width" if config.model.width != 1 else ""
        where = f"{copies}columns on {', '.join(map(str, devices))}"
        say(f"model: {config.model.name}{narrow}, {where}; run folder {folder.path}")
        say(f"schedule: {described(config.schedule)}")
        checkpoint, warning = folder.last_checkpoint()
        if warning:
            say(f"warning: {warning}")
        if checkpoint:
            state.resume(checkpoint)
            say(f"continuing after {state}")
        elif taken:
            state.init_from, summary = taken
            say(summary)
        state.refuse_disagreement(ranks)
        if ranks.first:
            folder.write_config(config)
        stack.enter_context(stop)
        try:
            run(folder, state, batches, ranks, stop)
        except Stopped:
            by = stop.by or "another process"
            say(f"stopped by {by} after {state}; all is saved, and the same command continues")
            return STOPPED
    took = f", {duration(time.monotonic() - started)} since this start"
    say(f"done: {_result(config, state.history, took)}")
    schedule, divisions = config.schedule, divisions_done(config.schedule, state.history)
    if schedule.patience is not None and state.epoch >= schedule.epochs and divisions < schedule.divisions:
        say(
            f"note: schedule.epochs={schedule.epochs} ended it after {divisions} of {schedule.divisions} divisions of "
            "the rate; the same command with 'allow_changes=[schedule.epochs]' schedule.epochs=N goes on"
        )
    return STOPPED if stop.asked else None  # asked when there was nothing left to stop, but perhaps another job


def run(folder: RunFolder, state: TrainingState, batches: Batches, ranks: Ranks, stop: StopRequest) -> None:
    """Makes the parts of a Trainer and runs it. `folder` exists and holds the configuration; errors as Trainer.run."""
    config, data, model = state.config, state.data, state.model
    devices = model.column_devices()
    rule = data.input_rule(config.augment, config.model.input_size)
    noise = data.colour_noise(config.augment)
    inputs = ColumnInputs(rule, devices, config.runtime.channels_last, noise)
    of_stepper = model, state.optimiser, inputs, config.seed, ranks, config.runtime.precision
    if runtime.fast_form(config.runtime, config.model, devices, ranks.size):
        from alexnet_repro.training.fast_step import FastStepper  # needs Triton

        stepper: Stepper = FastStepper(*of_stepper, noise, config.optim.batch_size)
    else:
        stepper = Stepper(*of_stepper)
    forward = forward_for(model, inputs, config.runtime, ranks.size)
    with (
        batches,  # opened first, as its processes are forked: no other thread should hold a lock then
        Background() as background,  # closed after the watch: it writes what was submitted
        Watch(folder, state, rule, background) if ranks.first else nullcontext() as watch,
    ):
        saver = Saver(folder, config.save_minutes, background)
        Trainer(state, batches, stepper, forward, saver, watch, stop).run()


def _finished(config: TrainConfig, data: PreparedData) -> Sequence[dict[str, float]] | None:
    """The history of a run that its schedule has ended, with these settings on these images. None for any other run,
    with allow_changes, and where its last checkpoint cannot tell.
    """
    folder = RunFolder(config.folder)
    if config.allow_changes or not folder.exists():
        return None
    folder.refuse_changes(config)
    try:
        last = load_checkpoint(folder.checkpoint_path(LAST), on_disk=True)
    except RequestError:  # damaged; the run may continue from the one before
        return None
    same = last.data_fingerprint == data.fingerprint
    return last.history if same and phase_after(config.schedule, last.history).finished else None


def _result(config: TrainConfig, history: Sequence[dict[str, float]], took: str = "") -> str:
    best = min(history, key=lambda row: row["val_top1_error"])
    return (
        f"{len(history)} epochs, {history[-1]['step']} steps{took}; "
        f"best val top-1 error {percent(best['val_top1_error'])} (centre patch) after epoch {best['epoch']}\n"
        f"next: python -m alexnet_repro.evaluate run={config.run}{runs_dir_option(config.runs_dir)}"
    )


if __name__ == "__main__":
    main(jobs, train, check, writes=lambda config: config.folder)
