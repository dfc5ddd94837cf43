"""Pictures to pixels and back, by `preprocessor_config.json`, as a transformers image processor."""

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
from emu3.processing.image import to_image, to_pixels

LABELS = ("image_processor_type", "processor_class", "size")  # say nothing that is not said twice


class Emu3VisionVQImageProcessor(BaseImageProcessor):
    """Resizes to whole codes within the bounds of area, and normalises.

    The settings are attributes (`min_pixels`, `max_pixels`, …) and may be changed.
    """

    model_input_names = ("pixel_values",)

    def __init__(self, **values: Any) -> None:
        known = PreprocessorConfig.__dataclass_fields__.keys()
        config = PreprocessorConfig.from_dict({k: v for k, v in values.items() if k in known})
        super().__init__(**{k: v for k, v in values.items() if k not in known})
        for name, value in config.to_dict().items():
            if name not in LABELS:
                setattr(self, name, value)

    def settings(self) -> PreprocessorConfig:
        """The house's rules; raises InputError on a value that it does not follow."""
        names = PreprocessorConfig.__dataclass_fields__.keys() - set(LABELS)
        return PreprocessorConfig.from_dict({name: getattr(self, name) for name in names})

    def to_dict(self) -> dict[str, Any]:
        """What `preprocessor_config.json` says."""
        said = self.settings().to_dict()
        said["size"] = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return {name: value for name, value in said.items() if value is not None}

    def preprocess(self, images: Any, return_tensors: str | None = None) -> BatchFeature:
        """A picture or several to `pixel_values` [B, 3, H, W].

        Pictures may be `PIL.Image`s or uint8 arrays [H, W, 3]. Raises InputError where they come
        to different sizes, which do not fit into one batch.
        """
        settings = self.settings()
        pixels = [to_pixels(_picture(each), settings).numpy() for each in _listed(images)]
        if len({each.shape for each in pixels}) > 1:
            sizes = [f"{each.shape[2]}x{each.shape[1]}" for each in pixels]
            raise InputError(f"pictures come to {', '.join(sizes)}; process them one by one")
        return BatchFeature({"pixel_values": np.stack(pixels)}, tensor_type=return_tensors)

    def postprocess(self, images: Tensor | Sequence[Any]) -> BatchFeature:
        """Pixels [B, 3, H, W] or [3, H, W] to `pixel_values`, a list of `PIL.Image`."""
        settings = self.settings()
        batch = [images] if isinstance(images, Tensor) and images.ndim == 3 else list(images)
        pictures = [
            each if isinstance(each, Image.Image) else to_image(torch.as_tensor(each), settings)
            for each in batch
        ]
        return BatchFeature({"pixel_values": pictures})


def _listed(images: Any) -> list[Any]:
    single = isinstance(images, Image.Image) or getattr(images, "ndim", 4) == 3
    return [images] if single else list(images)


def _picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(f"pictures are PIL.Image or uint8 [H, W, 3], not {array.shape}")
    return Image.fromarray(array)
