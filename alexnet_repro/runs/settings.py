"""The settings of a run by their dotted names, and in which of them two runs differ.

`differences` is the one rule; the lists below are the sets of settings that it is asked about, each with its reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from fnmatch import fnmatchcase
from typing import Any

from alexnet_repro.config import TrainConfig

# The groups of conf/ that hold the paper's recipe: network, data augmentation, optimiser, learning rate.
RECIPE = ("model", "augment", "optim", "schedule")

# The checkpoint whose weights a run began with. It is read once, so a later change could only make config.yaml wrong.
BEGINNING = ("init_from", "init_checkpoint", "init_layers")

# The one setting of `runtime` that changes results by more than the order of a sum.
PRECISION = "runtime.precision"

# `name` in a file of conf/model/ and its neighbours: which variant it is. It computes nothing.
GROUP_NAMES = ("*.name",)

# A run may change these between its sessions: they say where and how fast it computes, not what. The data may move,
# because a checkpoint knows the fingerprint of the images it was trained on.
MAY_CHANGE = (
    "gpus", "devices", "runtime", "runs_dir", "keep_every", "save_minutes", "log_every", "allow_changes", "data",
)  # fmt: skip

# A run begun before this setting existed computes the same with it: only epochs with a `chance_loss` heed it.
ADDED_LATER = ("schedule.counts_once_loss_below",)

# What a run computes whose configuration is older than these settings.
BEFORE_ADDED = {"model.norm.across": "column", "model.fc8.split": False, "model.dropout_rescaled": False}

# Settings of `runtime` that configurations of earlier versions hold. They changed speed only, and are dropped.
REMOVED_FROM_RUNTIME = ("compile", "cuda_graphs")

# Runs of one group must agree in these: they are to differ in the seed alone. (Their images are compared as well.)
OF_A_GROUP = (*RECIPE, *BEGINNING, PRECISION)

# What conf/experiment/ decides. A run in which one of these differs is not the experiment whose name it has.
OF_AN_EXPERIMENT = (*RECIPE, *BEGINNING, "data")

# Settings for which the paper states a value.
OF_THE_PAPER = (*RECIPE, PRECISION)

# A network in small is still the same network: fewer kernels, smaller images.
SCALE = ("model.width", "model.input_size")

# What may confound an ablation, besides the network, which is to differ.
OF_AN_ABLATION = ("augment", "optim", "schedule", *BEGINNING, PRECISION, *SCALE)

# Settings of the network that act at the initialisation only, so trained weights do not depend on them.
OF_INITIALISATION = ("*.weight_std", "*.bias")


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, of a mapping or of a dataclass. Lists are values."""
    tree: Mapping[str, Any] = asdict(settings) if is_dataclass(settings) else settings  # type: ignore[arg-type]
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        is_group = isinstance(value, Mapping) or is_dataclass(value)
        leaves.update(flat(value, f"{prefix}{key}.") if is_group else {prefix + key: value})
    return leaves


def differences(
    first: Any, second: Any, only: Sequence[str] = ("*",), ignore: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """The settings that are not equal, in alphabetical order: name -> (value in `first`, value in `second`).

    `first`, `second`: configurations, or mappings as for `flat`; a setting that one of them lacks is None there.
    `only`, `ignore`: names of settings or of groups ("optim" means all of optim.*), or patterns ("*.name").
    """

    def named(key: str, names: Sequence[str]) -> bool:
        return any(key.startswith(f"{name}.") or fnmatchcase(key, name) for name in names)

    a, b = flat(first), flat(second)
    return {
        key: (a.get(key), b.get(key))
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and named(key, only) and not named(key, ignore)
    }


def without_seed(config: TrainConfig) -> dict[str, Any]:
    """The settings that runs of several seeds share: all but `seed`, with the ending -SEED cut off `run` and
    `init_from`.
    """
    settings = flat(config)
    ending = f"-{settings.pop('seed')}"
    return settings | {key: settings[key] and settings[key].removesuffix(ending) for key in ("run", "init_from")}
