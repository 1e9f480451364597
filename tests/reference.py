"""An OpenAPI document as a page to read: docs/api.md."""

from __future__ import annotations

import re
from typing import Any

Document = dict[str, Any]
_HEAD = """# API reference

<!-- made by `make openapi` from the service itself; do not edit -->
Every operation with its parameters, bodies and answers, and below them what the answers hold. A running service shows
the same at `/docs` and gives it to programs at `/openapi.json`, both without a key. How to use it:
[integrate.md](integrate.md). Keys and scopes: [operate.md](operate.md#keys). Every error is `application/problem+json`
([Problem](#problem)), and any operation may answer one; what to do about each: [operate.md](operate.md#trouble).
"""


def reference_page(document: Document) -> str:
    """The page, in Markdown."""
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    lines = [_HEAD, "| operation | what it answers |", "|---|---|"]
    for path, method, operation in operations:
        name = f"{method.upper()} {path}"
        lines.append(f"| [`{name}`](#{anchor(name)}) | {_cell(operation.get('summary', ''))} |")
    for path, method, operation in operations:
        lines += ["", f"## {method.upper()} {path}", "", *_operation(operation)]
    lines += ["", "# What answers and bodies hold"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += ["", f"## {name}", "", *_schema(schema)]
    return "\n".join(lines) + "\n"


def _operation(operation: Document) -> list[str]:
    summary = operation.get("summary", "")
    lines = [f"**{summary}{'' if summary.endswith('?') else '.'}** {_flat(operation.get('description', ''))}"]
    if parameters := operation.get("parameters"):
        lines += ["", "| parameter | in | kind | default | meaning |", "|---|---|---|---|---|"]
        for each in parameters:
            schema = each["schema"]
            default = schema.get("default")
            shown = "" if default in (None, "", []) else f"`{default}`"
            shown = "needed" if each.get("required") else shown
            meaning = _cell(each.get("description", ""))
            lines.append(f"| `{each['name']}` | {each['in']} | {_kind(schema)} | {shown} | {meaning} |")
    bodies = operation.get("requestBody", {}).get("content", {})
    for media, content in bodies.items():
        if fields := content.get("schema", {}).get("properties", {}):
            needed = content["schema"].get("required", [])
            lines += ["", f"Body `{media}`:"]
            lines += [_field(name, schema, name in needed) for name, schema in fields.items()]
    if whole := [f"`{media}`" for media, content in bodies.items() if "properties" not in content.get("schema", {})]:
        lines += ["", f"Body {', '.join(whole)}: the picture itself."]
    for code, answer in operation.get("responses", {}).items():
        if code.endswith("XX") or code == "422":  # the same for all of them
            continue
        kinds = [
            f"`{media}` {_kind(content.get('schema', {}))}".strip()
            for media, content in answer.get("content", {}).items()
        ]
        lines += ["", f"Answer {code}: {', '.join(kinds) or 'no body'}"]
    return lines


def _schema(schema: Document) -> list[str]:
    lines = [_flat(schema["description"])] if "description" in schema else []
    fields = schema.get("properties", {})
    if fields:
        lines += [""] * bool(lines) + [_field(name, each, False) for name, each in fields.items()]
    return lines or [_kind(schema)]


def _field(name: str, schema: Document, needed: bool) -> str:
    kind = _kind(schema) + (", needed" if needed else "")
    meaning = _flat(schema.get("description", ""))
    return f"- `{name}` ({kind})" + (f": {meaning}" if meaning else "")


def _kind(schema: Document) -> str:
    """What a value may be, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{anchor(name)})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(_kind(each) for each in schema[choice]))
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return "[" + ", ".join(_kind(each) for each in schema["prefixItems"]) + "]"
        return f"list of {_kind(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    if schema.get("format") == "binary":
        return "file"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    kind = schema.get("type", "")
    return f"{words.get(kind, kind)} {schema.get('format', '')}".strip()


def anchor(heading: str) -> str:
    """A heading's place in its page, as Markdown viewers make it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _flat(text).replace("|", "\\|")
