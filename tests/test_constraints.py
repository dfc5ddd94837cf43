"""The pinned versions install on every Python that the package supports."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PINS = [
    Requirement(line.partition("#")[0].strip())
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.partition("#")[0].strip()
]


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin.name)
def test_pin_supports_the_oldest_python(pin: Requirement) -> None:
    """Of what is installed here, the version that is pinned; the first patch release counts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    try:
        found = distribution(pin.name)
    except PackageNotFoundError:
        pytest.skip("not installed")
    if found.version.partition("+")[0] not in pin.specifier:
        pytest.skip(f"{found.version} is installed")
    assert oldest in SpecifierSet(found.metadata.get("Requires-Python") or "")
