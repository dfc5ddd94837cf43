"""What a checkpoint was made for: `emu3.json` beside its config, or BAAI's defaults without one.

The published config files have no place for a quality suffix, a negative prompt, the guidance that
suits a model or a licence, and no key of theirs is bent for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emu3.config import FileConfig

DEFAULTS_FILE = "emu3.json"
QUALITY_SUFFIX = " masterpiece, film grained, best quality."
NEGATIVE_PROMPT = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, "
    "username, blurry."
)
BAAI_TASKS = ("image", "chat")
TASKS = (*BAAI_TASKS, "video")  # video: trained to draw and to go on with clips


@dataclass(frozen=True)
class GenerationSettings:
    """How something is drawn: what is said besides the prompt, and how codes are chosen."""

    suffix: str
    negative_prompt: str
    guidance_scale: float
    top_k: int
    top_p: float
    temperature: float


@dataclass(frozen=True)
class GenerationDefaults(FileConfig):
    """Defaults are those of BAAI's checkpoints (README and `image_generation.py`)."""

    tasks: tuple[str, ...] = BAAI_TASKS
    suffix: str = QUALITY_SUFFIX
    negative_prompt: str = NEGATIVE_PROMPT
    guidance_scale: float = 3.0
    top_k: int = 2048
    temperature: float = 1.0
    license: str = "Apache-2.0"
    description: str = ""

    def check(self) -> None:
        """Raise ValueError on a task that there is no verb for."""
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(f"task {task!r} is none of {', '.join(TASKS)}")

    def resolve(
        self,
        *,
        suffix: str | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
    ) -> GenerationSettings:
        """What is asked for, and where nothing is, what suits the checkpoint."""
        return GenerationSettings(
            self.suffix if suffix is None else suffix,
            self.negative_prompt if negative_prompt is None else negative_prompt,
            self.guidance_scale if guidance_scale is None else guidance_scale,
            self.top_k if top_k is None else top_k,
            1.0 if top_p is None else top_p,
            self.temperature if temperature is None else temperature,
        )

    @classmethod
    def from_folder(cls, folder: Path, name: str) -> GenerationDefaults:
        """The card of a checkpoint folder; without one, what its published name promises."""
        if (folder / DEFAULTS_FILE).exists():
            return cls.from_file(folder / DEFAULTS_FILE)
        if "-Gen" in name:
            return cls(tasks=("image",))
        if "-Chat" in name:
            return cls(tasks=("chat",))
        return cls()
