"""`GET /openapi.json`, and the same for people at `GET /docs`: a page without scripts, and with
nothing that comes from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import Request, Response

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
HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


@dataclass(frozen=True)
class DocsPage:
    """Endpoints that tell a description, as `openapi.document` gives it."""

    described: dict[str, Any]

    def paths(self) -> tuple[tuple[str, str, Callable[[Request], Awaitable[Response]]], ...]:
        """Path, method and endpoint."""
        return ("/openapi.json", "GET", self.data), ("/docs", "GET", self.page)

    async def data(self, request: Request) -> Response:
        """For programs."""
        from starlette.responses import JSONResponse

        return JSONResponse(self.described)

    async def page(self, request: Request) -> Response:
        """For people."""
        from starlette.responses import HTMLResponse

        return HTMLResponse("".join(page_of(self.described)), headers=HEADERS)


def page_of(described: dict[str, Any]) -> Iterator[str]:
    """The page, piece by piece."""
    title = escape(described["info"]["title"])
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: the API</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style><h1>{title}: the API</h1>"
    yield '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield from operation_of(method, path, operation)
    yield "</html>"


def operation_of(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    """One path and method, folded up."""
    yield f"<details><summary><b>{method.upper()}</b><code>{escape(path)}</code> "
    yield f"{escape(operation['summary'])}</summary>"
    yield from table_of("Parameter", [(p["name"], p["schema"]) for p in operation["parameters"]])
    if "requestBody" in operation:
        contents = operation["requestBody"]["content"]
        yield f"<p>Body: <code>{escape(' or '.join(contents))}</code></p>"
        fields = next(iter(contents.values()))["schema"]["properties"]  # the same in all types
        yield from table_of("Field", list(fields.items()))
    answers = [(status, said["description"]) for status, said in operation["responses"].items()]
    yield "<table><tr><th>Status<th>Meaning"
    for status, meaning in sorted(answers):
        yield f"<tr><td>{status}<td>{escape(meaning)}"
    yield "</table></details>"


def table_of(what: str, rows: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Names and what they may be."""
    if rows:
        yield f"<table><tr><th>{what}<th>Schema"
        for name, schema in rows:
            shown = escape(json.dumps(schema, ensure_ascii=False))
            yield f"<tr><td><code>{escape(name)}</code><td><code>{shown}</code>"
        yield "</table>"
