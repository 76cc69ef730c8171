"""python -m alexnet_repro.train +gpus=2 [data=...] [model=...] [experiment=...] [run=NAME]"""

import time

from alexnet_repro import runtime
from alexnet_repro.config import TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.model import AlexNet, choose_devices, initialise, place
from alexnet_repro.reporting.progress import duration, percent
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.training.loop import Trainer
from data_prep.command import main


def train(config: TrainConfig) -> None:
    started = time.monotonic()
    # Everything that can be wrong with the request is found out before the run folder is touched.
    data = PreparedData(config.data.path)
    devices, warning = choose_devices(config.model.columns, config.gpus, config.devices)
    model = AlexNet(config.model, len(data.classes), data.channels)
    folder = RunFolder(config.folder)
    runtime.configure(config.runtime)
    trainer = Trainer(config, data, place(initialise(model, config.seed), devices), folder)
    folder.open_for_training(config)
    with folder.locked():
        if warning:
            print(f"warning: {warning}")
        print(f"data: {data.describe()}")
        print(f"model: {config.model.name}, columns on {', '.join(map(str, devices))}; run folder {folder.path}")
        if checkpoint := folder.last_checkpoint():
            trainer.resume(checkpoint)
            print(f"continuing after epoch {trainer.epoch}, step {trainer.step}")
        trainer.run()
    best = min(trainer.history, key=lambda row: row["val_top1_error"])
    print(
        f"done: {trainer.epoch} epochs, {trainer.step} steps, {duration(time.monotonic() - started)} since this start; "
        f"best val top-1 error {percent(best['val_top1_error'])} (centre patch) after epoch {best['epoch']}\n"
        f"next: python -m alexnet_repro.evaluate run={config.run}"
        + (f" runs_dir={config.runs_dir}" if config.runs_dir != "runs" else "")
    )


if __name__ == "__main__":
    main("train", TrainConfig, train)
