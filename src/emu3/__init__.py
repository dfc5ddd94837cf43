"""Emu3: one transformer over text, pictures and video, and nothing but next-token prediction.

import emu3
m = emu3.Emu3.from_pretrained("nano")
m.image("a red apple, noto style").save("apple.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu3.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from emu3.output import ImageOutput, Settings, VideoOutput, VideoSettings
    from emu3.pipeline import Emu3

__version__ = "0.1.0"

__all__ = [
    "Emu3",
    "ImageOutput",
    "InputError",
    "MissingExtraError",
    "Settings",
    "VideoOutput",
    "VideoSettings",
    "__version__",
]

_HOMES = {
    "Emu3": "emu3.pipeline",
    "ImageOutput": "emu3.output",
    "Settings": "emu3.output",
    "VideoOutput": "emu3.output",
    "VideoSettings": "emu3.output",
}
"""Names fetched when first asked for: PyTorch takes seconds to import, `emu3 --help` must not."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
