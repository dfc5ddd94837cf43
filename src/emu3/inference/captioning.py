"""A clip in a model's own words, before it goes on with it.

What happens next is drawn from what is seen, and a prompt helps: which way something moves has to
be found out once and not again in every frame. A model that answers questions about clips and
draws them, too, can say it itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.loading import Checkpoint
from emu3.inference.reference import generate_text
from emu3.inference.sampling import SamplingParams
from emu3.processing.document_format import VideoCodes

DESCRIBE = "Please describe the video"
"""The question, as BAAI's example asks about a picture."""

LONGEST = 64  # ids of an answer


def can_caption(card: GenerationDefaults) -> bool:
    """Whether a checkpoint can say what it sees in a clip, and draw what is said."""
    return {"chat", "video"} <= set(card.tasks)


@torch.no_grad()
def caption_video(checkpoint: Checkpoint, codes: Tensor, fps: float) -> str:
    """What a model says of a clip, codes [t, h, w] of whole groups; greedily.

    It is shown the last groups, as many as take up half of its context, and has nothing to say
    where not even one does.
    """
    decoder, prompts, text = checkpoint.decoder, checkpoint.prompts, checkpoint.text_tokenizer
    document_format, limit = prompts.document_format, decoder.config.max_position_embeddings
    _, height, width = codes.shape
    most = limit // 2 // document_format.num_tokens(height, width)
    if most < 1:
        return ""
    shown = codes[-most:]
    prompt = prompts.chat(DESCRIBE, [VideoCodes(shown, fps, len(shown) * document_format.group)])
    room, greedily = min(LONGEST, limit - len(prompt)), SamplingParams(top_k=1)
    if room < 1:
        return ""
    stop, pad = text.vocabulary.eos, text.vocabulary.pad
    (ids,) = generate_text(decoder, [prompt], stop, pad, room, greedily, [0])
    return text.decode(ids.tolist(), skip_special=True).strip()
