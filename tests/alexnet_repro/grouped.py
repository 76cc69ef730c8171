"""Figure 2 on one device, written independently of alexnet_repro.model: grouped convolutions and whole dense layers.

The tests compare the two-column network with it; tests/benchmarks/grouped_convolutions.py compares their speed.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Grouped(nn.Module):
    """Profile `paper` or `code2012`. Parameters are the columns' joined: `conv3.weight` is conv3.a, then conv3.b."""

    def __init__(
        self, widths: dict[str, int], classes: int, map_side: int, code2012: bool = False, across: str = "column"
    ) -> None:
        """`map_side`: of the maps that fc6 reads, 6 for images of 224. `across`: of model.norm."""
        super().__init__()
        w = widths
        self.code2012, self.groups = code2012, {"column": 2, "layer": 1}[across]
        self.conv1 = nn.Conv2d(3, w["conv1"], 11, stride=4)
        self.conv2 = nn.Conv2d(w["conv1"], w["conv2"], 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(w["conv2"], w["conv3"], 3, padding=1)
        self.conv4 = nn.Conv2d(w["conv3"], w["conv4"], 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(w["conv4"], w["conv5"], 3, padding=1, groups=2)
        self.fc6 = nn.Linear(w["conv5"] * map_side**2, w["fc6"])
        self.fc7 = nn.Linear(w["fc6"], w["fc7"])
        self.fc8 = nn.Linear(w["fc7"], classes)

    def forward(self, images: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """`masks`: of fc6 and fc7, 0 or 1, for training; None is test mode."""
        x = self.conv1(F.pad(images, (0, 3, 0, 3)))
        if self.code2012:
            x = F.relu(F.max_pool2d(self.norm(x, 1e-4), 3, 2))
            x = F.max_pool2d(self.same_map(self.norm(F.relu(self.conv2(x)), 1e-4)), 3, 2)
        else:
            x = F.max_pool2d(self.norm(F.relu(x), 5e-4), 3, 2)
            x = F.max_pool2d(self.norm(F.relu(self.conv2(x)), 5e-4), 3, 2)
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x = F.relu(F.max_pool2d(self.conv5(x), 3, 2)).flatten(1)
        first, second = masks or (0.5, 0.5)
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(x)) * first)) * second)

    def norm(self, x: Tensor, torch_alpha: float) -> Tensor:
        """Within each half of the maps, the halves as images of their own, or over all."""
        n, maps, height, width = x.shape
        halves = x.reshape(self.groups * n, maps // self.groups, height, width)
        return F.local_response_norm(halves, 5, alpha=torch_alpha, beta=0.75, k=2.0).reshape(x.shape)

    @staticmethod
    def same_map(x: Tensor) -> Tensor:
        window = torch.ones(x.shape[1], 1, 5, 5, dtype=x.dtype, device=x.device)
        return x / (1 + 1e-3 / 25 * F.conv2d(x * x, window, padding=2, groups=x.shape[1])) ** 0.75

    def columns(self, name: str) -> list[str]:
        """conv3.weight -> the names of its columns, in order."""
        layer, kind = name.split(".")
        return [f"{layer}.{column}.{kind}" for column in ("a" if layer == "fc8" else "ab")]

    def load_columns(self, state: dict[str, Tensor]) -> None:
        """`state`: of the two-column network, whose fc8 may lie in one column or in both."""
        names = {name: [name.replace(".", f".{column}.") for column in "ab"] for name in self.state_dict()}
        self.load_state_dict({name: torch.cat([state[c] for c in two if c in state]) for name, two in names.items()})
