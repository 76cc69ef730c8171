"""python -m alexnet_repro.convert src=FILE run=NAME [classes=FILE]: a run from the weights of another program.

Reads Caffe's .caffemodel, ONNX files of these, torchvision's state dict of alexnet, and the safetensors of export.
"""

from alexnet_repro.config import ConvertConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("convert", ConvertConfig)  # first, as the imports below take seconds

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torchvision.models import AlexNet_Weights

from alexnet_repro.config import DataConfig, ModelConfig, TrainConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation.class_subset import read_classes
from alexnet_repro.model.alexnet import AlexNet, model_config
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import LAST, RunFolder, runs_dir_option
from alexnet_repro.runs.settings import GROUP_NAMES, OF_INITIALISATION, differences
from alexnet_repro.weights.caffe import read_caffemodel, read_mean
from alexnet_repro.weights.onnx_graph import read_onnx
from alexnet_repro.weights.operations import LayerWeights, Operation, column_weights, network_of_operations
from alexnet_repro.weights.state_dicts import TORCHVISION_NAMES, read_pth, read_safetensors, torchvision_layers
from data_prep.common.cli import checked, load
from data_prep.common.errors import RequestError
from data_prep.common.text import one_line, printable

_KNOWN = ("bvlc_alexnet", "bvlc_caffenet", "torchvision")  # files of conf/model/ that a converted network may be
_ACROSS = "model.norm.across"  # set by `network_of_operations`
_USUAL_INPUT = 227  # of Caffe's networks, whose weights do not say it


@dataclass
class Found:
    """What a file holds, in our terms."""

    model: ModelConfig
    layers: dict[str, LayerWeights] | None  # whole layers, or
    weights: dict[str, Tensor] | None  # columns
    mean_image: np.ndarray | None  # float32 [S, S, 3], 0..255, RGB; None: as the settings say
    inputs: dict[str, Any]  # as in Checkpoint
    classes: list[str] | None = None
    class_names: list[str] | None = None


def convert(config: ConvertConfig) -> None:
    """Writes the run's folder. RequestError if the file cannot be read, does not fit, or the run exists."""
    src, folder = Path(config.src), RunFolder(config.folder)
    if folder.path.exists():
        raise RequestError(f"{folder.path}: exists; choose another name with run=...")
    kind = src.suffix.lower()
    reader = _READERS.get(kind)
    if reader is None:
        raise RequestError(f"src={printable(config.src)}: ends like none of {', '.join(_READERS)}; name it by its kind")
    if kind in _PACKAGES and importlib.util.find_spec(_PACKAGES[kind]) is None:
        raise RequestError(f"src={printable(config.src)}: needs the package {_PACKAGES[kind]}; install the "
                           "project's extra, pip install '.[export]'")  # fmt: skip
    try:
        content = src.read_bytes()
    except OSError as error:
        raise RequestError(f"src={printable(config.src)}: cannot be read ({error.strerror})") from None
    try:
        found = reader(config, content)
        outputs = _outputs(found)
        with torch.device("meta"):
            model = AlexNet(found.model, outputs)
        weights = found.weights or column_weights(model, found.layers or {})
        model.load_state_dict(weights, assign=True)
    except RequestError as error:
        raise RequestError(f"src={printable(config.src)}: {error}") from None
    except Exception as error:  # of load_state_dict; and a damaged file can fail in any way
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise RequestError(f"src={printable(config.src)}: cannot be read as an AlexNet ({reason})") from None
    mean_image = _mean_image(config) if found.mean_image is None else found.mean_image
    if found.model.input_size > len(mean_image):
        raise RequestError(f"image_size={config.image_size}: must be at least the input, {found.model.input_size}")
    classes, class_names, path = _classes(config, found, outputs)
    trained_on = {"name": src.name, "description": f"what {printable(src.name)} was trained on"}
    train = replace(load("train", TrainConfig), run=config.run, runs_dir=config.runs_dir, model=found.model)
    train = replace(train, data=DataConfig(path or train.data.path))
    checkpoint = Checkpoint(
        epoch=0, step=0, within={}, weights=weights, buffers={}, buffer_rates={}, history=[], classes=classes,
        words=class_names, data={**trained_on, "plan": hashlib.sha256(content).hexdigest()},
        mean_image=torch.from_numpy(mean_image), inputs=found.inputs, model=asdict(found.model),
    )  # fmt: skip
    with folder.locked():
        folder.write_config(train)
        checkpoint.save(folder.checkpoint_path(LAST))
    print("\n".join(_table(model, found, weights)))
    print(f"{folder.path}: {found.model.name}, {len(classes)} classes, input {found.model.input_size}, "
          f"mean {', '.join(f'{x:.2f}' for x in mean_image.mean((0, 1), dtype=np.float64))} (RGB)")  # fmt: skip
    where = f"run={config.run}{runs_dir_option(config.runs_dir)}"
    print(f"next: python -m alexnet_repro.predict {where} images=[photo.jpg]")


def _of_operations(config: ConvertConfig, operations: list[Operation], input_size: int | None) -> Found:
    network = network_of_operations(operations, config.input_size or input_size or _USUAL_INPUT)
    layers = dict(network.layers)
    if config.colours != "RGB":
        layers["conv1"] = replace(layers["conv1"], weight=layers["conv1"].weight.flip(1))
    return Found(_model("", network.settings), layers, None, None, {"mean": "at_patch", "scale": 1.0})


def _mean_image(config: ConvertConfig) -> np.ndarray:
    """float32 [S, S, 3], RGB. Caffe's own has blue first."""
    side = config.image_size
    if config.mean_image is None:
        return np.broadcast_to(np.array(config.mean_pixel, np.float32), (side, side, 3)).copy()
    try:
        image = read_mean(Path(config.mean_image).read_bytes())
    except OSError as error:
        raise RequestError(f"mean_image={config.mean_image}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError) as error:  # RequestError among them; and a damaged file
        raise RequestError(f"mean_image={config.mean_image}: {error}") from None
    if image.shape != (3, side, side):
        found = "x".join(map(str, image.shape))
        raise RequestError(f"mean_image={config.mean_image}: is {found}, and images are 3x{side}x{side}")
    return np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy())


def _read_pth(config: ConvertConfig, content: bytes) -> Found:
    return _torchvision(config, torchvision_layers(read_pth(content)))


def _torchvision(config: ConvertConfig, layers: dict[str, LayerWeights]) -> Found:
    """Its inputs are (x / 255 - mean) / std, by colour: the kernels of conv1 take over the division."""
    usual = AlexNet_Weights.IMAGENET1K_V1.transforms()
    conv1, scale = layers["conv1"], 255 * torch.tensor(usual.std).view(3, 1, 1)
    if conv1.weight.dim() != 4 or conv1.weight.shape[1] != 3:
        raise RequestError(f"{conv1.name}: reads no images of three colours")
    weight = conv1.weight if config.colours != "BGR" else conv1.weight.flip(1)
    widths = {
        name: {("kernels" if name.startswith("conv") else "units"): len(own.weight)}
        for name, own in layers.items()
        if name != "fc8"
    }
    mean = np.full((config.image_size, config.image_size, 3), 255 * np.array(usual.mean), np.float32)
    layers = {**layers, "conv1": replace(conv1, weight=weight / scale)}
    return Found(_model("torchvision", widths), layers, None, mean, {"mean": "at_patch", "scale": 1.0})


def _read_safetensors(config: ConvertConfig, content: bytes) -> Found:
    state, about = read_safetensors(content)
    grouped = f"{TORCHVISION_NAMES['conv1']}.weight" in state
    if "configuration" not in about and grouped:
        return _torchvision(config, torchvision_layers(state))
    if missing := [key for key in ("configuration", "inputs", "classes", "words") if key not in about]:
        raise RequestError(f"does not say its {missing[0]}; export it again with this version, or give another file")
    model = checked(OmegaConf.create(json.loads(about["configuration"])), ModelConfig)
    mean_image = state.pop("mean_image").numpy()
    layers, weights = (torchvision_layers(state), None) if grouped else (None, state)
    classes, class_names = json.loads(about["classes"]), json.loads(about["words"])
    return Found(model, layers, weights, mean_image, json.loads(about["inputs"]), classes, class_names)


_READERS: dict[str, Callable[[ConvertConfig, bytes], Found]] = {
    ".caffemodel": lambda config, content: _of_operations(config, *read_caffemodel(content)),
    ".onnx": lambda config, content: _of_operations(config, *read_onnx(content)),
    ".pth": _read_pth,
    ".pt": _read_pth,
    ".safetensors": _read_safetensors,
}
_PACKAGES = {".onnx": "onnx", ".safetensors": "safetensors"}


def _model(known: str, settings: Mapping[str, Any]) -> ModelConfig:
    """conf/model/`known` with `settings` over it. With `known` empty: the one of _KNOWN that has these settings, or
    else the paper's with them, named converted.
    """
    model = model_config(known or "paper", settings)
    for name in () if known else _KNOWN:
        ignored = (*GROUP_NAMES, *OF_INITIALISATION, _ACROSS)
        if not differences({"model": model}, {"model": model_config(name)}, ignore=ignored):
            return model_config(name, settings)
    return model if known else replace(model, name="converted")


def _outputs(found: Found) -> int:
    if found.layers is not None:
        return len(found.layers["fc8"].weight)
    if found.weights is None or "fc8.a.weight" not in found.weights:
        raise RequestError("fc8.a.weight: is not in the file")
    return len(found.weights["fc8.a.weight"])


def _classes(config: ConvertConfig, found: Found, outputs: int) -> tuple[list[str], list[str], str | None]:
    """Classes, their names, and the data set that knew them if it did."""
    if config.classes is None:
        if found.classes and found.class_names:
            return found.classes, found.class_names, None
        categories = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
        classes = [f"class{number:04d}" for number in range(outputs)]
        return classes, list(categories) if len(categories) == outputs else classes, None
    path = Path(config.classes)
    if path.is_dir():
        data = PreparedData(path)
        classes, class_names = data.classes, data.class_names
    else:
        named = read_classes(path)
        classes, class_names = list(named), list(named.values())
    if len(classes) != outputs:
        raise RequestError(f"classes={config.classes}: has {len(classes)} classes, and the network {outputs} outputs")
    return classes, class_names, str(path) if path.is_dir() else None


def _table(model: AlexNet, found: Found, weights: Mapping[str, Tensor]) -> list[str]:
    """What was read: a line a layer."""
    lines = []
    for name, layer in model.layers().items():
        own = [weights[f"{name}.{column}.weight"] for column in layer.column_names]
        shape = "x".join(map(str, (sum(len(part) for part in own), *own[0].shape[1:])))
        std = float(torch.cat([part.flatten() for part in own]).std())
        columns = f"{len(own)} column{'s' * (len(own) > 1)}"
        reads = f", reads {layer.reads}" if model.config.columns > 1 else ""
        then = " ".join(getattr(getattr(found.model, name), "then", []))
        source = found.layers[name].name if found.layers else name
        lines.append(f"  {name:<6}{shape:>16}  std {std:.5f}  from {source:<14} {columns}{reads}  {then}".rstrip())
    return lines


if __name__ == "__main__":
    main(jobs, convert, writes=lambda config: config.folder)
