"""What every tab of the studio is handed."""

from __future__ import annotations

from dataclasses import dataclass, field

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.inference.async_engine import AsyncEngine
from emu3.server.media import VideoDecoder
from emu3.server.settings import Settings
from emu3.server.studio.media_cache import Shelf


@dataclass(frozen=True)
class Room:
    """The engine, the operator's limits, and the shelf for what is shown."""

    engine: AsyncEngine
    settings: Settings
    shelf: Shelf = field(default_factory=Shelf)

    @property
    def defaults(self) -> GenerationDefaults:
        """What the model was made for."""
        return self.engine.checkpoint.defaults

    @property
    def area(self) -> int:
        """Pixels of a picture that suits the model."""
        return self.engine.checkpoint.decoder.config.image_area

    @property
    def factor(self) -> int:
        """Pixels of a code, along each side."""
        return self.engine.checkpoint.vision_processor.vision.config.spatial_factor

    @property
    def video_decoder(self) -> VideoDecoder | None:
        """How clips are looked at, None where the model knows none."""
        preprocessor = self.engine.checkpoint.vision_processor.preprocessor
        return VideoDecoder(preprocessor, self.settings) if self.can("video") else None

    @property
    def is_nano(self) -> bool:
        """Whether it is the small model that comes with the package, which knows emoji only."""
        return self.engine.checkpoint.name.endswith("nano")

    def can(self, task: str) -> bool:
        """Whether the model was made for a task of its card."""
        return task in self.defaults.tasks
