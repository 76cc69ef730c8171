"""runs/NAME/: configuration, checkpoints, metrics, TensorBoard events, report."""

import errno
import os
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from alexnet_repro.config import TrainConfig
from alexnet_repro.runs.checkpoint import Checkpoint, load_checkpoint
from alexnet_repro.runs.settings import (
    ADDED_LATER,
    BEFORE_ADDED,
    BEGINNING,
    MAY_CHANGE,
    REMOVED_FROM_RUNTIME,
    differences,
    flat,
)
from data_prep.common.cli import checked
from data_prep.common.errors import RequestError
from data_prep.common.files import exclusive, write_atomically
from data_prep.common.text import one_line

LAST, PREVIOUS, BEST = "last", "previous", "best"
_LOCK = "lock"


class RunFolder:
    """Where each thing of a run lies, and which runs may be started, continued and read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.metrics = path / "metrics.jsonl"
        self._config = path / "config.yaml"

    def exists(self) -> bool:
        return self._config.is_file()

    def has_checkpoint(self) -> bool:
        """Whether training can continue, or could if the file were not damaged."""
        return any(self.checkpoint_path(name).is_file() for name in (LAST, PREVIOUS))

    def locked(self) -> AbstractContextManager[None]:
        """Makes the folder and holds its lock while a run is trained. RequestError if another process trains it, or if
        the folder cannot be written or holds something else.
        """
        if not self.exists() and self.path.exists() and not self._holds_a_failed_start_only():
            raise RequestError(f"{self.path}: exists and is no run; choose another name with run=...")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        return exclusive(self.path / _LOCK, str(self.path))

    def _holds_a_failed_start_only(self) -> bool:
        """Whether a start was refused or killed here before it had written the configuration."""
        ours = (_LOCK, self.checkpoints.name)
        return self.path.is_dir() and all(e.name in ours or e.suffix == ".partial" for e in self.path.iterdir())

    def write_config(self, config: TrainConfig) -> None:
        """Call it with the folder locked, and after `refuse_changes`."""
        text = OmegaConf.to_yaml(OmegaConf.create(asdict(config)))
        try:
            write_atomically(self._config, lambda file: file.write(text.encode()))
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> RequestError:
        return RequestError(f"{self.path}: cannot be written ({error.strerror}); choose another runs_dir=...")

    def last_checkpoint(self) -> tuple[Checkpoint | None, str | None]:
        """The newest checkpoint that can be read, None before there is any; and a warning if a newer one is damaged.

        RequestError if all are damaged.
        """
        problems = []
        for name in (LAST, PREVIOUS):
            path = self.checkpoint_path(name)
            if not path.is_file():  # a process killed between two renames leaves no `last`, but a whole `previous`
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
        """RequestError if the run exists and `config` changes a setting that neither may change nor is allowed to."""
        now = flat(config)
        for name in config.allow_changes:
            if not any(key == name or key.startswith(f"{name}.") for key in now):
                raise RequestError(f"allow_changes={name}: no setting has this name; --cfg job lists them")
        if not self.exists():
            return
        before = BEFORE_ADDED | flat(self._raw_config())
        if beginning := differences(before, now, only=BEGINNING):
            raise RequestError(
                f"{self.path}: began with other weights ({_listed(beginning)}), which cannot change afterwards; give "
                "the same setting to continue it, or choose another run=NAME"
            )
        added = [key for key in ADDED_LATER if key not in before]
        allowed = (*MAY_CHANGE, *BEGINNING, *added, *config.allow_changes)
        if changed := differences(before, now, ignore=allowed):
            raise RequestError(
                f"{self.path}: was started with another configuration ({_listed(changed)}); choose another run=NAME, "
                f"give the same settings to continue it, or allow the change with 'allow_changes=[{','.join(changed)}]'"
            )

    def _refuse_unless_run(self) -> None:
        if not self.exists():
            raise RequestError(f"{self.path}: no such run; train it first, or check run=NAME and runs_dir")

    def _raw_config(self) -> dict[str, Any]:
        self._refuse_unless_run()
        try:
            loaded = OmegaConf.to_container(OmegaConf.load(self._config))
        except (OSError, YAMLError) as error:
            raise RequestError(f"{self._config}: cannot be read ({one_line(error)})") from None
        return loaded if isinstance(loaded, dict) else {}  # type: ignore[return-value]

    def configuration_text(self) -> str:
        """The resolved configuration, as YAML."""
        return self._config.read_text()

    def config(self) -> TrainConfig:
        """The configuration that the run was trained with. RequestError if there is no such run."""
        config = self._raw_config()
        for name in REMOVED_FROM_RUNTIME:
            config.get("runtime", {}).pop(name, None)
        return checked(OmegaConf.create(config), TrainConfig)

    def checkpoint_path(self, name: str) -> Path:
        return self.checkpoints / f"{name}.pt"

    def checkpoint(self, name: str) -> Checkpoint:
        """RequestError if there is no such run or checkpoint, or if the checkpoint is damaged."""
        self._refuse_unless_run()
        return load_checkpoint(self.checkpoint_path(name))


def _listed(changes: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} was {before}, now {now}" for key, (before, now) in changes.items())


def runs_dir_option(runs_dir: str) -> str:
    """What a command about a run needs besides its name, ` runs_dir=DIR`; empty for the usual one."""
    return f" runs_dir={runs_dir}" if runs_dir != "runs" else ""


def report_folder(folder: Path, split: str) -> Path:
    """Where `evaluate` and `figures` write about the run or ensemble in `folder`."""
    return folder / ("report" if split == "val" else f"report-{split}")


def make_writable(folder: Path) -> None:
    """Makes a folder for what a command writes about a run. RequestError if it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EROFS, "it is read-only")
    except OSError as error:
        raise RequestError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder with out=DIR"
        ) from None
