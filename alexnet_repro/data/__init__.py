"""From a prepared data set to the network's input: reading, batches, augmentation (4.1), test views."""

from alexnet_repro.data.augment import ColourNoise, Draws, draw_epoch, shuffled
from alexnet_repro.data.batch import Batch
from alexnet_repro.data.dataset import PreparedData
from alexnet_repro.data.inputs import ColumnInputs, InputRule, InputTransform, memory_format
from alexnet_repro.data.loader import LoaderError, Loading, epoch_batches, whole_images
from alexnet_repro.data.prefetch import on_devices
from alexnet_repro.data.resident import ResidentSplit, refuse_larger_than_memory
from alexnet_repro.data.views import View, views_of

__all__ = [
    "Batch", "ColourNoise", "ColumnInputs", "Draws", "InputRule", "InputTransform", "LoaderError", "Loading",
    "PreparedData", "ResidentSplit", "View",
    "draw_epoch", "epoch_batches", "memory_format", "on_devices", "refuse_larger_than_memory", "shuffled", "views_of",
    "whole_images",
]  # fmt: skip
