"""Captioning a clip before it is continued.

With a caption, the direction of motion is part of the prompt and need not be inferred from the
given frames in every window. A model that answers questions about clips and generates videos can
write that prompt itself.
"""

from __future__ import annotations

from torch import Tensor

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.loading import Checkpoint
from emu3.processing.document_format import VideoCodes

QUESTION = "Please describe the video"
"""Phrased as BAAI's example asks about an image."""

MAX_CAPTION_TOKENS = 64


def can_caption(defaults: GenerationDefaults) -> bool:
    """Whether a checkpoint can describe a clip and generate videos."""
    return {"chat", "video"} <= set(defaults.tasks)


def caption_prompt_ids(checkpoint: Checkpoint, codes: Tensor, fps: float) -> list[int] | None:
    """The prompt that a caption of a clip follows; codes [t, h, w] of whole groups.

    It holds the last groups, as many as take up half of the context. None where the context has no
    room for one group and a caption.
    """
    prompts, limit = checkpoint.prompts, checkpoint.decoder.config.max_position_embeddings
    document_format = prompts.document_format
    _, height, width = codes.shape
    groups = limit // 2 // document_format.num_tokens(height, width)
    if groups < 1:
        return None
    shown = codes[-groups:]
    frames = len(shown) * document_format.frames_per_group
    prompt = prompts.chat(QUESTION, [VideoCodes(shown, fps, frames)])
    return prompt if len(prompt) < limit else None
