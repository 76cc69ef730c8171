"""From a prepared data set to the network's input: reading, batches, augmentation (4.1), test views."""

from alexnet_repro.data.augment import ColourNoise, draw_epoch, shuffled
from alexnet_repro.data.batch import Batch, Draws
from alexnet_repro.data.dataset import PreparedData
from alexnet_repro.data.inputs import ColumnInputs, InputRule, InputTransform, memory_format
from alexnet_repro.data.loader import epoch_batches, whole_images
from alexnet_repro.data.prefetch import on_devices
from alexnet_repro.data.resident import ResidentSplit, refuse_larger_than_memory
from alexnet_repro.data.views import View, view_draws, views_of
from alexnet_repro.data.workers import LoaderError, Loading
