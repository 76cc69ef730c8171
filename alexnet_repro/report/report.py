"""The report of an evaluation: report.json (what was measured), and the same for people as report.md and as one
self-contained report.html. Both are rendered from report.json and the figures beside it, and can be rendered again.
"""

import base64
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alexnet_repro.config.commands import VIEWS
from alexnet_repro.paper.numbers import IMAGENET_2009, TABLE_1, TABLE_2
from alexnet_repro.report.figure_store import figures_of
from data_prep.common.errors import RequestError
from data_prep.common.files import write_atomically
from data_prep.common.text import duration, percent, percent_interval, points, printable, short

REPORT = "report.json"
_NAME = 26  # characters of a class's name where space is short
_MIME = {".png": "image/png", ".jpg": "image/jpeg"}


def write_report(folder: Path, report: dict[str, Any]) -> Path:
    """Writes `report`, which results.py describes, to report.json and renders it. Returns the path of report.html."""
    _write(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return render(folder)


def render(folder: Path) -> Path:
    """Writes report.md and report.html from report.json and its figures. Returns the path of report.html."""
    report = read_report(folder)
    context = {
        "report": report,
        "figures": figures_of(folder, report["fingerprint"]),
        "views": VIEWS,
        "tables": (*TABLE_2, *TABLE_1, *IMAGENET_2009),
    }
    for name in ("report.md", "report.html"):
        _write(folder / name, _environment(name, folder).get_template(f"{name}.j2").render(context))
    return folder / "report.html"


def read_report(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RequestError(
            f"{folder / REPORT}: cannot be read; make it with python -m alexnet_repro.evaluate"
        ) from None


def _write(path: Path, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")  # file names may hold bytes that are no text
    write_atomically(path, lambda file: file.write(data))


def templates(**options: Any) -> Environment:
    """The files in templates/. A name that a template uses and that is not given is an error."""
    return Environment(
        loader=PackageLoader("alexnet_repro", "report/templates"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, **options,
    )  # fmt: skip


def _environment(name: str, folder: Path) -> Environment:
    html = name.endswith(".html")
    environment = templates(autoescape=html, finalize=_html_text if html else _markdown_text)
    filters: dict[str, Callable[..., Any]] = {
        "short": partial(short, width=_NAME),
        "percent": lambda fraction: percent(fraction).removesuffix(" %"),  # the unit stands in the table's head
        "interval": percent_interval,
        "nats": lambda ends: f"{ends[0]:.4f}–{ends[1]:.4f}" if ends else "unknown",
        "points": points,
        "duration": duration,
        "data_uri": partial(_data_uri, folder),
        "plain": Markup,  # nosec: for this project's own file names
    }
    environment.filters.update(filters)
    return environment


def _html_text(value: Any) -> Any:
    """What autoescape then escapes: names without control characters. Line ends stay, for the configuration."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(printable(line) for line in value.split("\n"))
    return value


def _markdown_text(value: Any) -> Any:
    """A name with everything that Markdown or HTML would read as their own."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    # An underscore within a word means nothing to Markdown.
    escaped = re.sub(r"([\\`*\[\]|#~$])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", printable(value))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _data_uri(folder: Path, file: str) -> Markup:
    path = folder / file
    data = base64.b64encode(path.read_bytes()).decode()
    return Markup(f"data:{_MIME[path.suffix]};base64,{data}")
