"""Reference pages as plain HTML, without a script and without anything from elsewhere.

In:  the OpenAPI or the AsyncAPI document.
Out: a page. Every text of the document is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]

STYLE = "/docs/reference.css"
_MAX_CHOICES = 12  # shown of an enumeration


def openapi_page(document: Json) -> str:
    """Operations by tag, then the schemas that they name."""
    operations = [
        (path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    tags = [tag["name"] for tag in document["tags"]]
    parts = [_prose(document["info"]["description"])]
    for tag in tags:
        mine = [part for part in operations if tag in part[2]["tags"]]
        parts += [f'<h2 id="{_anchor(tag)}">{escape(tag)}</h2>', *(_operation(document, *part) for part in mine)]
    parts += ['<h2 id="schemas">Schemas</h2>', *_schemas(document)]
    links = [(tag, f"#{_anchor(tag)}") for tag in tags]
    more = [("Schemas", "#schemas"), ("openapi.json", "/openapi.json"), ("Broker", "/docs/asyncapi")]
    return _page("Callboard: HTTP API", [*links, *more], parts)


def asyncapi_page(document: Json) -> str:
    """Channels with their messages, then the schemas."""
    parts = [_prose(document["info"]["description"]), '<h2 id="channels">Channels</h2>']
    parts += [_channel(document, name, channel) for name, channel in document["channels"].items()]
    parts += ['<h2 id="schemas">Schemas</h2>', *_schemas(document)]
    more = [("asyncapi.yaml", "/asyncapi.yaml"), ("HTTP API", "/docs")]
    return _page("Callboard: over the broker", [("Channels", "#channels"), ("Schemas", "#schemas"), *more], parts)


def _page(title: str, links: list[tuple[str, str]], parts: list[str]) -> str:
    nav = "".join(f'<li><a href="{escape(target)}">{escape(text)}</a></li>' for text, target in links)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{STYLE}"></head><body><nav aria-label="Contents"><ul>{nav}</ul></nav>'
        f"<main><h1>{escape(title)}</h1>{''.join(parts)}</main></body></html>\n"
    )


def _operation(document: Json, path: str, method: str, operation: Json) -> str:
    name = operation["operationId"]
    head = f'<code><b class="{method}">{method.upper()}</b> {escape(path)}</code>'
    parts = [f'<section id="op-{escape(name)}"><h3>{head}</h3><p>{_code(operation["summary"])}</p>']
    if not operation["security"]:
        parts.append('<p class="open">No token needed.</p>')
    if parameters := operation.get("parameters"):
        rows = [(f"<code>{escape(p['name'])}</code> {p['in']}", _kind(p["schema"]), _about(p)) for p in parameters]
        parts.append(_table(("parameter", "value", ""), rows))
    if body := operation.get("requestBody"):
        kinds = [_kind(content["schema"]) for content in body["content"].values()]
        parts.append(f"<p>Body: {', '.join(kinds)}{'' if body['required'] else ', may be left out'}</p>")
    parts.append(_table(("status", "", "body"), list(_responses(document, operation["responses"]))))
    return "".join([*parts, "</section>"])


def _responses(document: Json, responses: Json) -> Iterator[tuple[str, str, str]]:
    for status, response in responses.items():
        if "$ref" in response:
            response = document["components"]["responses"][_last(response["$ref"])]
        bodies = [
            f"<code>{escape(kind)}</code> {_kind(content['schema'])}"
            for kind, content in response.get("content", {}).items()
        ]
        yield f"<code>{escape(status)}</code>", escape(response["description"]), "<br>".join(bodies)


def _channel(document: Json, name: str, channel: Json) -> str:
    schemas: list[str] = []
    for message in channel["messages"].values():
        payload = document["components"]["messages"][_last(message["$ref"])]["payload"]
        schemas.append(_kind(payload))
    about = escape(channel.get("description", ""))
    address = f"<code>{escape(channel['address'])}</code>"
    return f"<section><h3>{escape(name)}</h3><p>{about}</p><p>{address}: {', '.join(schemas)}</p></section>"


def _schemas(document: Json) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        yield f'<section id="schema-{escape(name)}"><h3>{escape(name)}</h3><p>{_about(schema)}</p>'
        if properties := schema.get("properties"):
            needed = schema.get("required", ())
            rows = [
                (f"<code>{escape(key)}</code>{'' if key in needed else '?'}", _kind(value), _about(value))
                for key, value in properties.items()
            ]
            yield _table(("member", "value", ""), rows)
        else:
            yield f"<p>{_kind(schema)}</p>"
        yield "</section>"


def _kind(schema: Any) -> str:
    """What a value may be, as HTML."""
    match schema:
        case {"$ref": ref}:
            name = escape(_last(ref))
            return f'<a href="#schema-{name}">{name}</a>'
        case {"anyOf": choices} | {"oneOf": choices}:
            return " or ".join(map(_kind, choices))
        case {"allOf": [first, *rest]}:
            return _kind(first) + "".join(_codes(part) for part in rest)
        case {"enum": values}:
            return ", ".join(f"<code>{escape(str(value))}</code>" for value in values[:_MAX_CHOICES])
        case {"const": value}:
            return f"<code>{escape(str(value))}</code>"
        case {"type": "array", "items": items}:
            return f"list of {_kind(items)}"
        case {"type": kind}:
            return escape(str(kind)) + _bounds(schema)
        case _:
            return "any"


def _codes(part: Json) -> str:
    code = part.get("properties", {}).get("code")
    return f": {_kind(code)}" if code else ""


def _bounds(schema: Json) -> str:
    names = {"minimum": "from", "maximum": "to", "minLength": "at least", "maxLength": "at most", "maxItems": "at most"}
    told = [f"{word} {schema[name]}" for name, word in names.items() if name in schema]
    shape = [f"<code>{escape(schema['pattern'])}</code>"] if "pattern" in schema else []
    return f" ({', '.join([*told, *shape])})" if told or shape else ""


def _about(described: Json) -> str:
    return _code(described.get("description", ""))


def _code(text: str) -> str:
    """Escaped text, with what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _prose(text: str) -> str:
    """Paragraphs, and tables of two columns."""
    return "".join(_block(block) for block in text.strip().split("\n\n"))


def _block(block: str) -> str:
    if not block.startswith("|"):
        return f"<p>{_code(block)}</p>"
    rows = [tuple(_code(cell.strip()) for cell in line.strip("|").split("|")) for line in block.splitlines()]
    return _table(rows[0], rows[2:])


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _anchor(tag: str) -> str:
    return escape(tag.lower().replace(" ", "-"))


def _last(ref: str) -> str:
    return ref.rsplit("/", 1)[-1]
