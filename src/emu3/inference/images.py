"""Still pictures: what was asked for, as codes drawn in one batch. The still half of `Emu3`; the
moving one is `clips.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.sampling import SamplingParams
from emu3.inference.speculative import JacobiDecoder, OnPass, VisualSequence, draft_length_for
from emu3.inference.validation import check_context, check_guidance, check_seed
from emu3.models.memory import max_kv_cache_tokens
from emu3.outputs import ImageSettings
from emu3.processing.image import size_in_codes

OnRow = Callable[[int, int, Sequence[Tensor]], None]
"""Called as rows of codes are finished: how many are, of how many in all pictures together, and
what there is of each picture, codes [r, w]."""

SMALLER = "use a smaller area or a shorter text"


@torch.no_grad()
def draw(
    checkpoint: Checkpoint,
    settings: Sequence[ImageSettings],
    sampling: SamplingParams,
    allow_special: bool,
    on_row: OnRow | None,
) -> list[Tensor]:
    """Codes [h, w] for each of the settings, as many at a time as there is memory for; raises
    InputError where a prompt and its picture exceed the context.
    """
    prompts, document_format = checkpoint.prompts, checkpoint.prompts.document_format
    factor = checkpoint.vision_processor.vision.config.spatial_factor
    sizes = [size_in_codes(s.ratio, s.area, factor) for s in settings]
    rows, negatives = (
        [
            prompts.image(text, size, allow_special=allow_special)
            for text, size in zip(texts, sizes, strict=True)
        ]
        for texts in (
            [s.prompt + s.suffix for s in settings],
            [s.negative_prompt for s in settings],
        )
    )
    longest = max(map(len, [*rows, *negatives]))
    limit = checkpoint.decoder.config.max_position_embeddings
    check_context(
        limit, longest, max(document_format.num_tokens(*s) for s in sizes), "picture", SMALLER
    )
    scale = settings[0].guidance_scale
    branches = zip(rows, negatives, strict=True) if scale != 1 else ([row] for row in rows)
    pictures = [
        VisualSequence(list(prompts), size, each.seed)
        for prompts, size, each in zip(branches, sizes, settings, strict=True)
    ]
    window = draft_length_for(checkpoint.decoder, len(pictures) * len(pictures[0].prompts))
    told = (lambda active: None) if on_row is None else _row_reporter(on_row, pictures)
    places = max_kv_cache_tokens(checkpoint.decoder)
    drawing = JacobiDecoder(
        checkpoint.decoder, document_format, sampling, scale, window, places=places
    )
    drawing.run(pictures, told)
    return [torch.tensor(each.codes).view(each.size) for each in pictures]


def _row_reporter(on_row: OnRow, pictures: Sequence[VisualSequence]) -> OnPass:
    """Turns passes of the decoder into finished rows."""
    total, told = sum(height for height, _ in (picture.size for picture in pictures)), 0

    def on_pass(active: Sequence[VisualSequence]) -> None:
        nonlocal told
        done = sum(len(picture.codes) // picture.size[1] for picture in pictures)
        if done > told:
            told = done
            on_row(done, total, [picture.rows() for picture in pictures])

    return on_pass


def check_request(
    prompts: Sequence[str], ratios: Sequence[str], num_images: int, seed: int, guidance: float
) -> None:
    """Raise InputError on what makes no picture, whatever the model."""
    if not prompts:
        raise InputError("no prompt given")
    if len(ratios) != len(prompts):
        raise InputError(f"{len(prompts)} prompts but {len(ratios)} ratios")
    if num_images < 1:
        raise InputError(f"num_images = {num_images} must be at least 1")
    check_seed(seed, len(prompts) * num_images)
    check_guidance(guidance)
