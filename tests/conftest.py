"""What several tests share: the embedded sample in small, prepared, and the real configuration shrunk to it."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from unittest import mock

# Networks this small gain nothing from a second thread, and beside other programs lose twentyfold by waiting for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import scipy.io
import torch

if hasattr(signal, "SIGHUP"):  # which nohup has ignored, by every process that comes of it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

if not torch.cuda.is_available():  # read when Triton is imported, which torchvision does
    os.environ["TRITON_INTERPRET"] = "1"

from data_prep.common.cli import load
from data_prep.prepare import PrepareConfig, prepare
from data_prep.sample import write_sample

if "MUTANT_UNDER_TEST" in os.environ:  # within `make mutants`
    from mutants import pytest_fixture_setup, pytest_runtest_call  # noqa: F401

Images = dict[str, tuple[str, bytes]]  # file name: (wnid, bytes)

# The paper's network with its geometry kept and its width cut, for pictures of 75 pixels.
SMALL = [
    "model.input_size=67",
    "model.conv1.kernels=8",
    "model.conv2.kernels=16",
    "model.conv3.kernels=16",
    "model.conv4.kernels=16",
    "model.conv5.kernels=16",
    "model.fc6.units=32",
    "model.fc7.units=32",
    "optim.batch_size=16",
    "runtime.workers=0",
    "devices=[cpu]",
]


# By processor time: the processes of `make test`, which share the files out between them, then end together.
LONGEST_FIRST = ["fast_forms", "run_faults", "commands", "ranks", "sweep", "sources", "faults"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        places = {f"test_{name}.py": place for place, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True)
def _the_same_random_numbers_every_time() -> None:
    torch.manual_seed(0)


def independent_reading(archives: Path) -> tuple[Images, Images]:
    """{file name: (wnid, bytes)} of both splits, by the shortest way through the official archives."""
    with tarfile.open(archives / "ILSVRC2012_devkit_t12.tar.gz") as devkit:
        files = {Path(m.name).name: devkit.extractfile(m).read() for m in devkit.getmembers()}  # type: ignore[union-attr]
    synsets = scipy.io.loadmat(io.BytesIO(files["meta.mat"]))["synsets"][:, 0]
    wnid_of = {int(s["ILSVRC2012_ID"][0, 0]): str(s["WNID"][0]) for s in synsets}
    truth = files["ILSVRC2012_validation_ground_truth.txt"].split()
    train, val = {}, {}
    with tarfile.open(archives / "ILSVRC2012_img_train.tar") as outer:
        for member in outer.getmembers():
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                for image in inner.getmembers():
                    train[image.name] = (member.name[:-4], inner.extractfile(image).read())  # type: ignore[union-attr]
    with tarfile.open(archives / "ILSVRC2012_img_val.tar") as tar:
        for image in tar.getmembers():
            number = int(image.name[-13:-5])
            val[image.name] = (wnid_of[int(truth[number - 1])], tar.extractfile(image).read())  # type: ignore[union-attr]
    return train, val


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three official archives with ten classes of 6 training and 3 validation pictures."""
    folder = tmp_path_factory.mktemp("archives")
    write_sample(folder, train_per_class=6, val_per_class=3)
    return folder


@pytest.fixture(scope="session")
def images(archives: Path) -> tuple[Images, Images]:
    """The images of train and val in these archives."""
    return independent_reading(archives)


@pytest.fixture(scope="session")
def prepared(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, prepared at 75 pixels."""
    out = tmp_path_factory.mktemp("prepared") / "small"
    prepare(prepare_config(archives, out))
    return out


def prepare_config(src: Path, out: Path, **overrides: object) -> PrepareConfig:
    settings = {"image_size": 75, "images_per_shard": 16, "workers": 2, **overrides}
    return load("prepare", PrepareConfig, [f"src={src}", f"out={out}", *(f"{k}={v}" for k, v in settings.items())])


def run_module(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """python -m module, as a user would, in the folder `cwd`; on the CPU, whatever the machine has."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


def run_here(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same within this process, which has imported PyTorch already; a new one takes seconds for it. Commands that
    reach a device must be given `devices`.
    """
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    with (
        mock.patch.object(sys, "argv", [module, *arguments]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        pytest.raises(SystemExit) as end,
    ):
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)  # imported by other tests
        os.chdir(cwd)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess([module, *arguments], end.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def world(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose classes have hostile names, and two small runs on it, for the tests of one file."""
    from evidence import make_world  # which lies beside those tests, and is found from them alone

    return make_world(prepared, tmp_path_factory.mktemp("world"))
