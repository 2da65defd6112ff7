"""The documentation as tests read it: its pages, their fenced blocks, tables and code spans."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
ROUTE = ROOT / "docs" / "runtime" / "runtime-route.md"
RUNBOOK = ROOT / "docs" / "runtime" / "runtime-runbook.md"
HTTP_API = ROOT / "docs" / "http-api.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_RULE = re.compile(r"[\s:|-]+")


@dataclass(frozen=True)
class Table:
    """A table under its nearest heading; cells keep their markup."""

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> list[str]:
        return [row[self.header.index(name)] for row in self.rows]


def pages() -> list[Path]:
    folders = sorted((ROOT / "docs").rglob("*.md"))
    return [*sorted(ROOT.glob("*.md")), *folders, ROOT / "examples" / "README.md"]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [body for kind, body in _FENCE.findall(page.read_text()) if kind == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def spans(text: str) -> list[str]:
    """What stands between backticks."""
    return _SPAN.findall(text)


def tables(page: Path) -> list[Table]:
    found: list[Table] = []
    heading, rows = "", list[tuple[str, ...]]()
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            rows.append(tuple(cell.strip() for cell in line.strip().strip("|").split("|")))
        elif rows:
            found.append(Table(heading, rows[0], tuple(rows[2:])))
            assert _RULE.fullmatch("|".join(rows[1])), f"{page.name}: no rule under {rows[0]}"
            rows = []
        if line.startswith("#"):
            heading = line.lstrip("# ")
    return found


def table(page: Path, first_column: str) -> Table:
    """The only table of the page whose first column has this name."""
    [found] = [candidate for candidate in tables(page) if candidate.header[0] == first_column]
    return found


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
