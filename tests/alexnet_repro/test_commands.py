"""The commands as a user types them: the main job end to end, wrong requests, and the installed package."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL, run_here, run_module

from alexnet_repro.config import SummaryConfig
from alexnet_repro.model import AlexNet
from data_prep.common.cli import conf_folder, load

TRAIN = "alexnet_repro.train"
ROOT = Path(__file__).resolve().parents[2]


def test_the_main_job(archives: Path, tmp_path: Path) -> None:
    prepared = run_module(
        "data_prep.prepare", f"src={archives}", "out=data/tiny", "image_size=75", "images_per_shard=16", cwd=tmp_path
    )
    assert prepared.returncode == 0, prepared.stderr
    assert "10 classes; 60 train, 30 val images" in prepared.stdout
    assert "images/s" in prepared.stderr
    verified = run_module("data_prep.verify", "data/tiny", cwd=tmp_path)
    assert (verified.returncode, verified.stdout) == (0, "data/tiny: OK\n")

    small = [s for s in SMALL if not s.startswith("devices")]
    trained = run_module(TRAIN, "+gpus=2", "data.path=data/tiny", "run=t", "schedule.epochs=1", *small, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.count("warning") <= 1
    assert "epoch 1/1" in trained.stdout and "next: python -m alexnet_repro.evaluate run=t" in trained.stdout
    run = tmp_path / "runs" / "t"
    assert {p.name for p in run.iterdir()} == {"config.yaml", "checkpoints", "lock", "metrics.jsonl", "tensorboard"}
    assert list((run / "tensorboard").glob("events*"))

    evaluated = run_module("alexnet_repro.evaluate", "run=t", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    report = json.loads((run / "report" / "report.json").read_text())
    assert [row["views"] for row in report["results"]] == [1, 10]
    history = json.loads((run / "metrics.jsonl").read_text())
    assert report["results"][0]["top1_error"] == history["val_top1_error"]
    assert any("conv1.kernels: 8 (paper: 96)" in line for line in report["differs_from_paper"])
    text = (run / "report" / "report.md").read_text()
    assert (
        "**Not comparable with the paper's numbers.** This run was trained on tiny (10 classes; 60 train, 30 val"
        in text
    )
    assert "| paper, Table 2 | 1 CNN | ILSVRC-2012 val | 10 | 40.7 | 18.2 |" in text

    with tarfile.open(archives / "ILSVRC2012_img_val.tar") as tar:
        (tmp_path / "photo.jpg").write_bytes(tar.extractfile(tar.getmembers()[0]).read())  # type: ignore[union-attr]
    (tmp_path / "letter.jpg").write_text("no picture")
    predicted = run_module("alexnet_repro.predict", "run=t", "images=[letter.jpg,photo.jpg]", cwd=tmp_path)
    assert predicted.returncode == 1
    assert "letter.jpg: cannot be read as an image" in predicted.stderr
    assert predicted.stdout.startswith("photo.jpg\n") and predicted.stdout.count("%") == 5
    drawn = run_module("alexnet_repro.figures", "run=t", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert {p.name for p in (run / "report").glob("*.png")} == {
        "curves.png",
        "kernels.png",
        "labels.png",
        "neighbours.png",
    }


AS_TYPED = (["optim.learning_rat=1"], ["src=none"])  # in a process of their own; the others are spared its start


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (TRAIN, ["+gpus=2"], "data/ilsvrc2012: no prepared data set here"),
        (TRAIN, ["gpus=2"], "data/ilsvrc2012: no prepared data set here"),
        (TRAIN, ["++gpus=2"], "data/ilsvrc2012: no prepared data set here"),
        (
            TRAIN,
            ["model=cifar10", "model.conv4.size=3"],
            "model.conv4.size: is not among these settings, or what it belongs to is null; write +model.conv4.size=...",
        ),
        (TRAIN, ["optim.learning_rat=1"], "unknown key 'optim.learning_rat', did you mean 'optim.learning_rate'?"),
        (TRAIN, ["+bogus=1"], "unknown key 'bogus'"),
        (
            TRAIN,
            ["schedule.epochs=many"],
            "schedule.epochs: Value 'many' of type 'str' could not be converted to Integer",
        ),
        (
            TRAIN,
            ["model=resnet"],
            "model=resnet: no such choice; there are bvlc_alexnet, bvlc_caffenet, cifar10, cifar10_80sec,",
        ),
        (TRAIN, ["optim.momentum 0.9"], "cannot understand 'optim.momentum 0.9'; give key=value"),
        (TRAIN, ["optim=5"], "Config group override must be a string or a list"),
        (TRAIN, ["seed=99999999999999999999999999"], "seed=99999999999999999999999999: must be 0 to"),
        (TRAIN, ["run=a/b"], "run='a/b': must be a plain folder name"),
        ("alexnet_repro.evaluate", [], "run=None: must be given: run=NAME, or runs=[a,b,c] for an ensemble"),
        ("alexnet_repro.compare", ["runs=[a,b]"], "runs/a: no such run"),
        ("alexnet_repro.evaluate", ["run=none"], "runs/none: no such run"),
        ("alexnet_repro.evaluate", ["run=none", "views=3"], "views=3: must be one of 1 (the centre patch), 9"),
        ("data_prep.prepare", ["src=none", "out=o"], "src=none: does not exist"),
        ("data_prep.verify", ["none"], "none: no prepared data set here"),
    ],
)
def test_wrong_requests_get_one_line_and_exit_code_2(
    module: str, arguments: list[str], said: str, tmp_path: Path
) -> None:
    run = run_module if arguments[:1] in AS_TYPED else run_here
    result = run(module, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"python -m {module}: error: {said}"), result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


COMMANDS = [path.stem for path in sorted((ROOT / "alexnet_repro").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize(
    ("module", "arguments", "exit_code"),
    [
        *((f"alexnet_repro.{command}", ["--cfg", "job"], 0) for command in COMMANDS),
        (TRAIN, ["--help"], 0),
        (TRAIN, ["bogus=1"], 2),
        (TRAIN, ["seed=-1"], 2),
    ],
)
def test_what_needs_no_network_is_answered_without_pytorch(
    module: str, arguments: list[str], exit_code: int, tmp_path: Path
) -> None:
    """PyTorch takes seconds to import."""
    command = [sys.executable, "-X", "importtime", "-m", module, *arguments]  # lists the imports on stderr
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == exit_code
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "omegaconf" in imported and not {"torch", "matplotlib"} & imported


def test_a_run_folder_that_cannot_be_written(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for where in ("file", "/proc/runs"):
        result = run_here(TRAIN, f"data.path={prepared}", f"runs_dir={where}", *SMALL, cwd=tmp_path)
        assert result.returncode == 2, result.stderr
        assert f"{where}/paper: cannot be written" in result.stderr
        assert result.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_summary_and_benchmark_print_what_they_promise(tmp_path: Path) -> None:
    table = run_here("alexnet_repro.summary", "devices=[cpu]", cwd=tmp_path).stdout.splitlines()
    conv3 = next(line for line in table if line.startswith("conv3.b")).split()
    # 192 kernels of 3 x 3 x 256, with biases; 13 x 13 places; 128 maps of 13 x 13 floats from the other column
    assert conv3[2:] == ["192x256x3x3", "192x13x13", "442,560", "74,760,192", f"{128 * 13 * 13 * 4:,}"]
    assert next(line for line in table if line.startswith("total")).split()[1] == "60,965,224"
    neurons = [line.split()[:3] for line in table[table.index("neurons   this network   text of 3.5") + 1 :]]
    assert neurons[:2] == [["conv1", "290,400", "253,440"], ["conv2", "186,624", "186,624"]]
    assert neurons[-1] == ["total", "659,272", "622,312"]
    small = [s for s in SMALL if not s.startswith(("optim", "model.input_size"))]
    timed = run_here("alexnet_repro.benchmark", "batch_size=2", "steps=1", *small, cwd=tmp_path)
    assert timed.returncode == 0, timed.stderr
    rows = [line.split("  ")[0] for line in timed.stdout.splitlines() if " ms " in line]
    assert rows[0] == "ours" and rows[-3:] == ["paper", "paper, nn.LocalResponseNorm", "torchvision alexnet"]


@pytest.mark.parametrize("path", sorted((conf_folder() / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_composes_and_builds(path: Path) -> None:
    config = load("summary", SummaryConfig, [f"model={path.stem}"])
    assert config.model.name == path.stem
    with torch.device("meta"):
        AlexNet(config.model, classes=10)


def test_every_setting_is_read() -> None:
    """A key of conf/ that no code names is dead."""
    packages = [Path(sys.modules[name].__file__ or "").parent for name in ("alexnet_repro", "data_prep")]
    code = "\n".join(p.read_text() for package in packages for p in package.rglob("*.py") if p.parent.name != "config")

    def keys(node: object) -> set[str]:
        return {str(k) for k in node} | {k for v in node.values() for k in keys(v)} if isinstance(node, dict) else set()

    read_by_name_of_layer = {f"conv{i}" for i in range(1, 7)} | {"fc6", "fc7", "fc8"}
    for path in conf_folder().rglob("*.yaml"):
        for key in keys(yaml.safe_load(path.read_text())) - {"defaults", "name", "experiment"} - read_by_name_of_layer:
            assert re.search(rf'\.{key}\b|"{key}"', code), f"{path}: {key}"


def test_the_installed_package_carries_conf(tmp_path: Path) -> None:
    """`pip install .`, then the commands from another folder."""
    for needed in ("pip", "hatchling"):
        pytest.importorskip(needed)
    checkout = conf_folder().parent
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(checkout)], check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    for module in (TRAIN, "data_prep.prepare"):
        command = [sys.executable, "-m", module, "--cfg", "job"]
        result = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert yaml.safe_load(result.stdout) == yaml.safe_load(run_here(module, "--cfg", "job", cwd=checkout).stdout)
    where = [sys.executable, "-c", "from data_prep.common.cli import conf_folder; print(conf_folder())"]
    found = subprocess.run(where, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()) == tmp_path / "site" / "alexnet_repro" / "conf"
