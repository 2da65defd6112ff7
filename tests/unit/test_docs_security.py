"""The page about security names tests that are there."""

import ast
from functools import cache
from pathlib import Path

import pytest

from unit import docs_pages as docs

PAGE = docs.ROOT / "docs" / "security.md"
CLAIMS = docs.table(PAGE, "claim").rows


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(("claim", "tests"), CLAIMS, ids=[claim[:40] for claim, _ in CLAIMS])
def test_a_claim_names_tests_that_are_there(claim: str, tests: str) -> None:
    named = [span.split("::") for span in docs.spans(tests) if "::" in span]
    assert named, claim
    assert [name for path, name in named if name not in functions(docs.ROOT / path)] == []


def test_the_fuzz_tests_budget_can_be_raised_as_the_page_says() -> None:
    assert '"CALLBOARD_TEST_FUZZ"' in (docs.ROOT / "tests" / "fuzzing.py").read_text()
