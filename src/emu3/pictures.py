"""Still pictures: what was asked for, as codes drawn in one batch. The still half of `Emu3`; the
other is `clips.py`, and what both refuse is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from emu3.checkpoint import Checkpoint
from emu3.errors import InputError
from emu3.image import size_in_codes
from emu3.output import Settings
from emu3.sampling import Sampling
from emu3.windows import Drawing, OnPass, Picture, window_for

OnRow = Callable[[int, int, Sequence[Tensor]], None]
"""Called as rows of codes are finished: how many are, of how many in all pictures together, and
what there is of each picture, codes [r, w]."""

MAX_SEED = 2**63 - 1


@torch.no_grad()
def draw(
    checkpoint: Checkpoint,
    settings: Sequence[Settings],
    sampling: Sampling,
    allow_special: bool,
    on_row: OnRow | None,
) -> list[Tensor]:
    """Codes [h, w] for each of the settings, drawn in one batch; raises InputError where a prompt
    and its picture exceed the context.
    """
    prompts, grammar = checkpoint.prompts, checkpoint.prompts.grammar
    factor = checkpoint.codec.vision.config.spatial_factor
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
    check_context(checkpoint, longest, max(grammar.length(*size) for size in sizes), "picture")
    scale = settings[0].guidance_scale
    branches = zip(rows, negatives, strict=True) if scale != 1 else ([row] for row in rows)
    pictures = [
        Picture(list(prompts), size, each.seed)
        for prompts, size, each in zip(branches, sizes, settings, strict=True)
    ]
    window = window_for(checkpoint.decoder, len(pictures) * len(pictures[0].prompts))
    told = (lambda active: None) if on_row is None else _row_reporter(on_row, pictures)
    Drawing(checkpoint.decoder, grammar, sampling, scale, window).run(pictures, told)
    return [torch.tensor(each.codes).view(each.size) for each in pictures]


def _row_reporter(on_row: OnRow, pictures: Sequence[Picture]) -> OnPass:
    """Turns passes of the decoder into finished rows."""
    total, told = sum(height for height, _ in (picture.size for picture in pictures)), 0

    def on_pass(active: Sequence[Picture]) -> None:
        nonlocal told
        done = sum(len(picture.codes) // picture.size[1] for picture in pictures)
        if done > told:
            told = done
            on_row(done, total, [picture.rows() for picture in pictures])

    return on_pass


def check_context(
    checkpoint: Checkpoint,
    prompt: int,
    new: int,
    what: str,
    instead: str = "a smaller area or a shorter text",
) -> None:
    """Raise InputError where a request is longer than what the decoder was trained for."""
    limit = checkpoint.decoder.config.max_position_embeddings
    if prompt + new > limit:
        raise InputError(
            f"{prompt} ids of prompt and {new} of {what} exceed the context of {limit}; "
            f"use {instead}"
        )


def check_seed(seed: int, rows: int) -> None:
    """Raise InputError where `rows` seeds from `seed` on are not all in range."""
    if not 0 <= seed <= MAX_SEED - rows:
        raise InputError(f"seed = {seed} must lie in 0 to {MAX_SEED}")


def check_guidance(guidance: float) -> None:
    """Raise InputError on a scale that means nothing."""
    if not 0 <= guidance < float("inf"):
        raise InputError(f"guidance_scale = {guidance} must be 0 or more; 1 is no guidance")


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
