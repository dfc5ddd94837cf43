"""The image preprocessing of `preprocessor_config.json` as a transformers image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from emu3.config import PreprocessorConfig
from emu3.errors import InputError
from emu3.processing.image import to_image, to_pixels, to_rgb

REDUNDANT_KEYS = ("image_processor_type", "processor_class", "size")  # not kept as attributes


class Emu3VisionVQImageProcessor(BaseImageProcessor):
    """Resize images to whole visual codes within the bounds of area, and normalize them.

    The settings are attributes (`min_pixels`, `max_pixels`, …) and can be changed.
    """

    model_input_names = ("pixel_values",)

    def __init__(self, **values: Any) -> None:
        known = PreprocessorConfig.__dataclass_fields__.keys()
        config = PreprocessorConfig.from_dict({k: v for k, v in values.items() if k in known})
        super().__init__(**{k: v for k, v in values.items() if k not in known})
        for name, value in config.to_dict().items():
            if name not in REDUNDANT_KEYS:
                setattr(self, name, value)

    def as_preprocessor_config(self) -> PreprocessorConfig:
        """The configuration for this library. Raises InputError on an unsupported value."""
        names = PreprocessorConfig.__dataclass_fields__.keys() - set(REDUNDANT_KEYS)
        return PreprocessorConfig.from_dict({name: getattr(self, name) for name in names})

    def to_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`."""
        values = self.as_preprocessor_config().to_dict()
        values["size"] = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return {name: value for name, value in values.items() if value is not None}

    def preprocess(self, images: Any, return_tensors: str | None = None) -> BatchFeature:
        """One or several images to `pixel_values` [B, 3, H, W].

        Images are `PIL.Image` or uint8 arrays [H, W, 3]. As in BAAI's processor, the alpha channel
        and ICC profiles are ignored; `emu3.Emu3` puts transparent parts on white and converts to
        sRGB. Raises InputError if they have different
        sizes after resizing, which cannot share a batch.
        """
        config = self.as_preprocessor_config()
        plain = [to_rgb(_to_pil(each), plain=True) for each in _as_list(images)]
        pixels = [to_pixels(each, config).numpy() for each in plain]
        if len({each.shape for each in pixels}) > 1:
            sizes = [f"{each.shape[2]}x{each.shape[1]}" for each in pixels]
            raise InputError(
                f"images have different sizes after resizing ({', '.join(sizes)}); process them "
                "one by one"
            )
        return BatchFeature({"pixel_values": np.stack(pixels)}, tensor_type=return_tensors)

    def postprocess(self, images: Tensor | Sequence[Any]) -> BatchFeature:
        """Pixels [B, 3, H, W] or [3, H, W] to `pixel_values`, a list of `PIL.Image`."""
        config = self.as_preprocessor_config()
        batch = [images] if isinstance(images, Tensor) and images.ndim == 3 else list(images)
        decoded = [
            each if isinstance(each, Image.Image) else to_image(torch.as_tensor(each), config)
            for each in batch
        ]
        return BatchFeature({"pixel_values": decoded})


def _as_list(images: Any) -> list[Any]:
    single = isinstance(images, Image.Image) or getattr(images, "ndim", 4) == 3
    return [images] if single else list(images)


def _to_pil(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"an image must be PIL.Image or a uint8 array [H, W, 3], got {array.dtype} "
            f"{array.shape}"
        )
    return Image.fromarray(array)
