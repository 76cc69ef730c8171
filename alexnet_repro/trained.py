"""A trained run as every later command needs it: its network with the weights of a checkpoint, on devices, and what
turns pictures into its input.
"""

from dataclasses import dataclass

from omegaconf import OmegaConf

from alexnet_repro import runtime
from alexnet_repro.config import ModelConfig, RunConfig
from alexnet_repro.data import ColumnInputs
from alexnet_repro.model import AlexNet, choose_devices, place
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.training.checkpoint import Checkpoint
from data_prep.command import checked


@dataclass
class TrainedModel:
    model: AlexNet
    checkpoint: Checkpoint
    inputs: ColumnInputs
    image_size: int
    margin: int  # image_size minus the network's input size


def load_trained(config: RunConfig, checkpoint_name: str) -> TrainedModel:
    """RequestError if the run or the checkpoint is not there. Prints placement's warning, if any."""
    checkpoint = RunFolder(config.folder).checkpoint(checkpoint_name)
    model_config = checked(OmegaConf.create(checkpoint.model), ModelConfig)
    image_size, channels = checkpoint.mean_image.shape[1:]
    model = AlexNet(model_config, len(checkpoint.classes), channels)
    model.load_state_dict(checkpoint.weights)
    devices, warning = choose_devices(model_config.columns, config.gpus, config.devices)
    if warning:
        print(f"warning: {warning}")
    runtime.configure(config.runtime)
    place(model, devices).eval()
    mean, components = checkpoint.mean_image.numpy(), checkpoint.colour_components.numpy()
    inputs = ColumnInputs(mean, components, model_config.input_size, devices, config.runtime.channels_last)
    return TrainedModel(model, checkpoint, inputs, image_size, image_size - model_config.input_size)
