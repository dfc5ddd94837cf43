"""Generation defaults of a checkpoint: `emu3.json` beside its config.

A model has a quality suffix, a negative prompt, a guidance scale and a licence that suit it. The
published config files have no key for these. A checkpoint without `emu3.json` gets BAAI's values.
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
TASKS = (*BAAI_TASKS, "video")  # video: trained to generate and to extend videos


@dataclass(frozen=True)
class GenerationSettings:
    """Prompt additions and sampling parameters of one generation request, fully specified."""

    suffix: str
    negative_prompt: str
    guidance_scale: float
    top_k: int
    top_p: float
    temperature: float


@dataclass(frozen=True)
class GenerationDefaults(FileConfig):
    """What a checkpoint can do, and its default prompt additions and sampling parameters.

    The default values are those of BAAI's checkpoints. Source: README and `image_generation.py` of
    baaivision/Emu3.
    """

    tasks: tuple[str, ...] = BAAI_TASKS
    suffix: str = QUALITY_SUFFIX
    negative_prompt: str = NEGATIVE_PROMPT
    guidance_scale: float = 3.0
    top_k: int = 2048
    temperature: float = 1.0
    license: str = "Apache-2.0"
    description: str = ""

    def check(self) -> None:
        """Raise ValueError on an unknown task."""
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(f"unknown task {task!r}; known tasks: {', '.join(TASKS)}")

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
        """Fill every argument that is None with the default of the checkpoint."""
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
        """Read `emu3.json` of a checkpoint folder.

        Without that file the tasks follow from the model name: BAAI's "-Gen" generates images and
        "-Chat" answers questions.
        """
        if (folder / DEFAULTS_FILE).exists():
            return cls.from_file(folder / DEFAULTS_FILE)
        if "-Gen" in name:
            return cls(tasks=("image",))
        if "-Chat" in name:
            return cls(tasks=("chat",))
        return cls()
