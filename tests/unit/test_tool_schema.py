"""What a tool's schema may be, what is said about arguments by it, and that nothing in one reaches out or runs on."""

from __future__ import annotations

from typing import Any

import pytest

from callboard_runtime.domain.schema_effort import MOST_PARTS
from callboard_runtime.domain.tool_schema import arguments_problem, check_schemas, schema_problem
from callboard_runtime.errors import InvalidInput

DRAFT_4 = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "type": "object",
    "properties": {"n": {"minimum": 2, "exclusiveMinimum": True}},
}


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"properties": {"a": {"type": "string", "pattern": "^(?=x).*$"}}},
        {"type": ["object", "null"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"more": {"$ref": "#/$defs/a"}}}}},
        {"definitions": {"a": {"type": "string"}}, "properties": {"a": {"$ref": "#/definitions/a"}}},
        DRAFT_4,
        {"$schema": "https://example.com/of-our-own", "type": "object"},
        {"type": "object", "x-order": 1, "properties": {"a": {"format": "our-own"}}},
    ],
)
def test_what_clients_send_is_taken(schema: Any) -> None:
    assert schema_problem(schema) is None
    check_schemas([{"name": "f", "parameters": schema}, {"name": "g"}])


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "nonsense"}, "'nonsense'"),
        ({"type": "string"}, "make it 'object'"),
        ({"properties": {"a": {"type": 5}}}, "properties/a/type: 5 is not valid"),
        ({"properties": {"a": {"pattern": "("}}}, 'properties/a/pattern: "(" is not a "regex"'),
        ({"properties": []}, "properties: "),
        ({"required": "a"}, "required: "),
        ({"$ref": "#/$defs/none"}, "'/$defs/none' does not exist"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}}, "http://127.0.0.1:9/schema"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "file:///etc/passwd"),
        ({"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}}, "reference '#name' leads out of the schema"),
        ({"$ref": "json-schema:///#/$defs/a", "$defs": {"a": True}}, "leads out of the schema"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$id": "other"}}}, "an $id of its own"),
        ({"properties": {str(n): {"type": "null"} for n in range(MOST_PARTS)}}, f"more than {MOST_PARTS} subschemas"),
        ([], "an object"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(schema: Any, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_schemas([{"name": "fine"}, {"name": "ui.pick", "parameters": schema}])
    assert caught.value.message.startswith("tools.1.parameters: of tool 'ui.pick': ")
    assert told in caught.value.message


def test_all_that_is_wrong_with_arguments_is_told_at_once() -> None:
    schema = {"properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a"]}
    assert arguments_problem(schema, {"a": 1, "b": "x"}) is None
    assert arguments_problem(schema, {"b": "z"}) == (
        'argument object: "a" is a required property; argument b: "z" is not one of "x" or "y"'
    )


def test_a_long_value_is_not_told_in_full() -> None:
    told = arguments_problem({"properties": {"a": {"type": "integer"}}}, {"a": "x" * 10_000})
    assert told is not None
    assert len(told) < 400


def test_a_pattern_gives_up_instead_of_trying_for_ever() -> None:
    schema = {"properties": {"a": {"type": "string", "pattern": r"^(?:(a)|\1)+c"}}}
    assert "backtracking" in (arguments_problem(schema, {"a": "a" * 4000}) or "")


def test_a_schema_that_points_at_itself_ends() -> None:
    assert arguments_problem({"allOf": [{"$ref": "#"}]}, {"a": 1}) is None


def test_a_schema_that_was_pinned_unchecked_is_a_problem_and_no_crash() -> None:
    assert "cannot be used" in (arguments_problem({"$ref": "http://127.0.0.1:9/"}, {}) or "")


def doubling(keyword: str, levels: int = 40) -> dict[str, Any]:
    """A schema of a few kilobytes that stands for 2^40 subschemas."""
    made = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**made, f"d{levels}": {"required": ["x"]}}}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_references_that_multiply_are_refused_before_anything_is_checked_by_them(keyword: str) -> None:
    schema = doubling(keyword)
    with pytest.raises(InvalidInput, match=r"tools.0.parameters: .* stand for too many subschemas"):
        check_schemas([{"name": "f", "parameters": schema}])
    assert "to be checked: send less" in (arguments_problem(schema, {"x": 1}) or "")


def test_all_tools_of_a_request_share_what_they_may_take() -> None:
    one = {"name": "f", "parameters": doubling("allOf", 9)}
    check_schemas([one])
    with pytest.raises(InvalidInput, match="too many subschemas"):
        check_schemas([one] * 40)


def test_a_chain_of_references_is_too_long_for_a_validator_before_it_is_one() -> None:
    chain = {f"d{n}": {"$ref": f"#/x/d{n + 1}"} for n in range(60_000)}
    schema = {"properties": {"a": {"$ref": "#/x/d0"}}, "x": {**chain, "d60000": {}}}
    assert "subschemas" in (schema_problem(schema) or "")


def test_arguments_that_multiply_with_a_schema_that_points_at_itself_are_not_checked() -> None:
    node = {"properties": {"x": {"anyOf": [{"$ref": "#/$defs/n"}] * 2}}, "additionalProperties": False}
    schema: dict[str, Any] = {"$ref": "#/$defs/n", "$defs": {"n": node}}
    assert schema_problem(schema) is None
    deep: dict[str, Any] = {"y": 1}
    for _ in range(4):
        deep = {"x": deep}
    assert "not valid under any" in (arguments_problem(schema, deep) or "")
    for _ in range(30):
        deep = {"x": deep}
    assert arguments_problem(schema, deep) == (
        "arguments: they are too many, or nested too deep, to be checked: send less"
    )


def test_long_lists_of_plain_items_are_checked() -> None:
    schema = {"properties": {"rows": {"type": "array", "items": {"properties": {"a": {"type": "integer"}}}}}}
    rows = [{"a": n} for n in range(5000)]
    assert arguments_problem(schema, {"rows": rows}) is None
    assert "rows/4999/a" in (arguments_problem(schema, {"rows": [*rows[:-1], {"a": "x"}]}) or "")
