"""Training the decoder: next-token prediction on documents, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from emu3.config import DecoderConfig
from emu3.decoder.transformer import Transformer, initialise
from emu3.train.documents import Document, accumulate
from emu3.train.loop import Log, cosine, load_state, save_state, seed_step
from emu3.train.optim import MuonAndAdamW

NOT_HIDDEN = ("embed_tokens", "lm_head")  # tables of the vocabulary: AdamW moves them


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
