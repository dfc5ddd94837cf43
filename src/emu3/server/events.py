"""Server-sent events as text."""

from __future__ import annotations

import json
from typing import Any

from emu3.server.problems import Problem

DONE = "data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(data: dict[str, Any], name: str | None = None) -> str:
    """One event, named or not."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n"


def failure(problem: Problem) -> str:
    """The event that a stream ends with when something goes wrong on the way."""
    return event({"type": "error", **problem.body()}, "error")
