"""runs/NAME/: configuration, checkpoints, metrics, TensorBoard events, report."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from alexnet_repro.config import TrainConfig
from alexnet_repro.runs.checkpoint import Checkpoint, load_checkpoint
from alexnet_repro.runs.settings import flat
from data_prep.common.cli import checked
from data_prep.common.errors import RequestError
from data_prep.common.files import exclusive, write_atomically

LAST, PREVIOUS, BEST = "last", "previous", "best"
_LOCK = "lock"

# Where and how fast a run computes may change between its sessions; what it computes may not, unless allowed by name.
# The data may move: a checkpoint knows which pictures it was trained on.
MAY_CHANGE = (
    "gpus", "devices", "runtime", "runs_dir", "keep_every", "save_minutes", "log_every", "allow_changes", "data",
)  # fmt: skip
_GONE = ("compile", "cuda_graphs")  # settings of `runtime` that runs of earlier versions have
_OF_THE_BEGINNING = ("init_from", "init_checkpoint")  # another value would change nothing but what config.yaml says

# Came later, and changes nothing for a run that was begun without it: epochs without a `chance_loss` all count.
_CAME_LATER = ("schedule.counts_once_loss_below",)


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.metrics = path / "metrics.jsonl"
        self._config = path / "config.yaml"

    def exists(self) -> bool:
        return self._config.is_file()

    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from, or what is left of one."""
        return any(self.checkpoint_path(name).is_file() for name in (LAST, PREVIOUS))

    def locked(self) -> AbstractContextManager[None]:
        """Held while a run is trained; makes the folder. RequestError if another process trains it, or if the folder
        cannot be written or is something else.
        """
        if not self.exists() and self.path.exists() and not self._is_a_beginning():
            raise RequestError(f"{self.path}: exists and is no run; choose another name with run=...")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        return exclusive(self.path / _LOCK, str(self.path))

    def _is_a_beginning(self) -> bool:
        """What a start leaves that was refused or killed before it had written the configuration."""
        ours = (_LOCK, self.checkpoints.name)
        return self.path.is_dir() and all(e.name in ours or e.suffix == ".partial" for e in self.path.iterdir())

    def keep_config(self, config: TrainConfig) -> None:
        """For a folder that is locked, whose run may go on with `config`."""
        text = OmegaConf.to_yaml(OmegaConf.create(asdict(config)))
        try:
            write_atomically(self._config, lambda file: file.write(text.encode()))
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> RequestError:
        return RequestError(f"{self.path}: cannot be written ({error.strerror}); choose another runs_dir=...")

    def last_checkpoint(self) -> tuple[Checkpoint | None, str | None]:
        """What a run continues from, if it was begun, and a warning if that is not the last that was written.

        RequestError if all that is there is damaged.
        """
        problems = []
        for name in (LAST, PREVIOUS):
            path = self.checkpoint_path(name)
            if not path.is_file():  # a kill between two renames leaves no `last`, and a whole `previous`
                continue
            try:
                checkpoint = load_checkpoint(path)
            except RequestError as error:
                problems.append(str(error))
                continue
            warning = f"{problems[0]}: the one before it is used, of step {checkpoint.step}" if problems else None
            return checkpoint, warning
        if problems:
            raise RequestError("; ".join(problems) + f"; copy {self.checkpoint_path(BEST)} or another over "
                               f"{self.checkpoint_path(LAST)} to go on from there")  # fmt: skip
        return None, None

    def refuse_changes(self, config: TrainConfig) -> None:
        """RequestError if the run was begun with settings that `config` has otherwise and does not allow to change."""
        now = flat(asdict(config))
        for name in config.allow_changes:
            if not any(key == name or key.startswith(name + ".") for key in now):
                raise RequestError(f"allow_changes={name}: no setting has this name; --cfg job lists them")
        if not self.exists():
            return
        changed = []
        before = flat(self._raw_config())
        for key in sorted(before.keys() | now.keys()):
            if key in _CAME_LATER and key not in before:
                continue
            allowed = any(key == name or key.startswith(name + ".") for name in (*MAY_CHANGE, *config.allow_changes))
            if (not allowed or key in _OF_THE_BEGINNING) and before.get(key) != now.get(key):
                changed.append(f"{key} was {before.get(key)}, now {now.get(key)}")
        early = [change for change in changed if change.startswith(_OF_THE_BEGINNING)]
        if early:
            raise RequestError(
                f"{self.path}: was started with another beginning ({'; '.join(early)}), which is past; choose another "
                "run=NAME, or give the same setting to continue it"
            )
        if changed:
            names = ",".join(change.split(" was ")[0] for change in changed)
            raise RequestError(
                f"{self.path}: was started with another configuration ({'; '.join(changed)}); choose another run=NAME, "
                f"give the same settings to continue it, or allow the change with 'allow_changes=[{names}]'"
            )

    def _raw_config(self) -> dict[str, Any]:
        if not self.exists():
            raise RequestError(f"{self.path}: no such run; train it first, or check run=NAME and runs_dir")
        try:
            loaded = OmegaConf.to_container(OmegaConf.load(self._config))
        except (OSError, YAMLError) as error:
            raise RequestError(f"{self._config}: cannot be read ({' '.join(str(error).split())})") from None
        return loaded if isinstance(loaded, dict) else {}  # type: ignore[return-value]

    def configuration_text(self) -> str:
        """The resolved configuration, as YAML."""
        return self._config.read_text()

    def config(self) -> TrainConfig:
        """What the run was trained with. RequestError if there is no such run."""
        config = self._raw_config()
        for gone in _GONE:  # they changed speed only
            config.get("runtime", {}).pop(gone, None)
        return checked(OmegaConf.create(config), TrainConfig)

    def checkpoint_path(self, name: str) -> Path:
        return self.checkpoints / f"{name}.pt"

    def checkpoint(self, name: str) -> Checkpoint:
        self._raw_config()
        return load_checkpoint(self.checkpoint_path(name))


def report_folder(folder: Path, split: str) -> Path:
    """Where evaluate writes of a run, or of an ensemble, and figures draws."""
    return folder / ("report" if split == "val" else f"report-{split}")
