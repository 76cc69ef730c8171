"""The state of a network in training: norms of weights and velocities, learning rates, GPU memory, dead units."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from alexnet_repro.model import AlexNet
from alexnet_repro.runtime import exact_dtype
from alexnet_repro.training.optimisers import Optimiser
from alexnet_repro.training.ranks import Ranks

_DEAD = 0.999  # of a layer's units, from which on it is called dead


@torch.no_grad()
def norms(model: AlexNet, optimiser: Optimiser) -> dict[str, float]:
    """Euclidean norms of the weights w and of their velocity v (section 5), by layer and column:
    `weight_norm/conv1.a`, `velocity_norm/conv1.a`. Before its first step a velocity is 0. Biases are left out: their
    start at 1 would hide the dense weights.

    The host waits once for the device, whatever the number of layers.
    """
    # Summed in float32 on a CPU, fc6's 38 million squares come out wrong in the fourth digit.
    device = model.column_devices()[0]
    norm = partial(torch.linalg.vector_norm, dtype=exact_dtype(device))
    found: dict[str, Tensor] = {}
    for name, layer in model.layers().items():
        for column, part in zip(layer.column_names, layer.parts(), strict=True):
            # One velocity at a time: all at once would take the memory of a second network.
            velocity = optimiser.velocity(part.weight)
            found[f"weight_norm/{name}.{column}"] = norm(part.weight)
            found[f"velocity_norm/{name}.{column}"] = norm(part.weight.new_zeros(1) if velocity is None else velocity)
    return dict(zip(found, torch.stack([value.to(device) for value in found.values()]).tolist(), strict=True))


def learning_rates(optimiser: torch.optim.Optimizer) -> dict[str, float]:
    """`learning_rate/weights`, and `learning_rate/biases` where theirs is another; for each layer that the schedule
    singles out also `learning_rate/conv1_weights` and, where another, `learning_rate/conv1_biases`.
    """
    rates = {(group.get("layer", ""), group.get("bias", False)): group["lr"] for group in optimiser.param_groups}
    return {
        f"learning_rate/{layer + '_' if layer else ''}{'biases' if bias else 'weights'}": rate
        for (layer, bias), rate in rates.items()
        if not bias or rate != rates.get((layer, False))
    }


def gpu_memory(model: AlexNet) -> dict[str, float]:
    """The most memory that tensors took on each of the network's GPUs since the last call, in GiB:
    `gpu_memory_gib/cuda:0`. Empty without a GPU.
    """
    peaks = {}
    for device in dict.fromkeys(model.column_devices()):
        if device.type == "cuda":
            peaks[f"gpu_memory_gib/{device}"] = torch.cuda.max_memory_allocated(device) / 2**30
            torch.cuda.reset_peak_memory_stats(device)
    return peaks


class DeadUnits:
    """Which ReLUs are dead: feature maps (conv layers) and units (dense layers) whose ReLU gives 0 at every place of
    every image. Such a map gets no gradient from these images. `note` observes the images' forward passes.

    Nothing waits for the device before `shares`. A network without ReLUs has no shares.
    """

    def __init__(self, model: AlexNet) -> None:
        self._model = model
        self._alive: dict[str, Tensor] = {}  # by layer and column, bool [maps] or [units]
        self._widths = {  # the maps or units there, where there are ReLUs
            f"{name}.{column}": layer.map_shape[0]
            for name, layer in model.layers().items()
            for column, then in zip(layer.column_names, layer.then, strict=True)
            if any(isinstance(module, nn.ReLU) for module in then.modules())
        }

    def note(self, layer: str, columns: Sequence[Tensor]) -> None:
        """The outputs of a layer, column by column. Maps may have been normalised and pooled since the ReLU, which
        leaves those that are 0 everywhere so, and no others.
        """
        for column, output in zip(self._model.layers()[layer].column_names, columns, strict=True):
            if (name := f"{layer}.{column}") in self._widths:
                # [N, maps, H, W] or [N, units] -> [maps]. The largest value is one pass over the maps and needs no
                # second tensor of their size. NaN is not 0: a broken map is not a dead one.
                alive = output.detach().amax([d for d in range(output.ndim) if d != 1]) != 0
                seen = self._alive.get(name)
                self._alive[name] = alive if seen is None else seen | alive

    def shares(self, ranks: Ranks) -> dict[str, float]:
        """Dead maps or units of each layer and column as a share of all that it has there, 0 to 1, over the images of
        all `ranks`, each of which must call it.
        """
        if not self._widths:
            return {}
        device = self._model.column_devices()[0]
        # A rank may have had no images: none of its units is alive.
        alive = [self._alive.get(name, torch.zeros(width, dtype=torch.bool)) for name, width in self._widths.items()]
        ranks_alive = ranks.all_reduce(torch.cat([part.to(device) for part in alive]).to(torch.int32))
        lives = (ranks_alive > 0).cpu().split(list(self._widths.values()))
        dead = [1 - live.sum().item() / len(live) for live in lives]
        return {f"dead_relu/{name}": share for name, share in zip(self._widths, dead, strict=True)}


def dead_layers(shares: Mapping[str, float]) -> list[str]:
    """The layers of DeadUnits.shares with next to nothing alive in any column: hardly a gradient passes through them.
    (Networks with 99 % of fc7 dead recovered, with 99.9 % none did: docs/claims.md.)
    """
    columns: dict[str, list[float]] = {}
    for name, share in shares.items():
        columns.setdefault(name.removeprefix("dead_relu/").split(".")[0], []).append(share)
    return [layer for layer, found in columns.items() if min(found) >= _DEAD]
