"""README.md and docs/ agree with the code: the drawing of the network, every link, and the files
that README.md and architecture.md name by their paths."""

import re
from pathlib import Path

import pytest

from alexnet_repro.config import SummaryConfig
from alexnet_repro.report.columns import draw
from data_prep.common.cli import load

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_drawing_shows_the_network_as_it_is() -> None:
    drawn = (ROOT / "docs" / "images" / "columns.svg").read_text(encoding="utf-8")
    assert drawn == draw(load("summary", SummaryConfig).model), "make columns draws it again"


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_every_file_that_is_named_is_there(page: str) -> None:
    named = set(re.findall(r"`((?:alexnet_repro|data_prep|conf|tests)/[\w./]+)`", (ROOT / page).read_text()))
    assert named and not [path for path in named if not (ROOT / path).exists()]
