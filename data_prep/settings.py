"""The keys of conf/prepare.yaml."""

from dataclasses import dataclass
from typing import Any

from data_prep.command import RequestError
from data_prep.sources import LAYOUTS


@dataclass
class PrepareConfig:
    src: str
    out: str
    layout: str | None
    image_size: int
    encoding: str
    jpeg_quality: int
    images_per_shard: int
    shuffle_seed: int
    classes: int | None
    val_from_train: float | None
    split_seed: int
    max_rejected: float
    workers: int | None
    in_source_order: bool | None
    md5: bool

    def __post_init__(self) -> None:
        def require(condition: bool, key: str, constraint: str) -> None:
            if not condition:
                raise RequestError(f"{key}={getattr(self, key)}: must be {constraint}")

        require(self.layout is None or self.layout in LAYOUTS, "layout", "one of " + ", ".join(LAYOUTS) + ", or null")
        require(1 <= self.image_size <= 4096, "image_size", "1 to 4096")
        require(self.encoding in ("jpeg", "raw"), "encoding", "jpeg or raw")
        require(1 <= self.jpeg_quality <= 100, "jpeg_quality", "1 to 100")
        require(1 <= self.images_per_shard <= 8192, "images_per_shard", "1 to 8192")
        require(self.shuffle_seed >= 0, "shuffle_seed", "0 or more")
        require(self.classes is None or self.classes >= 1, "classes", "1 or more, or null for all")
        fraction = self.val_from_train
        require(fraction is None or 0 < fraction < 1, "val_from_train", "a fraction between 0 and 1, or null")
        require(self.split_seed >= 0, "split_seed", "0 or more")
        require(0 <= self.max_rejected <= 1, "max_rejected", "a fraction, 0 to 1")
        require(self.workers is None or self.workers >= 1, "workers", "1 or more, or null")

    def pixels_follow_from(self) -> dict[str, Any]:
        """The settings without which the same source gives another data set."""
        keys = ["image_size", "encoding", "jpeg_quality", "images_per_shard", "shuffle_seed"]
        if self.classes is not None:
            keys.append("classes")
        if self.val_from_train is not None:
            keys += ["val_from_train", "split_seed"]
        return {key: getattr(self, key) for key in keys}
