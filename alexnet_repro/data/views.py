"""The views of one test image (section 4.1): five 224x224 patches, the four corners and the centre, and the
horizontal reflection of each.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class View:
    top: int
    left: int
    mirror: bool

    def cut(self, images: Tensor, side: int) -> Tensor:
        """[N, S, S, C] -> [N, side, side, C], not yet mirrored."""
        return images[:, self.top : self.top + side, self.left : self.left + side]


def views_of(views: int, margin: int) -> list[View]:
    """The centre patch alone (views=1), or the ten of the paper, the centre patch first.

    `margin`: image side minus patch side; the corners are (0, 0) ... (margin, margin).
    """
    centre = margin // 2
    if views == 1:
        return [View(centre, centre, False)]
    places = [(centre, centre), (0, 0), (0, margin), (margin, 0), (margin, margin)]
    return [View(top, left, mirror) for mirror in (False, True) for top, left in places]
