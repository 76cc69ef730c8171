"""Text as it was typed: what Hydra's grammar would make of it, it must not; and habits from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from alexnet_repro.config import EvaluateConfig, PredictConfig, TrainConfig
from data_prep.common import cli
from data_prep.common.cli import command_line, load
from data_prep.common.typed import keys_of, overrides_of
from data_prep.prepare import PrepareConfig

ROOT = Path(__file__).resolve().parents[2]
ODD = [
    "2026_11_26",
    "1e3",
    "true",
    "é李",
    "a=b",
    "a#b",
    "it's",
    'say "so"',
    "$x",
    "a,b",
    "[x]",
    "{y}",
    " z",
    "C:\\a",
    "${x",
]


@pytest.mark.parametrize("name", ODD)
def test_every_name_reaches_the_command_as_it_is(name: str) -> None:
    config = load("prepare", PrepareConfig, [f"src={name}", f"out={name}/{name}"])
    assert (config.src, config.out) == (name, f"{name}/{name}")
    assert load("train", TrainConfig, [f"data.path={name}"]).data.path == name
    images = load("predict", PredictConfig, ["run=a", f"images={name}"]).images
    assert images == ([name[1:-1]] if name == "[x]" else [name])  # one name alone, or a list of one


# Whatever has none of the marks of Hydra's own syntax.
_TEXT = st.text(st.characters(exclude_characters="\\", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: (
        "${" not in text
        and not re.fullmatch(r"""\s*(null|(['"]).*\2|~(/.*)?|[a-z_]+\(.*\))\s*""", text, re.DOTALL | re.IGNORECASE)
    )
)


@given(_TEXT)
def test_any_text_is_read_as_it_is(text: str) -> None:
    (override,) = overrides_of([f"++src={text}"], keys_of(PrepareConfig))
    assert OverridesParser.create().parse_override(override).value() == text


@given(st.lists(_TEXT.map(str.strip).filter(lambda text: bool(text) and text[0] not in "'\"[" and "," not in text)))
def test_any_list_of_texts_is_read_as_it_is(texts: list[str]) -> None:
    (override,) = overrides_of([f"images=[{','.join(texts)}]"], keys_of(PredictConfig))
    assert OverridesParser.create().parse_override(override).value() == texts


def test_a_leading_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = load("prepare", PrepareConfig, ["src=~/a b", "out=./~/x"])
    assert (config.src, config.out) == ("/home/me/a b", "./~/x")
    assert load("predict", PredictConfig, ["run=a", "images=[~/a.jpg,~]"]).images == ["/home/me/a.jpg", "/home/me"]


def test_hydras_own_syntax_stays_hydras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "it's, 1e3")
    assert load("prepare", PrepareConfig, ["src=${oc.env:WHERE}", r"out=a\,b"]).src == "it's, 1e3"
    assert load("prepare", PrepareConfig, ["src='1e3'", r"out=a\,b"]).out == "a,b"
    assert load("prepare", PrepareConfig, ["src='1e3'", "out=o", "layout=null"]).layout is None
    assert load("evaluate", EvaluateConfig, ["runs=['a',b]"]).runs == ["a", "b"]
    assert load("train", TrainConfig, ["run=a-${seed}", "seed=7", "devices=null"]).run == "a-7"


def test_a_sweep_splits_text_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["prepare", "--multirun", "src=2026_11_26,'a,b',c=d", "out=choice(x,y)", "shuffle_seed=1,2"]
    monkeypatch.setattr(sys, "argv", words)
    configs = [job.config for job in command_line("prepare", PrepareConfig)]
    assert len(configs) == 12
    assert list(dict.fromkeys(config.src for config in configs)) == ["2026_11_26", "a,b", "c=d"]
    assert {config.out for config in configs} == {"x", "y"}


@pytest.mark.parametrize(
    ("schema", "words", "said"),
    [
        (TrainConfig, "--gpus 2", "--gpus 2: settings are given as KEY=VALUE; write gpus=2"),
        (TrainConfig, "seed=1 --gpus=2", "--gpus=2: settings are given as KEY=VALUE; write gpus=2"),
        (TrainConfig, "--batch-size 64", "--batch-size 64: settings are given as KEY=VALUE; write optim.batch_size=64"),
        (TrainConfig, "--epochs", "--epochs: settings are given as KEY=VALUE; write schedule.epochs=..."),
        (TrainConfig, "--data /a/b", "--data /a/b: settings are given as KEY=VALUE; write data.path=/a/b"),
        (TrainConfig, "--resume", "--resume: there is no such option; the command that began a run continues it"),
        (TrainConfig, "--bogus 3", "--bogus 3: there is no such option; settings are given as KEY=VALUE"),
        (TrainConfig, "epochs=5", "unknown key 'epochs'; write schedule.epochs=5"),
        (TrainConfig, "+batch_size=64", "unknown key 'batch_size'; write optim.batch_size=64"),
        (TrainConfig, "lr=0.1", "unknown key 'lr'; write optim.learning_rate=0.1"),
        (TrainConfig, "save_dir=x", "unknown key 'save_dir'; write runs_dir=x"),
        (TrainConfig, "resume=true", "resume=true: there is no such key; the command that began a run continues it"),
        (TrainConfig, "gpus=0,1", "gpus=0,1: several values for one; --multirun takes each in turn"),
        (TrainConfig, "experiment=a,b", "experiment=a,b: several values for one; --multirun takes each in turn"),
        (TrainConfig, "devices=[cpu:1] -a alexnet", "-a alexnet: settings are given as KEY=VALUE; write model=alexnet"),
        (TrainConfig, "data=/a", "data=/a: data= takes the name of settings, data.path= a folder; write data.path=/a"),
        (TrainConfig, "experiment=[code2012,no_conv4]", "experiment=[code2012,no_conv4]: experiment= takes one name"),
        (TrainConfig, "/", "/: settings are given as KEY=VALUE; write data.path=/"),
        (PrepareConfig, "/ out=x", "/: settings are given as KEY=VALUE; write src=/"),
        (TrainConfig, "--config-dir", "argument -cd/--config-dir: expected one argument"),
        (TrainConfig, "run=a,b", "run='a,b': must be a plain folder name"),
    ],
)  # fmt: skip
def test_habits_from_elsewhere_get_the_words_to_type(
    schema: type, words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *words.split()])
    with pytest.raises(SystemExit, match="2"):
        command_line({TrainConfig: "train", PrepareConfig: "prepare"}[schema], schema)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"error: {said}" in lines[0], lines


@pytest.mark.parametrize("config", sorted(path.stem for path in (ROOT / "conf").glob("*.yaml")))
def test_help_texts_are_well_formed(config: str) -> None:
    """From 3.14 on argparse checks them as they are added, so that one % would end every command."""
    parser = cli._parser(cli._groups(config))
    for action in parser._actions:
        parser._get_formatter()._expand_help(action)
    assert "--multirun" in parser.format_help()


@pytest.mark.parametrize("name", [*map(str.strip, ODD), "$(id)", "`id`", "a b"])
def test_paths_through_make(name: str, tmp_path: Path) -> None:
    """A program that prints its arguments stands for Python."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    (tmp_path / "installed").touch()
    command = ["make", "--silent", "prepare-imagenet", f"VENV={tmp_path}", f"SRC={name}", f"OUT={name}/o"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["-m", "data_prep.prepare", f"src={name}", f"out={name}/o"], done.stderr
