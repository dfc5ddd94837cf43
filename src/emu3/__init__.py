"""Emu3: text, images and video with one transformer trained by next-token prediction alone.

    import emu3

    model = emu3.Emu3.from_pretrained("nano")
    model.image("a red apple, noto style").save("apple.png")

`emu3.api` has the Python API, `emu3.inference` the engine behind it, `emu3.models` the networks.
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

_LAZY_IMPORTS = {
    "Emu3": "emu3.api",
    "ImageOutput": "emu3.outputs",
    "ImageSettings": "emu3.outputs",
    "VideoOutput": "emu3.outputs",
    "VideoSettings": "emu3.outputs",
}
"""Names imported on first use: importing PyTorch takes seconds, which `emu3 --help` avoids."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_LAZY_IMPORTS[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
