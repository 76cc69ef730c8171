"""The optimiser that conf/optim asks for, with a group of parameters for each rate that the schedule may set."""

from collections.abc import Iterable

from torch import Tensor

from alexnet_repro.config import OptimConfig
from alexnet_repro.model import AlexNet
from alexnet_repro.training.adam import Adam
from alexnet_repro.training.schedule import Phase
from alexnet_repro.training.sgd import PaperSGD
from data_prep.command import RequestError

Optimiser = PaperSGD | Adam


def optimiser_for(config: OptimConfig, model: AlexNet, layers_apart: Iterable[str] = ()) -> Optimiser:
    """A group for the weights and one for the biases, and two more for each of `layers_apart` and for each layer with a
    decay of its own. RequestError if the network lacks one of these.
    """
    if unknown := sorted(config.layer_decay.keys() - model.layers().keys()):
        raise RequestError(f"optim.layer_decay.{unknown[0]}: the network has no {unknown[0]}; remove it")
    members: dict[tuple[str, bool], list[Tensor]] = {}
    apart = {*layers_apart, *config.layer_decay}
    for name, parameter in model.named_parameters():
        layer = name.split(".")[0]
        key = (layer if layer in apart else "", name.endswith(".bias"))
        members.setdefault(key, []).append(parameter)
    groups = []
    for (layer, bias), parameters in members.items():
        decay = config.layer_decay.get(layer, config.weight_decay)
        rate = config.learning_rate * (config.bias_rate_times if bias else 1)
        groups.append(
            {
                "name": f"{layer or 'other layers'}, {'biases' if bias else 'weights'}",
                "layer": layer,
                "bias": bias,
                "params": parameters,
                "lr": rate,
                "first_rate": rate,
                "weight_decay": 0.0 if bias and not config.decay_biases else decay,
            }
        )
    if config.rule == "adam":
        return Adam(groups, config.learning_rate, config.momentum, config.second_momentum)
    return PaperSGD(groups, config.learning_rate, config.momentum, config.weight_decay)


def set_rates(optimiser: Optimiser, phase: Phase) -> None:
    """The rates of an epoch, for an optimiser made by `optimiser_for`."""
    for group in optimiser.param_groups:
        group["lr"] = group["first_rate"] * phase.rate(group["layer"], group["bias"])
