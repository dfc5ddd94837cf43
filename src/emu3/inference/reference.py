"""Ids in, ids out: the decoder asked for one token after another. The slow and obvious version;
`windows.py` draws the same pictures and videos in fewer passes.

This file knows no strings and no pictures. What may come where is handed in as a document_format, how it is
drawn as a `SamplingParams`. Rows of a batch may have different prompts and sizes; each comes out as it
would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emu3.inference.sampling import GumbelNoise, SamplingParams, apply_cfg
from emu3.models.kv_cache import KVCache
from emu3.models.transformer import Transformer
from emu3.processing.document_format import DocumentFormat

OnStep = Callable[[int, Tensor], None]
"""Called after each step with its number and all new ids so far, [B, step + 1]."""


CHUNK = 2048  # ids of a prompt read in one pass: a long prompt's mask stays small


def prefill(
    model: Transformer, prompts: Sequence[Sequence[int]], new: int, cache: KVCache | None = None
) -> tuple[Tensor, KVCache]:
    """Read prompts of any lengths: the last hidden states [B, hidden], and a cache with room.

    `new` tokens fit in behind the longest prompt. A `cache` is gone on with: prompts continue its
    rows. Only last positions are kept for the head.
    """
    rows = [torch.tensor(list(prompt), dtype=torch.long) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True).to(model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    if cache is None:
        cache = model.new_cache(len(rows), ids.shape[1] + new)
    before = list(cache.lengths)
    cache.reserve(cache.max_length + ids.shape[1] + new)
    last = torch.empty(len(rows), model.config.hidden_size, dtype=model.dtype, device=model.device)
    for start in range(0, ids.shape[1], CHUNK):
        hidden = model.forward_hidden(ids[:, start : start + CHUNK], cache)
        inside = (lengths - 1 - start).clamp(0, hidden.shape[1] - 1)
        ends_here = (lengths > start) & (lengths <= start + CHUNK)
        reached = hidden.gather(1, inside[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
        last = torch.where(ends_here[:, None], reached, last)
    cache.truncate([length + len(row) for length, row in zip(before, rows, strict=True)])
    return last, cache


SEED_STEP = 0x9E3779B97F4A7C15  # odd: 2^64 over the golden ratio, so frames keep clear of seeds


def frame_seed(seed: int, frame: int) -> int:
    """The seed of the noise of one frame of codes; the first frame has that of the drawing.

    Noise thus belongs to a seed, a frame and a place in it: a video that is gone on with needs
    none of the noise before.
    """
    return (seed + frame * SEED_STEP) % 2**64


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
    """Continue prompts that end in a header: ids [B, length + 1], EOS last, then PAD.

    `negatives` are the prompts of the guidance branch, headers included; without them, or with a
    scale of 1, there is none. The branch rides in the same batch, one pass for both. A row is a
    video where it has more `groups` than one: so many frames of codes, each of its size. `known`
    are the first codes of each row, which are taken as they are and not drawn.
    """
    count = len(prompts)
    frames = [1] * count if groups is None else groups
    grids = [(h, w, t) for (h, w), t in zip(sizes, frames, strict=True)]
    steps = max(document_format.num_tokens(*grid) for grid in grids) + 1
    forced = torch.stack([document_format.forced_tokens(h, w, steps, t) for h, w, t in grids])
    drawing = (forced < 0).T.tolist()  # which rows have a choice at each step
    for row, codes in enumerate(known or []):
        places = (forced[row] < 0).nonzero()[: len(codes), 0]
        forced[row, places] = (
            torch.tensor(codes, dtype=torch.long) + document_format.vocabulary.visual_start
        )
    forced = forced.to(model.device)
    guided = negatives is not None and guidance_scale != 1
    rows = [*prompts, *(negatives or [])] if guided else list(prompts)
    noise = GumbelNoise(list(seeds), model.device)
    hidden, cache = prefill(model, rows, new=steps - 1)
    out = torch.empty(count, steps, dtype=torch.long, device=model.device)
    for step in range(steps):
        out[:, step] = forced[:, step]
        if any(drawing[step]):
            _begin_frames(noise, step, seeds, sizes)
            logits = model.compute_logits(hidden, document_format.vocabulary.visual)
            if guided:
                conditional, unconditional = logits.chunk(2)
                logits = apply_cfg(conditional, unconditional, guidance_scale)
            drawn = (
                sampling.draw(logits, noise, drawing[step])
                + document_format.vocabulary.visual_start
            )
            out[:, step] = torch.where(forced[:, step] < 0, drawn, forced[:, step])
        if on_step is not None:
            on_step(step, out[:, : step + 1])
        if step < steps - 1:
            fed = out[:, step : step + 1]
            hidden = model.forward_hidden(fed.repeat(2, 1) if guided else fed, cache)[:, -1]
    return out


def _begin_frames(
    noise: GumbelNoise, step: int, seeds: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> None:
    """Give each row in which a frame begins at this step the noise of that frame."""
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
    cache: KVCache | None = None,
) -> Tensor:
    """Continue prompts until `stop`: new ids [B, at most max_new_tokens], the stop id included.

    A row that has stopped is filled with `pad`. A `cache` is gone on with, and has then read all
    but the last of the new ids.
    """
    noise = GumbelNoise(list(seeds), model.device)
    hidden, cache = prefill(model, prompts, max_new_tokens - 1, cache)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    out = torch.full((len(prompts), max_new_tokens), pad, device=model.device)
    for step in range(max_new_tokens):
        drawn = sampling.draw(model.compute_logits(hidden), noise)
        out[:, step] = torch.where(done, pad, drawn)
        done |= drawn == stop
        if on_step is not None:
            on_step(step, out[:, : step + 1])
        if step == max_new_tokens - 1 or bool(done.all()):
            return out[:, : step + 1]
        hidden = model.forward_hidden(out[:, step : step + 1], cache)[:, -1]
    return out
