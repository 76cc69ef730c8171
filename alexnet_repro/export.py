"""python -m alexnet_repro.export run=NAME [format=onnx|torchscript|safetensors] [out=FILE]: for other runtimes."""

from alexnet_repro.config import ExportConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("export", ExportConfig)  # first, as the imports below take seconds

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet_repro.config.commands import VIEWS
from alexnet_repro.data import InputRule, View, views_of
from alexnet_repro.model import AlexNet
from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.trained import with_weights
from alexnet_repro.weights.operations import joined_weights
from alexnet_repro.weights.state_dicts import torchvision_state
from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically
from data_prep.resize import ENLARGE, SHRINK


def export(config: ExportConfig) -> None:
    """Writes one file, whole or not at all. RequestError if it cannot be made or written."""
    out = Path(config.out)
    if not out.absolute().parent.is_dir():
        raise RequestError(f"out={out}: its folder does not exist; make it, or name a file elsewhere")
    if out.exists() and not out.is_file():
        raise RequestError(f"out={out}: is no plain file; name another")
    _check_packages(config)
    checkpoint = RunFolder(config.folder).checkpoint(config.checkpoint)
    network = with_weights(AlexNet, checkpoint)
    about = _about(config, checkpoint, network)
    content = _WRITERS[config.format](config, checkpoint, network, about)
    try:
        write_atomically(out, lambda file: file.write(content))
    except OSError as error:
        raise RequestError(f"out={out}: cannot be written ({error.strerror}); name another file") from None
    print(f"{out}: {len(content) / 1e6:.1f} MB; " + "; ".join(f"{key}: {about[key]}" for key in ("input", "output")))


def _check_packages(config: ExportConfig) -> None:
    for package in {"onnx": ("onnx", "onnxscript"), "safetensors": ("safetensors",)}.get(config.format, ()):
        if importlib.util.find_spec(package) is None:
            raise RequestError(
                f"format={config.format}: needs the package {package}; install the project's extra, "
                "pip install '.[export]'"
            )


class Classifier(nn.Module):
    """Prepared images to probabilities: uint8 [N, S, S, C] -> float32 [N, classes].

    What `predict` of evaluation/inference.py computes on devices, view by view, as one graph that other runtimes can
    read: minus the mean image, cut into views, through the network in test mode, softmax outputs averaged over the
    views.
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
        """As InputTransform, in operations that a graph can hold."""
        rule, at_patch = self.rule, self.rule.mean == "at_patch"
        whole = images.float() - self.mean_image if at_patch else images.float()
        patches = [view.cut(whole, rule.size) for view in self.views]  # float32 [N, side, side, C] each
        inputs = torch.cat([x.flip(2) if view.mirror else x for x, view in zip(patches, self.views, strict=True)])
        if not at_patch:
            inputs = inputs - View(rule.centre, rule.centre, mirror=False).cut(self.mean_image[None], rule.size)
        if rule.scale != 1:
            inputs = inputs * rule.scale
        logits = self.network(inputs.permute(0, 3, 1, 2))  # [views * N, classes]
        return logits.softmax(1).unflatten(0, (len(self.views), -1)).mean(0)


def _classifier(config: ExportConfig, checkpoint: Checkpoint, network: AlexNet) -> tuple[Classifier, Tensor]:
    """The whole as one module, and an input to trace it with."""
    size, _, channels = checkpoint.mean_image.shape
    views = views_of(config.views, size - network.config.input_size)
    example = torch.zeros(2, size, size, channels, dtype=torch.uint8)
    return Classifier(network, checkpoint.input_rule(), views), example


def _onnx(config: ExportConfig, checkpoint: Checkpoint, network: AlexNet, about: dict[str, str]) -> bytes:
    import onnx  # of the extra `export`

    module, example = _classifier(config, checkpoint, network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            module, (example,), dynamo=True, opset_version=config.opset, verbose=False,
            input_names=["images"], output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("n", max=1 << 20)},),  # torch 2.6 needs a bound; the file has none
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    made = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if made != config.opset:  # the exporter only logs it
        raise RequestError(
            f"opset={config.opset}: the installed exporter can only write opset {made}; give opset={made}"
        )
    onnx.helper.set_model_props(proto, {**about, "opset": str(made)})
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def _torchscript(config: ExportConfig, checkpoint: Checkpoint, network: AlexNet, about: dict[str, str]) -> bytes:
    module, example = _classifier(config, checkpoint, network)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch.jit announces its end
        torch.jit.save(torch.jit.trace(module, (example,)), buffer, _extra_files={"about.json": json.dumps(about)})
    return buffer.getvalue()


def _safetensors(config: ExportConfig, checkpoint: Checkpoint, network: AlexNet, about: dict[str, str]) -> bytes:
    import safetensors.torch  # of the extra `export`

    weights = checkpoint.weights
    if config.names == "torchvision":
        try:
            weights = torchvision_state(joined_weights(network, weights))
        except ValueError as error:
            raise RequestError(f"names=torchvision: {error}; leave it out") from None
    tensors = {**weights, "mean_image": checkpoint.mean_image}
    return bytes(safetensors.torch.save(tensors, metadata=about))


_WRITERS: dict[str, Callable[[ExportConfig, Checkpoint, AlexNet, dict[str, str]], bytes]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "safetensors": _safetensors,
}


def _about(config: ExportConfig, checkpoint: Checkpoint, network: AlexNet) -> dict[str, str]:
    """What the file says of itself, as text."""
    size, _, channels = checkpoint.mean_image.shape
    side, classes = network.config.input_size, network.outputs
    colours = "RGB" if channels == 3 else f"{channels} channel(s)"
    filters = f"Pillow's {SHRINK.name} to shrink, {ENLARGE.name} to enlarge"
    prepared = f"{colours}, shorter side resized to {size} ({filters}), central {size}x{size} square, values 0..255"
    view = f"the central {side}x{side} patch"
    if config.format == "safetensors":
        given = f"float32 [N, {channels}, {side}, {side}]"
        inside = f"outside the network: {_centred('mean_image', view, checkpoint)}, colours first"
        result = f"logits, float32 [N, {classes}]"
    else:
        given = f"images, uint8 [N, {size}, {size}, {channels}]"
        averaged = ""
        if config.views > 1:
            view = f"{config.views} patches of {side}x{side} ({VIEWS[config.views]})"
            averaged = ", softmax outputs averaged"
        inside = f"inside the graph: {_centred('the mean image', view, checkpoint)}{averaged}"
        result = f"probabilities, float32 [N, {classes}]"
    return {
        "model": f"AlexNet, profile {network.config.name}; run {config.run}, {checkpoint.epoch} epochs",
        "trained_on": checkpoint.data["description"],
        "input": given,
        "output": result,
        "preprocessing": f"{prepared}; {inside}",
        "classes": json.dumps(checkpoint.classes),
        "words": json.dumps(checkpoint.words),
        "inputs": json.dumps(checkpoint.inputs),
        "configuration": json.dumps(checkpoint.model),
    }


def _centred(mean_image: str, view: str, checkpoint: Checkpoint) -> str:
    """What comes between a prepared image and the network, in words."""
    at_patch = checkpoint.inputs["mean"] == "at_patch"
    centred = f"minus {mean_image}, then {view}" if at_patch else f"{view}, minus the central patch of {mean_image}"
    scale = checkpoint.inputs["scale"]
    return centred if scale == 1 else f"{centred}, times {scale:g}"


if __name__ == "__main__":
    main(jobs, export)
