"""Files that hold weights alone: torchvision's state dict of `alexnet`, and the safetensors that `export` writes."""

import io
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from alexnet_repro.weights.operations import LayerWeights
from data_prep.common.errors import RequestError
from data_prep.common.text import one_line

TORCHVISION_NAMES = {  # our layer -> torchvision's
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip


def read_pth(data: bytes) -> dict[str, Tensor]:
    """RequestError if it is no state dict. The prefix of DataParallel, module., is left out."""
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # a damaged file can fail in any way, and a whole network is code, which is not run
        raise RequestError("cannot be read as a state dict; save one with torch.save(net.state_dict(), FILE)") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise RequestError("is no state dict, names and tensors alone; save net.state_dict()")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def read_safetensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, and what the file says of itself. RequestError if it cannot be read."""
    import safetensors.torch  # of the extra `export`

    try:
        state = safetensors.torch.load(data)
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except Exception as error:  # SafetensorError is none of Python's, and json has its own
        raise RequestError(f"cannot be read as safetensors ({one_line(error)[:100]})") from None
    return state, about


def torchvision_layers(state: Mapping[str, Tensor]) -> dict[str, LayerWeights]:
    """The layers by our names. RequestError for a layer that is missing, or one too many."""
    for layer, theirs in TORCHVISION_NAMES.items():
        if f"{theirs}.weight" not in state or f"{theirs}.bias" not in state:
            raise RequestError(f"{theirs}: is not in the file; {layer} of torchvision's alexnet has this name")
    known = {f"{theirs}.{key}" for theirs in TORCHVISION_NAMES.values() for key in ("weight", "bias")}
    if more := sorted(state.keys() - known - {"mean_image"}):
        raise RequestError(f"{more[0]}: is no layer of torchvision's alexnet")
    return {
        layer: LayerWeights(theirs, state[f"{theirs}.weight"].float(), state[f"{theirs}.bias"].float())
        for layer, theirs in TORCHVISION_NAMES.items()
    }


def torchvision_state(layers: Mapping[str, LayerWeights]) -> dict[str, Tensor]:
    """The way back, for the layers that torchvision's network has. ValueError names another."""
    if more := [layer for layer in layers if layer not in TORCHVISION_NAMES]:
        raise ValueError(f"{more[0]}: torchvision's alexnet has no such layer")
    return {
        f"{TORCHVISION_NAMES[layer]}.{key}": getattr(own, key).contiguous()
        for layer, own in layers.items()
        for key in ("weight", "bias")
    }
