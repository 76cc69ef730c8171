"""The network of Figure 2: layers, the exchange between columns, initial weights and placement on devices."""

from alexnet_repro.model.alexnet import AlexNet, LayerObserver
from alexnet_repro.model.init import initialise
from alexnet_repro.model.placement import choose_devices, devices_for, place
