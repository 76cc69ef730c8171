"""What was typed on the command line, and the overrides that Hydra makes of it.

Text is taken as it is typed. Hydra's grammar would make a number of out=2026_11_26, a list of a name with a comma, and
nothing at all of one with =, # or a quote in it. So the value of a key that holds text is put into quotes before Hydra
reads it, with a leading ~ expanded, unless it uses Hydra's own syntax: it is null or in quotes already, or has ${...},
a backslash before one of \\()[]{}:=, or a space, or one of Hydra's functions. In a list, [a,b], and between the values
of --multirun, each piece by itself. One piece alone is a list of one.
"""

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from data_prep.common.errors import RequestError

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_FUNCTION = r"(?:choice|range|interval|glob|sort|shuffle|tag|extend_list|str|int|float|bool|json_str)\(.*\)"
_HYDRAS = re.compile(
    rf"null|{_QUOTED}|{_FUNCTION}|.*\$\{{.*\}}.*|.*\\[\\()\[\]{{}}:=, \t].*", re.DOTALL | re.IGNORECASE
)
# Up to the next comma that separates; a quoted text, a list or a function may have commas of its own.
_PIECE = re.compile(
    rf"\s*(?:{_QUOTED}|\[[^\]]*\]|{_FUNCTION})\s*(?=,|$)|(?:\$\{{[^}}]*\}}|\\.|[^,])*", re.DOTALL | re.IGNORECASE
)
_FIRST = ("src", "images", "data.path", "run")  # the setting that a path typed without a key is meant for
_CONTINUES = "the command that began a run continues it"
# What the keys are called elsewhere.
_ELSEWHERE = {
    "a": "model",
    "arch": "model",
    "b": "optim.batch_size",
    "bs": "optim.batch_size",
    "checkpoint_dir": "runs_dir",
    "data_dir": "data.path",
    "data_path": "data.path",
    "dataset": "data.path",
    "device": "devices",
    "image": "images",
    "input": "src",
    "j": "runtime.workers",
    "lr": "optim.learning_rate",
    "n_epochs": "schedule.epochs",
    "name": "run",
    "num_epochs": "schedule.epochs",
    "num_gpus": "gpus",
    "num_workers": "runtime.workers",
    "output": "out",
    "out": "runs_dir",  # in a training; and so the others that mean `out`
    "output_dir": "out",
    "save_dir": "out",
    "wd": "optim.weight_decay",
}


def keys_of(schema: Any, prefix: str = "") -> dict[str, Any]:
    """Every key of a schema, by its whole name, with its type; of `T | None`, T."""
    keys: dict[str, Any] = {}
    for name, kind in get_type_hints(schema).items():
        if get_origin(kind) in (Union, types.UnionType):
            kind = next(one for one in get_args(kind) if one is not type(None))
        keys[prefix + name] = kind
        if is_dataclass(kind):
            keys |= keys_of(kind, f"{prefix}{name}.")
    return keys


def overrides_of(words: Sequence[str], keys: Mapping[str, Any], several: bool = False) -> list[str]:
    """The words KEY=VALUE as overrides for Hydra. `several`: commas separate the values of --multirun."""
    overrides = []
    for word in words:
        key, _, value = word.partition("=")
        kind = keys.get(key.lstrip("+"))
        if value and kind in (str, list[str]):
            read = _text if kind is str else _texts
            value = ",".join(map(read, _pieces(value) if several else [value]))
            word = f"{key}={value}"
        overrides.append(word)
    return overrides


def _text(typed: str) -> str:
    """As typed if Hydra reads it as this text, or if it is in Hydra's own syntax; else in quotes."""
    parser = OverridesParser.create()
    is_hydras = _HYDRAS.fullmatch(typed.strip()) is not None
    text = str(Path(typed).expanduser()) if re.match(r"~(/|$)", typed) and not is_hydras else typed
    try:
        if is_hydras or parser.parse_override(f"key={text}").value() == text:
            parser.parse_override(f"key={typed}")
            return text
    except HydraException:
        pass
    text = text.replace("${", r"\${")  # which OmegaConf would take for the beginning of an interpolation
    return str(QuotedString(text, Quote.single).with_quotes())


def _texts(typed: str) -> str:
    """The same for a list: each piece by itself, and one piece alone as a list of one."""
    if re.fullmatch(rf"null|{_FUNCTION}|\$\{{.*\}}", typed, re.DOTALL | re.IGNORECASE):
        return typed
    if not (typed.startswith("[") and typed.endswith("]")):
        return f"[{_text(typed)}]"
    inside = typed[1:-1]
    return f"[{','.join(_text(piece.strip()) for piece in _pieces(inside)) if inside.strip() else ''}]"


def _pieces(typed: str) -> list[str]:
    """What the commas separate that are in no quotes or brackets (_PIECE)."""
    pieces, start = [], 0
    while start <= len(typed):
        match = _PIECE.match(typed, start)
        assert match is not None  # it may be empty
        pieces.append(match.group())
        start = match.end() + 1
    return pieces


def refuse_habits(words: Sequence[str], keys: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> None:
    """RequestError, with the words to type, for a key by the name that it has elsewhere, for a path without a key, for
    the path of a data set in the place of its name, and for several choices of one group: Hydra would merge them, and
    where two set the same key take the last without a word. `groups`: of settings, with their choices.
    """
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and Path(word).exists():
            first = next((key for key in _FIRST if key in keys), "KEY")
            raise RequestError(f"{word}: settings are given as KEY=VALUE; write {first}={word}")
        plain = key.lstrip("+")
        if plain in groups and value.startswith("["):
            raise RequestError(
                f"{word}: {plain}= takes one name; --multirun {plain}=a,b does one after the other, and a change to "
                "one is given by its key, such as model.dropout=0"
            )
        if key in groups and f"{key}.path" in keys and value not in groups[key] and re.search(r"[/.~\\]", value):
            raise RequestError(
                f"{word}: {key}= takes the name of settings, {key}.path= a folder; write {key}.path={value}"
            )
        if plain.startswith("resume"):
            raise RequestError(f"{word}: there is no such key; {_CONTINUES}")
        if equals and plain not in keys and plain not in groups and (right := right_key(plain, keys, groups)):
            raise RequestError(f"unknown key {plain!r}; write {right}={value}")


def refuse_options(
    unknown: Sequence[str], words: Sequence[str], keys: Mapping[str, Any], groups: Mapping[str, Any]
) -> None:
    """RequestError, with the words to type, if there are options that the command does not have. `words`: all that was
    typed, where the value of an option follows it.
    """
    for option in unknown:
        name, equals, value = option.partition("=")
        follows = words[words.index(option) + 1 :][:1]
        if not equals and follows and not follows[0].startswith("-") and "=" not in follows[0]:
            value = follows[0]
        shown = option if equals or not value else f"{option} {value}"
        name = name.lstrip("-").replace("-", "_")
        if name.startswith("resume"):
            raise RequestError(f"{shown}: there is no such option; {_CONTINUES}")
        if right := right_key(name, keys, groups):
            right = f"{right}.path" if f"{right}.path" in keys and re.search(r"[/.~\\]", value) else right
            raise RequestError(f"{shown}: settings are given as KEY=VALUE; write {right}={value or '...'}")
        raise RequestError(
            f"{shown}: there is no such option; settings are given as KEY=VALUE, and --cfg job lists them"
        )


def right_key(name: str, keys: Mapping[str, Any], groups: Mapping[str, Any]) -> str | None:
    """The key that someone means who writes `name`: it, or the one that ends so, or has that name elsewhere."""
    if name in keys or name in groups:
        return name
    ends_so = [key for key in keys if key.endswith(f".{name}")]
    if len(ends_so) == 1:
        return ends_so[0]
    meant = _ELSEWHERE.get(name.lower(), "")
    candidates = (meant, meant.split(".")[-1], _ELSEWHERE.get(meant, ""))
    return next((key for key in candidates if key in keys or key in groups), None)
