"""A trained network and everything around it as one module, for other runtimes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alexnet_repro.data import InputRule, View
from alexnet_repro.model import AlexNet


class Classifier(nn.Module):
    """Prepared pictures to probabilities: uint8 [N, S, S, C] -> float32 [N, classes].

    Minus the mean image, cut into views, through the network in test mode, softmax outputs averaged over the views:
    what `predict.predict` computes batch by batch, without its placement on devices.
    """

    mean_image: Tensor

    def __init__(self, network: AlexNet, rule: InputRule, views: Sequence[View]) -> None:
        super().__init__()
        self.network = network
        self.rule = rule
        self.views = list(views)
        self.register_buffer("mean_image", torch.from_numpy(rule.mean_image))  # float32 [S, S, C]
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        patches = torch.cat([self._patch(images.float(), view) for view in self.views])
        if self.rule.scale != 1:
            patches = patches * self.rule.scale
        logits = self.network(patches.permute(0, 3, 1, 2))  # [views * N, classes]
        return logits.softmax(1).unflatten(0, (len(self.views), -1)).mean(0)

    def _patch(self, images: Tensor, view: View) -> Tensor:
        """float32 [N, side, side, C], without its mean, mirrored if the view is."""
        side = self.rule.size
        if self.rule.mean == "at_patch":
            patch = view.cut(images - self.mean_image, side)
            return patch.flip(2) if view.mirror else patch
        patch = view.cut(images, side)
        start = self.rule.margin // 2
        centre = self.mean_image[start : start + side, start : start + side]
        return (patch.flip(2) if view.mirror else patch) - centre
