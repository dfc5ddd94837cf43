"""Reference autoregressive decoding: one token per forward pass.

The slow, obvious version. `model_runner.py` produces the same ids for many requests at once and in
fewer passes; tests check that they agree. Prompts and results are token ids. Sequences of a batch
may have different prompts and sizes; each result is the one it would have alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from emu3.inference.prefill import prefill
from emu3.inference.sampling import GumbelNoise, SamplingParams, apply_cfg, frame_seed
from emu3.models.transformer import Transformer
from emu3.processing.document_format import DocumentFormat

OnStep = Callable[[int, Tensor], None]
"""Called after each step with its number and all new ids so far, [B, step + 1]."""


@torch.inference_mode()
def generate_visual(
    model: Transformer,
    document_format: DocumentFormat,
    prompts: Sequence[Sequence[int]],
    negatives: Sequence[Sequence[int]] | None,
    sizes: Sequence[tuple[int, int]],
    sampling: SamplingParams,
    guidance_scale: float,
    seeds: Sequence[int],
    on_step: OnStep | None = None,
    *,
    groups: Sequence[int] | None = None,
    known: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Generate images or videos after prompts that end in a header: ids [B, length + 1].

    EOS comes last, then PAD. `negatives` are the negative prompts, headers included; without them,
    or with a scale of 1, there is no guidance. Guided rows share the forward pass. A row is a video
    if its `groups` (frames of codes) exceed 1. `known` are the first codes of each row, which are
    fed to the model and not sampled.
    """
    count = len(prompts)
    frames = [1] * count if groups is None else groups
    grids = [(h, w, t) for (h, w), t in zip(sizes, frames, strict=True)]
    steps = max(document_format.num_tokens(*grid) for grid in grids) + 1
    forced = torch.stack([document_format.forced_tokens(h, w, steps, t) for h, w, t in grids])
    sampled = (forced < 0).T.tolist()  # which rows sample a code at each step
    for row, given in enumerate(known or []):
        places = (forced[row] < 0).nonzero()[: len(given), 0]
        forced[row, places] = (
            torch.tensor(given, dtype=torch.long) + document_format.vocabulary.visual_start
        )
    forced = forced.to(model.device)
    guided = negatives is not None and guidance_scale != 1
    rows = [*prompts, *(negatives or [])] if guided else list(prompts)
    noise = GumbelNoise(list(seeds), model.device)
    hidden, cache = prefill(model, rows, steps - 1)
    out = torch.empty(count, steps, dtype=torch.long, device=model.device)
    for step in range(steps):
        out[:, step] = forced[:, step]
        if any(sampled[step]):
            _begin_frames(noise, step, seeds, sizes)
            logits = model.compute_logits(hidden, document_format.vocabulary.visual)
            if guided:
                conditional, unconditional = logits.chunk(2)
                logits = apply_cfg(conditional, unconditional, guidance_scale)
            codes = sampling.sample(logits, noise, sampled[step])
            new = codes + document_format.vocabulary.visual_start
            out[:, step] = torch.where(forced[:, step] < 0, new, forced[:, step])
        if on_step is not None:
            on_step(step, out[:, : step + 1])
        if step < steps - 1:
            fed = out[:, step : step + 1]
            hidden = model.forward_hidden(fed.repeat(2, 1) if guided else fed, cache)[:, -1]
    return out


def _begin_frames(
    noise: GumbelNoise, step: int, seeds: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> None:
    """Reseed the generator of each row in which a frame begins at this step."""
    for generator, seed, (height, width) in zip(noise.generators, seeds, sizes, strict=True):
        frame, inside = divmod(step, height * (width + 1) + 1)
        if inside == 0:
            generator.manual_seed(frame_seed(seed, frame))


@torch.inference_mode()
def generate_text(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    stop: int,
    pad: int,
    max_new_tokens: int,
    sampling: SamplingParams,
    seeds: Sequence[int],
    on_step: OnStep | None = None,
) -> Tensor:
    """Continue prompts until `stop`: new ids [B, at most max_new_tokens], the stop id included.

    A row that has stopped is filled with `pad`.
    """
    noise = GumbelNoise(list(seeds), model.device)
    hidden, cache = prefill(model, prompts, max_new_tokens - 1)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    out = torch.full((len(prompts), max_new_tokens), pad, device=model.device)
    for step in range(max_new_tokens):
        new = sampling.sample(model.compute_logits(hidden), noise)
        out[:, step] = torch.where(done, pad, new)
        done |= new == stop
        if on_step is not None:
            on_step(step, out[:, : step + 1])
        if step == max_new_tokens - 1 or bool(done.all()):
            return out[:, : step + 1]
        hidden = model.forward_hidden(out[:, step : step + 1], cache)[:, -1]
    return out
