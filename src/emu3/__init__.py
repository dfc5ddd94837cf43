"""Emu3: one transformer over text, pictures and video, and nothing but next-token prediction.

import emu3
m = emu3.Emu3.from_pretrained("nano")
m.image("a red apple, noto style").save("apple.png")
"""

from emu3.errors import InputError, MissingExtraError
from emu3.output import ImageOutput, Settings
from emu3.pipeline import Emu3

__version__ = "0.1.0"

__all__ = ["Emu3", "ImageOutput", "InputError", "MissingExtraError", "Settings", "__version__"]
