"""Training the decoder: next-token prediction on documents, and nothing else.

The loss of a batch is the weighted mean of its tokens' cross-entropies. The paper weighs vision
tokens 0.5 and text 1 (section 2.4); a weight of zero is a token that is only context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from emu3.config import DecoderConfig
from emu3.decoder.transformer import Transformer, initialise
from emu3.train.loop import Log, cosine, load_state, save_state, seed_step
from emu3.train.optim import MuonAndAdamW
from emu3.train.precision import products

NOT_HIDDEN = ("embed_tokens", "lm_head")  # tables of the vocabulary: AdamW moves them


@dataclass(frozen=True)
class Document:
    """Ids [L] int64, and how much predicting each of them counts [L] float32."""

    ids: Tensor
    weights: Tensor


Documents = Callable[[np.random.Generator], Sequence[Document]]
"""Randomness to the documents of one step."""


@dataclass(frozen=True)
class DecoderTraining:
    """Everything a run states."""

    steps: int
    micro_batch: int  # documents in one pass; gradients add up over a step's passes
    learning_rate: float
    warmup: int
    decay: float
    clip: float
    bf16: bool  # products in bfloat16; weights and optimizer stay float32
    report_every: int
    save_every: int
    seed: int


def weigh(ids: Tensor, visual: slice, text_weight: float, vision_weight: float) -> Tensor:
    """Weights [L] of a document by modality: visual codes one, everything else the other."""
    is_visual = (ids >= visual.start) & (ids < visual.stop)
    return torch.where(is_visual, vision_weight, text_weight)


def losses(model: Transformer, documents: Sequence[Document], visual: slice) -> dict[str, Tensor]:
    """`loss`, to be minimised, and the plain mean cross-entropies of `text` and `vision` tokens."""
    ids = pad_sequence([d.ids for d in documents], batch_first=True).to(model.device)
    weights = pad_sequence([d.weights for d in documents], batch_first=True).to(model.device)
    counts = weights[:, 1:] > 0
    logits = model.logits(model.hidden(ids[:, :-1])[counts])  # of nothing that is only context
    targets, weights = ids[:, 1:][counts], weights[:, 1:][counts]
    entropy = F.cross_entropy(logits, targets, reduction="none")
    is_visual = (targets >= visual.start) & (targets < visual.stop)
    is_text = ~is_visual
    return {
        "loss": (entropy * weights).sum() / weights.sum(),
        "text": (entropy.detach() * is_text).sum() / is_text.sum().clamp_min(1),
        "vision": (entropy.detach() * is_visual).sum() / is_visual.sum().clamp_min(1),
    }


def accumulate(
    model: Transformer,
    documents: Sequence[Document],
    visual: slice,
    micro_batch: int,
    bf16: bool = False,
) -> dict[str, float]:
    """Add the gradients of one big batch, some documents at a time; returns what `losses` would.

    Documents of like length go together, so that little is padded. The loss is exactly that of the
    whole batch; `text` and `vision` are weighted like it, and so only nearly its means.
    """
    ordered = sorted(documents, key=lambda d: len(d.ids))
    total = sum(float(d.weights[1:].sum()) for d in ordered)
    means: dict[str, float] = {}
    for start in range(0, len(ordered), micro_batch):
        part = ordered[start : start + micro_batch]
        share = sum(float(d.weights[1:].sum()) for d in part) / total
        if share == 0:
            continue  # context only: nothing to learn from
        with products(model.device, bf16):
            values = losses(model, part, visual)
        (values["loss"] * share).backward()
        for name, value in values.items():
            means[name] = means.get(name, 0.0) + value.item() * share
    return means


def train_decoder(
    config: DecoderConfig,
    run: DecoderTraining,
    documents: Documents,
    visual: slice,
    folder: Path,
    on_save: Callable[[Transformer, int], None] = lambda model, step: None,
    on_start: Callable[[Transformer], None] = lambda model: None,
) -> Transformer:
    """Train from scratch, or go on from `folder/state.pt`; returns the trained model in eval mode.

    `visual` are the ids of codes. `on_save(model, step)` is called with the model in eval mode
    after every checkpoint, `on_start(model)` once, with fresh weights that it may change.
    """
    torch.manual_seed(run.seed)
    model = Transformer(config)
    initialise(model)
    on_start(model)
    optimizer = MuonAndAdamW(
        model.named_parameters(), decay=run.decay, adamw_only=NOT_HIDDEN, bf16=run.bf16
    )
    start = _resume(folder, model, optimizer)
    log = Log(folder / "log.jsonl", run.report_every)
    for step in range(start, run.steps):
        model.train()
        batch = documents(seed_step(run.seed, step))
        means = accumulate(model, batch, visual, run.micro_batch, run.bf16)
        norm = nn.utils.clip_grad_norm_(optimizer.parameters, run.clip)
        rate = cosine(step, run.steps, run.warmup, run.learning_rate)
        optimizer.step(rate)
        log.add(step, len(batch), **means, grad=norm.item(), rate=rate)
        if (step + 1) % run.save_every == 0 or step + 1 == run.steps:
            _save(folder, step + 1, model, optimizer)
            on_save(model.eval(), step + 1)
    return model.eval()


def _save(folder: Path, step: int, model: Transformer, optimizer: MuonAndAdamW) -> None:
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save_state(folder / "state.pt", state)


def _resume(folder: Path, model: Transformer, optimizer: MuonAndAdamW) -> int:
    state = load_state(folder / "state.pt")
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step: int = state["step"]
    return step
