"""Lazy exports: a package exports names whose modules are imported on first use.

Importing PyTorch takes seconds, which `emu3 --help` and a refused argument must not wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package: `modules` maps an exported name to its submodule."""

    def getattr_lazily(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return getattr_lazily
