"""A trained network, as the commands after training need it: with the weights of a checkpoint, on its devices, and
with what turns images into its input.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from omegaconf import OmegaConf

from alexnet_repro import runtime
from alexnet_repro.config import ModelConfig, RunConfig, RuntimeConfig
from alexnet_repro.data import ColumnInputs, PreparedData
from alexnet_repro.model import AlexNet, devices_for, place
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import RunFolder
from data_prep.common.cli import checked
from data_prep.common.errors import RequestError
from data_prep.format import MANIFEST


@dataclass
class TrainedModel:
    model: AlexNet
    checkpoint: Checkpoint
    inputs: ColumnInputs
    image_size: int  # the side of the images that it was trained on
    runtime: RuntimeConfig

    def check_data(self, data: PreparedData, run: str, any_classes: bool = False) -> None:
        """RequestError unless `data` has the classes, image size and channels that the network was trained on.

        `any_classes`: the classes are not looked at.
        """
        if not any_classes and data.classes != self.checkpoint.classes:
            raise RequestError(f"{data.folder}: has other classes than run {run} was trained on")
        if data.image_size != self.image_size:
            raise RequestError(
                f"{data.folder}: images of {data.image_size} pixels, run {run} was trained on {self.image_size}"
            )
        if data.channels != (channels := self.checkpoint.mean_image.shape[-1]):
            raise RequestError(
                f"{data.folder}: images of {data.channels} channels, run {run} was trained on {channels}"
            )


def prepared_for(run: Path, path: str | None) -> PreparedData:
    """The data set at `path`, or if None the one that the run in the folder `run` was trained on. A relative path is
    looked for from here, and then from the folders that the run lies in, as a run may have been moved together with
    its data. RequestError if there is none.
    """
    if path is not None:
        return PreparedData(path)
    trained_on = Path(RunFolder(run).config().data.path)
    for folder in (Path(), *run.resolve().parents):
        if (folder / trained_on / MANIFEST).is_file():
            return PreparedData(folder / trained_on)
    raise RequestError(
        f"{trained_on}: the data set that {run} was trained on, and neither here nor beside the run; give data_path=DIR"
    )


Network = TypeVar("Network", bound=AlexNet)


def with_weights(kind: type[Network], checkpoint: Checkpoint) -> Network:
    """The network of a checkpoint with its weights, on the CPU, in evaluation mode, as an AlexNet or a class derived
    from it. The tensors are those of the checkpoint, not copies of them.
    """
    config = checked(OmegaConf.create(checkpoint.model), ModelConfig)
    with torch.device("meta"):  # no memory, and no numbers drawn that would be overwritten
        model = kind(config, len(checkpoint.classes), checkpoint.mean_image.shape[-1])
    model.load_state_dict(checkpoint.weights, assign=True)
    return model.eval()


def load_trained(config: RunConfig, checkpoint_name: str) -> TrainedModel:
    """The run's network on the devices that `config` asks for, and a printed warning if those are not there.

    RequestError if the run or the checkpoint is not there.
    """
    checkpoint = RunFolder(config.folder).checkpoint(checkpoint_name)
    model = with_weights(AlexNet, checkpoint)
    devices = devices_for(model.config.columns, config.gpus, config.devices)
    runtime.configure(config.runtime)
    place(model, devices)
    rule = checkpoint.input_rule()
    inputs = ColumnInputs(rule, devices, config.runtime.channels_last)
    return TrainedModel(model, checkpoint, inputs, len(rule.mean_image), config.runtime)
