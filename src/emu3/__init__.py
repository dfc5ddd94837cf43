"""Emu3: text, images and video with one transformer trained by next-token prediction alone.

    import emu3

    model = emu3.Emu3.from_pretrained("nano")
    model.image("a red apple, noto style").save("apple.png")

`emu3.api` has the Python API, `emu3.inference` the engine behind it, `emu3.models` the networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu3.errors import InputError, MissingExtraError
from emu3.lazy import lazy_exports

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

__getattr__ = lazy_exports(
    __name__,
    {
        "Emu3": "api",
        "ImageOutput": "outputs",
        "ImageSettings": "outputs",
        "VideoOutput": "outputs",
        "VideoSettings": "outputs",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
