"""A trained network and everything around it as one module, for other runtimes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alexnet_repro.data import View
from alexnet_repro.model import AlexNet


class Classifier(nn.Module):
    """Prepared pictures to probabilities: uint8 [N, S, S, C] -> float32 [N, classes].

    Minus the mean image, cut into views, through the network in test mode, softmax outputs averaged over the views:
    what `predict.predict` computes batch by batch, without its placement on devices.
    """

    mean_image: Tensor

    def __init__(self, network: AlexNet, mean_image: Tensor, views: Sequence[View]) -> None:
        """`mean_image`: float32 [S, S, C]."""
        super().__init__()
        self.network = network
        self.views = list(views)
        self.register_buffer("mean_image", mean_image)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        centred = images.float() - self.mean_image
        side = self.network.config.input_size
        patches = [view.cut(centred, side) for view in self.views]  # [N, side, side, C] each
        patches = [patch.flip(2) if view.mirror else patch for view, patch in zip(self.views, patches, strict=True)]
        logits = self.network(torch.cat(patches).permute(0, 3, 1, 2))  # [views * N, classes]
        return logits.softmax(1).unflatten(0, (len(self.views), -1)).mean(0)
