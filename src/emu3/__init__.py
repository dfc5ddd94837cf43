"""Emu3: one transformer over text, pictures and video, and nothing but next-token prediction.

import emu3
m = emu3.Emu3.from_pretrained("nano")
m.image("a red apple, noto style").save("apple.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu3.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from emu3.api import Emu3
    from emu3.outputs import ImageOutput, ImageSettings, VideoOutput, VideoSettings

__version__ = "0.1.0"

__all__ = [
    "Emu3",
    "ImageOutput",
    "ImageSettings",
    "InputError",
    "MissingExtraError",
    "VideoOutput",
    "VideoSettings",
    "__version__",
]

_HOMES = {
    "Emu3": "emu3.api",
    "ImageOutput": "emu3.outputs",
    "ImageSettings": "emu3.outputs",
    "VideoOutput": "emu3.outputs",
    "VideoSettings": "emu3.outputs",
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
