"""A trained run as every later command needs it: its network with the weights of a checkpoint, on devices, and what
turns pictures into its input.
"""

from dataclasses import dataclass

import torch
from omegaconf import OmegaConf

from alexnet_repro.config import ModelConfig
from alexnet_repro.data import InputTransform
from alexnet_repro.model import AlexNet, choose_devices, place
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.training.checkpoint import Checkpoint
from data_prep.command import checked


@dataclass
class TrainedModel:
    model: AlexNet
    checkpoint: Checkpoint
    transforms: list[InputTransform]  # one a column
    image_size: int
    margin: int  # image_size minus the network's input size
    uses_gpu: bool


def load_trained(
    folder: RunFolder, checkpoint_name: str, gpus: int | None = None, devices: list[str] | None = None
) -> TrainedModel:
    """RequestError if the run or the checkpoint is not there. Prints placement's warning, if any."""
    checkpoint = folder.checkpoint(checkpoint_name)
    config = checked(OmegaConf.create(checkpoint.model), ModelConfig)
    image_size, channels = checkpoint.mean_image.shape[1:]
    model = AlexNet(config, len(checkpoint.classes), channels)
    model.load_state_dict(checkpoint.weights)
    chosen, warning = choose_devices(config.columns, gpus, devices)
    if warning:
        print(f"warning: {warning}")
    place(model, chosen).eval()
    mean, components = checkpoint.mean_image.numpy(), checkpoint.colour_components.numpy()
    transforms = [InputTransform(mean, components, config.input_size, device) for device in chosen]
    gpu = any(torch.device(device).type == "cuda" for device in chosen)
    return TrainedModel(model, checkpoint, transforms, image_size, image_size - config.input_size, gpu)
