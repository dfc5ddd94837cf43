"""`multipart/form-data` as the object that the same request in JSON would be.

Everything in a form is text. What is a number by its nature becomes one, `a[b]` becomes b in an
object a, and a file becomes an `Upload`.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from typing import Any

from emu3.server.errors import invalid_request

FORM = "multipart/form-data"
NESTED = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")
MOST_FIELDS, MOST_FILES = 64, 4
LONGEST_NUMBER = 40


@dataclass(frozen=True)
class Upload:
    """The bytes of a file; what it is called counts for nothing."""

    data: bytes


async def read_form(body: bytes, kind: str, numbers: Collection[str]) -> dict[str, Any]:
    """The fields of a form of content type `kind`, those named in `numbers` as numbers.

    Raises APIError on what is no form, and on a field that is there twice.
    """
    from starlette.datastructures import Headers, UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def parts() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers({"content-type": kind}),
        parts(),
        max_files=MOST_FILES,
        max_fields=MOST_FIELDS,
        max_part_size=max(1, len(body)),
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid_request(
            None, f"the body is no multipart/form-data: {error.message[:200]}"
        ) from None
    found: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            put(found, name, Upload(await value.read()))
        else:
            put(found, name, number(value) if name in numbers else value)
    await form.close()
    return found


def put(found: dict[str, Any], name: str, value: Any) -> None:
    """Set a field, or one of an object. Raises APIError where it is there already."""
    nested = NESTED.fullmatch(name)
    place = found.setdefault(nested[1], {}) if nested else found
    last = nested[2] if nested else name
    if not isinstance(place, dict) or last in place:
        shown = name[:60].encode("utf-8", "replace").decode()
        raise invalid_request(shown, "is there more than once")
    place[last] = value


def number(text: str) -> Any:
    """A number where a text is one, else the text, which whoever reads the field refuses."""
    try:
        value = json.loads(text) if len(text) <= LONGEST_NUMBER else text
    except (ValueError, RecursionError):
        return text
    return value if type(value) in (int, float) else text
