"""The documentation names only what exists: files, symbols, links, variables, actions."""

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from callboard_runtime.settings import PREFIX, ProviderKeys, Settings
from unit import docs_pages as docs

SOURCE_ROOTS = ("runtime", "actors", "http")
NOT_SETTINGS = {"CALLBOARD_ENV_FILE", "CALLBOARD_TOKEN"}  # read before the settings are, and of who calls
PAGES = pytest.mark.parametrize("page", docs.pages(), ids=lambda page: page.name)


@PAGES
def test_paths_in_a_page_exist(page: Path) -> None:
    tops = {path.name for path in docs.ROOT.iterdir()} - {".env"}
    named = {span for span in docs.spans(docs.prose(page)) if "/" in span and " " not in span and "<" not in span}
    paths = {span.partition(":")[0] for span in named if span.split("/")[0] in tops}
    assert [path for path in sorted(paths) if not (docs.ROOT / path).exists()] == []


@PAGES
def test_tests_in_a_page_exist(page: Path) -> None:
    named = [span.split("::") for span in docs.spans(docs.prose(page)) if span.startswith("tests/") and "::" in span]
    missing = [(file, name) for file, name in named if f"def {name}(" not in (docs.ROOT / file).read_text()]
    assert missing == []


@PAGES
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", docs.prose(page)):
        if target.startswith("https://"):
            continue
        file, _, fragment = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.is_file(), target
        assert not fragment or fragment in docs.anchors(linked), target


@PAGES
def test_variables_in_a_page_are_settings(page: Path) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", page.read_text())) - NOT_SETTINGS
    for name in {name for name in named if not name.startswith(f"{PREFIX}TEST_")}:
        assert _is_setting(name), name


def test_the_tests_own_variables_are_read_by_tests() -> None:
    folders = ("", "services", "simulation", "faults", "e2e", "unit")
    code = "".join(path.read_text() for folder in folders for path in (docs.ROOT / "tests" / folder).glob("*.py"))
    told = [name for row in docs.table(docs.CONTRIBUTING, "variable").rows for cell in row for name in docs.spans(cell)]
    assert told
    assert [name for name in told if f'"{name}"' not in code] == []


def _is_setting(variable: str) -> bool:
    model: Any = Settings
    *sections, name = variable.removeprefix(PREFIX).lower().split("__")
    for section in sections:
        if not (isinstance(model, type) and issubclass(model, BaseModel) and section in model.model_fields):
            return False
        model = model.model_fields[section].annotation
    by_provider = model is ProviderKeys or model == dict[str, str]
    return by_provider or name in model.model_fields


@PAGES
def test_codes_in_a_page_are_in_the_code(page: Path) -> None:
    source = "\n".join(path.read_text() for root in SOURCE_ROOTS for path in (docs.ROOT / root).rglob("*.py"))
    codes = {span for span in docs.spans(docs.prose(page)) if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", span)}
    for code in {code for code in codes if not code.startswith(PREFIX)}:
        assert re.search(rf"\b{code}\b", source), code


def test_what_is_generated_is_what_the_code_says() -> None:
    generated = runpy.run_path(str(docs.ROOT / "docs" / "generate.py"))["GENERATED"]
    assert docs.CONFIGURATION in generated
    old = [path.name for path, content in generated.items() if path.read_text() != content()]
    assert old == [], "run `.venv/bin/python docs/generate.py`"


def test_the_configuration_page_has_every_setting() -> None:
    generate = runpy.run_path(str(docs.ROOT / "docs" / "generate.py"))
    shown = {
        name
        for table in docs.tables(docs.CONFIGURATION)
        for cell in table.column("variable")
        for name in docs.spans(cell)
    }
    keys = {name for name, _ in generate["variables"]() if "PROVIDER_KEYS" in name}
    assert {name for name, _ in generate["variables"]()} - keys == shown - {f"{PREFIX}LLM__PROVIDER_KEYS__<PROVIDER>"}
    assert keys


def test_every_make_target_is_explained() -> None:
    targets = re.findall(r"^(\w[\w ]*):", (docs.ROOT / "Makefile").read_text(), re.MULTILINE)
    made = {name for line in targets for name in line.split()} - {"help"}
    explained = {re.sub(r"^make (\w+).*", r"\1", docs.spans(cell)[0]) for cell in _commands()}
    assert explained == made


def _commands() -> list[str]:
    return docs.table(docs.CONTRIBUTING, "command").column("command")


def test_the_licence_is_the_one_that_the_package_names() -> None:
    licence = tomllib.loads((docs.ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert licence == "Apache-2.0"
    text = (docs.ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((docs.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (docs.ROOT / "CHANGELOG.md").read_text()
