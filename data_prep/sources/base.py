"""What every layout yields."""

from dataclasses import dataclass, field
from pathlib import Path

from data_prep.sources.image import DeadLink, PixelImage, SourceImage
from data_prep.sources.listing import Listing

__all__ = ["DeadLink", "Listing", "PixelImage", "Source", "SourceImage"]


@dataclass
class Source:
    """All images of a source, by split, in the source's own order."""

    layout: str
    path: Path
    splits: dict[str, Listing]
    class_names: dict[str, str] = field(default_factory=dict)  # what people call a class, by wnid, as far as is known
    complete: dict[str, int] = field(default_factory=dict)  # images of each split of a complete copy, if known
    per_class: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> class -> the same
    per_class_is_least: bool = False  # whether those are what every class has at least
    md5: dict[Path, str] = field(default_factory=dict)  # of the files that were found, as officially published
    channels: int = 3
    side: int | None = None  # of its images, where all are squares of one size
    slow_at_random: bool = False  # a single image can only be had by reading its neighbours too
    left_out: list[str] = field(default_factory=list)  # what lies there and is not used, and why
    notes: list[str] = field(default_factory=list)  # what else is worth knowing of what was found
    no_val: str = ""  # what to say if val is needed and missing: where it would lie
