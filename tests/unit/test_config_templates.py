"""Prompt templates: what is filled in, what stays, what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_runtime.config.templates import VARIABLES, render, unknown_variables, variables_of


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("Say {message}!", "Say M!"),
        ("{message}{message}", "MM"),
        ("write {{message}} so", "write {message} so"),
        ('{"json": {"a": 1}}', '{"json": {"a": 1}}'),
        ("{ message } {} {0} {a.b} {a b}", "{ message } {} {0} {a.b} {a b}"),
        ("{{{message}}}", "{{message}}"),
    ],
)
def test_render(template: str, wanted: str) -> None:
    assert render(template, {"message": "M"}) == wanted


@settings(deadline=None)
@given(st.text())
def test_what_a_user_writes_is_never_a_template(message: str) -> None:
    assert render("<{message}>", {"message": message}) == f"<{message}>"


def test_a_missing_variable_is_an_error() -> None:
    assert variables_of("{message} {{state}} {nobody}") == {"message", "nobody"}
    assert unknown_variables("{message} {zed} {nobody} {{ghost}}") == ["nobody", "zed"]
    with pytest.raises(KeyError):
        render("{nobody}", dict.fromkeys(VARIABLES, ""))
