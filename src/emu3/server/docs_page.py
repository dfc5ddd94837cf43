"""`GET /docs`: the OpenAPI document as a page.

FastAPI's own page loads its scripts from a CDN; this one works without internet access, and
without scripts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
details { border-top: 1px solid #8884; padding: .4rem 0; }
summary { cursor: pointer; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
b { display: inline-block; min-width: 4.5rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border-top: 1px solid #8884; padding: .2rem .6rem .2rem 0; text-align: left; }
"""


def docs_page(document: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    return "".join(_page(document))


def _page(document: dict[str, Any]) -> Iterator[str]:
    title, schemas = escape(document["info"]["title"]), document["components"]["schemas"]
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title} API</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style><h1>{title} API</h1>"
    yield '<p>As JSON (OpenAPI): <a href="openapi.json">openapi.json</a></p>'
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield from _operation(method, path, operation, schemas)
    yield "<h2>Schemas</h2>"
    for name, schema in schemas.items():
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        yield from _table("Field", schema.get("properties", {}))
        yield "</details>"
    yield "</html>"


def _operation(
    method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> Iterator[str]:
    yield f"<details><summary><b>{method.upper()}</b><code>{escape(path)}</code> "
    yield f"{escape(operation.get('description', ''))}</summary>"
    parameters = operation.get("parameters", [])
    yield from _table("Parameter", {each["name"]: each["schema"] for each in parameters})
    if "requestBody" in operation:
        contents = operation["requestBody"]["content"]
        yield f"<p>Body: <code>{escape(' or '.join(contents))}</code></p>"
        reference = next(iter(contents.values()))["schema"]["$ref"]  # the same for all types
        yield from _table("Field", schemas[reference.rpartition("/")[2]]["properties"])
    yield "<table><tr><th>Status<th>Meaning"
    for status, response in sorted(operation["responses"].items()):
        yield f"<tr><td>{status}<td>{escape(response['description'])}"
    yield "</table></details>"


def _table(heading: str, properties: dict[str, Any]) -> Iterator[str]:
    if properties:
        yield f"<table><tr><th>{heading}<th>Schema"
        for name, schema in properties.items():
            shown = {key: value for key, value in schema.items() if key != "title"}
            text = escape(json.dumps(shown, ensure_ascii=False))
            yield f"<tr><td><code>{escape(name)}</code><td><code>{text}</code>"
        yield "</table>"
