"""The views of one test image (section 4.1): five 224x224 patches, the four corners and the centre, and the
horizontal reflection of each. Or another number of them, one of VIEWS.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_repro.config.commands import check_views
from alexnet_repro.data.batch import Draws


@dataclass(frozen=True)
class View:
    top: int
    left: int
    mirror: bool

    def cut(self, images: Tensor, side: int) -> Tensor:
        """[N, S, S, C] -> [N, side, side, C], not yet mirrored."""
        return images[:, self.top : self.top + side, self.left : self.left + side]


def centre_of(margin: int) -> int:
    """First row and column of the centre patch, for a margin (image side minus patch side) of 0 or more."""
    return margin // 2


def views_of(views: int, margin: int) -> list[View]:
    """As many views as asked for, one of VIEWS, else ValueError; the centre patch first.

    `margin`: image side minus patch side; the corners are (0, 0) ... (margin, margin).
    """
    check_views(views)
    centre = centre_of(margin)
    if views == 1:
        return [View(centre, centre, False)]
    if views == 9:
        rows = (centre, 0, margin)
        return [View(top, left, False) for top in rows for left in rows]
    assert views == 10
    places = [(centre, centre), (0, 0), (0, margin), (margin, 0), (margin, margin)]
    return [View(top, left, mirror) for mirror in (False, True) for top, left in places]


def view_draws(views: Sequence[View], images: int, device: torch.device) -> Draws:
    """The views as draws on `device`, without colour noise: the first view of all `images`, then the second, ..."""
    top, left, mirror = (
        torch.cat([torch.full((images,), getattr(view, key), device=device) for view in views])
        for key in ("top", "left", "mirror")
    )
    return Draws(top, left, mirror, colour=None)
