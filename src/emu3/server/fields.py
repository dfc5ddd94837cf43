"""A JSON object read field by field, strictly: no number in a string, no field nobody knows.

Not pydantic, because the limits are the operator's and each refusal has to name its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from emu3.server.errors import APIError, invalid_request

ANY = object()
"""Any short string will do."""

SHORT = 512  # characters of a string that is ignored
NAME = 200  # characters of a model's name


def read_object(body: bytes) -> dict[str, Any]:
    """The object that a body is. Raises APIError on anything else, NaN and Infinity included."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise invalid_request(None, "the body is nested too deeply") from None
    except ValueError as error:  # broken JSON, bytes that are no UTF-8, a number of 5,000 digits
        raise invalid_request(None, f"the body is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise invalid_request(None, f"the body must be a JSON object, not {_kind(value)}")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


class Fields:
    """The fields of an object; each is read once, and `done` refuses what is left.

    null stands for a field left out. All methods raise APIError.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        self.left = dict(values)
        self.where = where

    def take(self, name: str) -> Any:
        """The raw value, None where there is none."""
        return self.left.pop(name, None)

    def bad(self, name: str, message: str) -> APIError:
        """A refusal of one field."""
        return invalid_request(self.where + name, message)

    def text(self, name: str, most: int, limit: str = "") -> str | None:
        """A string of at most `most` characters."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.bad(name, f"must be a string, not {_kind(value)}")
        return checked_text(value, self.where + name, most, limit)

    def integer(self, name: str, least: int, most: int, limit: str = "") -> int | None:
        """A whole number in bounds; `limit` names the setting behind the upper one."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) is not int:
            raise self.bad(name, f"must be an integer, not {_kind(value)}")
        if not least <= value <= most:
            raise self.bad(name, f"must lie in {least} to {most}{_by(limit)}")
        return value

    def number(self, name: str, least: float, most: float, limit: str = "") -> float | None:
        """A finite number in bounds."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) not in (int, float):
            raise self.bad(name, f"must be a number, not {_kind(value)}")
        if not least <= value <= most or (isinstance(value, float) and not math.isfinite(value)):
            raise self.bad(name, f"must lie in {least} to {most}{_by(limit)}")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false; false where there is none."""
        value = self.take(name)
        if value is not None and type(value) is not bool:
            raise self.bad(name, f"must be true or false, not {_kind(value)}")
        return bool(value)

    def choice(self, name: str, choices: Collection[str], default: str) -> str:
        """One of some words."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in choices:
            raise self.bad(name, f"must be one of {', '.join(choices)}")
        return value

    def ignore(self, harmless: Mapping[str, object]) -> None:
        """Take fields that change nothing here, as long as they ask for nothing.

        A field's value must be among those given; ANY lets every short string pass.
        """
        for name, allowed in harmless.items():
            value = self.take(name)
            if value is None:
                continue
            if allowed is ANY:
                if not isinstance(value, str) or len(value) > SHORT:
                    raise self.bad(name, f"must be a string of at most {SHORT} characters")
            elif isinstance(allowed, tuple) and not any(_same(value, each) for each in allowed):
                said = ", ".join(json.dumps(each) for each in allowed)
                raise self.bad(name, f"not supported; leave it out or use {said}")

    def done(self) -> None:
        """Raise APIError where something nobody knows is left."""
        for name in self.left:
            shown = name if len(name) <= 60 else f"{name[:60]}…"
            shown = shown.encode("utf-8", "replace").decode()
            raise invalid_request(self.where + shown, "unknown field", "unknown_parameter")


def checked_text(value: str, param: str, most: int, limit: str) -> str:
    """A string that can be encoded and is short enough. Raises APIError."""
    if len(value) > most:
        raise invalid_request(
            param, f"{len(value)} characters, at most {most} are allowed{_by(limit)}"
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise invalid_request(param, "half of a surrogate pair, which is no text")
    return value


def _same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other


def _by(limit: str) -> str:
    return f" (limit {limit})" if limit else ""


def _kind(value: object) -> str:
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), "that")
