"""Training vision.decoder alone, once the codes stand still.

Encoder and codebook are frozen, so a decoder that was trained on the codes stays right while
pictures get closer to their originals: nothing has to serve two ends any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.train.loop import Log, cosine, load_state, save_state, seed_step
from emu3.train.optim import MuonAndAdamW
from emu3.train.precision import products
from emu3.vision.tokenizer import VisionTokenizer

Pictures = Callable[[np.random.Generator], Tensor]
"""Randomness to the pixels of one step, [B, 3, H, W] in [-1, 1]."""


@dataclass(frozen=True)
class PictureTraining:
    """Everything a run states."""

    steps: int
    learning_rate: float
    warmup: int
    clip: float
    bf16: bool
    report_every: int
    save_every: int
    seed: int


def train_picture(
    model: VisionTokenizer, run: PictureTraining, pictures: Pictures, folder: Path
) -> VisionTokenizer:
    """Bring pictures back from their codes with less squared error; codes do not change.

    Goes on from `folder/state.pt` if there is one. Returns the same model, in eval mode.
    """
    pieces = {"decoder": model.decoder, "post_quant_conv": model.post_quant_conv}
    side = nn.ModuleDict(pieces)
    optimizer = MuonAndAdamW(side.named_parameters())
    state = load_state(folder / "state.pt")
    if state is not None:
        side.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    log = Log(folder / "log.jsonl", run.report_every)
    model.eval()
    for step in range(state["step"] if state else 0, run.steps):
        pixels = pictures(seed_step(run.seed, step))
        with torch.no_grad():
            latent = model.quantize.lookup(model.encode(pixels)[:, None])
        side.train()
        with products(pixels.device, run.bf16):
            decoded = model.picture(latent).float()
        loss = F.mse_loss(decoded, pixels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(optimizer.parameters, run.clip).item()
        rate = cosine(step, run.steps, run.warmup, run.learning_rate)
        optimizer.step(rate)
        side.eval()
        psnr = -10 * torch.log10(loss.detach() / 4)  # pixels span 2
        log.add(step, len(pixels), psnr=psnr.item(), grad=norm, rate=rate)
        if (step + 1) % run.save_every == 0 or step + 1 == run.steps:
            parts = {"model": side.state_dict(), "optimizer": optimizer.state_dict()}
            save_state(folder / "state.pt", {"step": step + 1, **parts})
    return model
