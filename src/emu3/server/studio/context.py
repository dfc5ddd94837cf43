"""Objects shared by all tabs of the studio."""

from __future__ import annotations

from dataclasses import dataclass, field

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine
from emu3.processing.image import size_in_codes
from emu3.server.errors import invalid_request
from emu3.server.media import VideoDecoder
from emu3.server.metrics import Metrics
from emu3.server.settings import Settings
from emu3.server.studio.media_cache import MediaCache


@dataclass(frozen=True)
class StudioContext:
    """The engine, settings, metrics, media cache, and properties of the checkpoint."""

    engine: AsyncEngine
    settings: Settings
    metrics: Metrics
    media_cache: MediaCache = field(default_factory=MediaCache)

    @property
    def defaults(self) -> GenerationDefaults:
        """Generation defaults of the checkpoint."""
        return self.engine.checkpoint.defaults

    @property
    def image_area(self) -> int:
        """Pixels of an image in the size that the checkpoint was trained on."""
        return self.engine.checkpoint.decoder.config.image_area

    @property
    def spatial_factor(self) -> int:
        """Pixels per visual code, along each side."""
        return self.engine.checkpoint.vision_processor.vision.config.spatial_factor

    @property
    def codebook_size(self) -> int:
        """Entries of the codebook of the vision tokenizer."""
        return self.engine.checkpoint.vision_processor.vision.config.codebook_size

    @property
    def video_decoder(self) -> VideoDecoder | None:
        """The decoder of uploaded videos, or None if the checkpoint does not support video."""
        preprocessor = self.engine.checkpoint.vision_processor.preprocessor
        return VideoDecoder(preprocessor, self.settings) if self.supports("video") else None

    @property
    def is_demo_model(self) -> bool:
        """Whether the checkpoint is the bundled demo model, which was trained on emoji only."""
        return self.engine.checkpoint.name.endswith("nano")

    def supports(self, task: str) -> bool:
        """Whether the checkpoint was trained for a task: "image", "chat" or "video"."""
        return task in self.defaults.tasks

    def image_size(self, ratio: str) -> tuple[int, int]:
        """Return (width, height) in pixels for an aspect ratio. Raises APIError."""
        try:
            height, width = size_in_codes(ratio, self.image_area, self.spatial_factor)
        except InputError as error:
            raise invalid_request("ratio", str(error)) from None
        return width * self.spatial_factor, height * self.spatial_factor
