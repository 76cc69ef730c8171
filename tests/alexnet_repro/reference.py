"""What the project computes, computed again without it: from the files on disk, with PIL, tarfile, json and numpy, and
the network of grouped.py.
"""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from grouped import Grouped
from networks import assert_sensitive
from PIL import Image
from torch import Tensor


class Pictures(NamedTuple):
    keys: list[str]  # of the members, without their ending: 000000012
    images: np.ndarray  # uint8 [N, S, S, 3]
    labels: np.ndarray  # int64 [N]


def read_split(data: Path, split: str) -> Pictures:
    """Every picture of a prepared data set's split, in the order of its shards, as any tar program sees it."""
    shards = json.loads((data / "manifest.json").read_text())["splits"][split]["shards"]
    keys, images, labels = [], [], []
    for shard in shards:
        with tarfile.open(data / split / shard["file"]) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, content in members.items():
            key, ending = name.split(".")
            if ending == "jpg":
                keys.append(key)
                images.append(np.asarray(Image.open(io.BytesIO(content))))
                labels.append(int(members[f"{key}.cls"]))
    return Pictures(keys, np.stack(images), np.array(labels))


def read_checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def network_of(checkpoint: dict[str, Any]) -> Grouped:
    """Of a run of SMALL's geometry, profile `paper` or `code2012`, in float64 and test mode."""
    model = checkpoint["model"]
    widths = {f"conv{i}": model[f"conv{i}"]["kernels"] for i in range(1, 6)}
    widths |= {name: model[name]["units"] for name in ("fc6", "fc7")}
    code2012 = model["same_map_norm"] is not None
    network = Grouped(widths, len(checkpoint["classes"]), map_side=1, code2012=code2012).double()
    network.load_columns(checkpoint["weights"])
    return network.eval()


def views_of(
    checkpoint: dict[str, Any], images: np.ndarray, views: int, mean: np.ndarray | None = None
) -> list[Tensor]:
    """Section 4.1: the centre patch, or the four corners, the centre, and the reflections of these five, as the network
    reads them: uint8 [N, S, S, 3] -> float64 [N, 3, side, side] each. `mean`: another than the checkpoint's.
    """
    mean = checkpoint["mean_image"].double().numpy() if mean is None else mean
    side, rule = checkpoint["model"]["input_size"], checkpoint["inputs"]
    margin = len(mean) - side
    half = margin // 2
    places = [(0, 0), (0, margin), (margin, 0), (margin, margin)] * (views == 10) + [(half, half)]
    patches = []
    for mirrored in (False, True) if views == 10 else (False,):
        for top, left in places:
            patch = images[:, top : top + side, left : left + side].astype(np.float64)
            own = mean[top : top + side, left : left + side]
            if rule["mean"] == "at_patch":  # section 2: from each pixel its own mean, before anything is mirrored
                patch = (patch - own)[:, :, ::-1] if mirrored else patch - own
            else:  # as run in 2012: the central patch of the mean image, after it
                patch = (patch[:, :, ::-1] if mirrored else patch) - mean[half : half + side, half : half + side]
            patches.append(torch.from_numpy(np.ascontiguousarray(patch.transpose(0, 3, 1, 2))) * rule["scale"])
    return patches


def probabilities(
    checkpoint: dict[str, Any], images: np.ndarray, views: int, mean: np.ndarray | None = None
) -> np.ndarray:
    """float64 [N, K]: the softmax outputs, averaged over the views."""
    return _by_view(checkpoint, images, views, mean).mean(axis=0)


def assert_sensitive_to_views(checkpoint: dict[str, Any], images: np.ndarray, tolerance: float) -> None:
    """The network of a checkpoint is sensitive (networks.py), and each of the ten views counts: left out, it moves the
    average for some picture by at least a hundred tolerances.
    """
    mean = checkpoint["mean_image"].double().numpy()
    assert_sensitive(lambda i, m: probabilities(checkpoint, i, 1, m), images, mean, tolerance)
    ten = _by_view(checkpoint, images, 10)
    for number in range(10):
        moved = np.abs(np.delete(ten, number, axis=0).mean(axis=0) - ten.mean(axis=0)).max()
        assert moved >= 100 * tolerance, f"leaving out view {number} moves the average by {moved:.1e} only"


def _by_view(checkpoint: dict[str, Any], images: np.ndarray, views: int, mean: np.ndarray | None = None) -> np.ndarray:
    """float64 [views, N, K]."""
    network = network_of(checkpoint)
    with torch.no_grad():
        return np.stack([network(view).softmax(1).numpy() for view in views_of(checkpoint, images, views, mean)])
