"""What a number was measured with: the machine, the libraries, and the state of the code."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

_LIBRARIES = ("torchvision", "numpy", "pillow")


def environment() -> dict[str, str]:
    found = {"commit": _commit(), **machine(), "system": platform.platform(terse=True)}
    if torch.cuda.is_available():
        found |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    found |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {key: value for key, value in found.items() if value}


def _commit() -> str:
    """The commit of the checkout that this code runs from; "" if it was installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # git itself would find a repository that merely lies around it
        return ""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + (", with changes that are not committed" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):  # no git, or it does not trust the folder's owner
        return ""


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def machine() -> dict[str, str]:
    """What a measurement was made on."""
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0  # some are counted and have no driver
    gpus = [torch.cuda.get_device_name(i) for i in range(usable)]
    return {
        "processor": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "gpus": ", ".join(gpus) or "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
