"""Teaching a vision tokenizer of pictures to move: its layers in time, and the way back to pixels.

What sees a single frame, and the codebook, stay what they are, and the latents of pictures are held
in place. So a decoder that was trained on the codes of pictures finds nearly all of them unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.train.loop import Job, Learned, Run, train
from emu3.train.optim import MuonAndAdamW
from emu3.train.picture import psnr, words
from emu3.train.precision import products
from emu3.vision.blocks import fold_time, unfold_time
from emu3.vision.tokenizer import VisionTokenizer

Footage = Callable[[np.random.Generator], tuple[Tensor, Tensor]]
"""Randomness to the pixels of a step, in [-1, 1]: groups [B, 4, 3, H, W], pictures [B, 3, H, W]."""


@dataclass(frozen=True, kw_only=True)
class MotionTraining(Run):
    """Everything a run states."""

    commitment: float  # weight of the distance from a group's latent to its code
    hold_still: float  # weight of the distance from a picture's latent to what it was
    decoded: int  # frames of a group that are brought back to pixels, by chance, in each step


def train_motion(
    model: VisionTokenizer, run: MotionTraining, footage: Footage, folder: Path
) -> VisionTokenizer:
    """Bring groups of frames back from their codes with less squared error, and pictures too.

    Goes on from `folder`'s checkpoint if there is one. Returns the same model, in eval mode.
    Raises TrainingError and Stopped as `loop.train` does.
    """
    lesson = _Lesson(model.eval(), run)
    job = Job(
        lesson.learning,
        MuonAndAdamW(lesson.learning.named_parameters()),
        lambda rng, step: lesson.gradients(*footage(rng), rng),
    )
    train(job, run, folder)
    return model


class _Lesson:
    """The parts that learn, and what they learn from a batch."""

    def __init__(self, model: VisionTokenizer, run: MotionTraining) -> None:
        self.model, self.run = model, run
        encoder = model.encoder
        self.learning = nn.ModuleDict(
            {
                "time_conv": encoder.time_conv,
                "time_res_stack": encoder.time_res_stack,
                "quant_conv": model.quant_conv,
                "post_quant_conv": model.post_quant_conv,
                "decoder": model.decoder,
            }
        )
        # Latents of pictures as they are before anything is learned.
        self.before = VisionTokenizer(model.config).eval().requires_grad_(False)
        self.before.load_state_dict(model.state_dict())

    def gradients(self, groups: Tensor, pictures: Tensor, rng: np.random.Generator) -> Learned:
        """Learn from groups [B, 4, 3, H, W] and pictures [B, 3, H, W]."""
        moving, commit = self._groups(groups, rng)
        still, moved = self._pictures(pictures)
        run = self.run
        share = len(groups) / (len(groups) + len(pictures))
        loss = share * moving + (1 - share) * still
        loss = loss + run.commitment * commit + run.hold_still * moved
        loss.backward()
        values = {"loss": loss.item(), "psnr": psnr(moving), "psnr_still": psnr(still)}
        values |= {"commit": commit.item(), "moved": moved.item()}
        count = len(groups) + len(pictures)
        return Learned(values, count, batch=words(fold_time(groups.transpose(1, 2))))

    def _groups(self, pixels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Squared error of some frames, and of the rounding to codes."""
        model, frames = self.model, pixels.shape[1]
        with torch.no_grad():
            seen = model.encoder.spatial(pixels.flatten(0, 1))
        with products(pixels.device, self.run.bf16):
            latent = model.quant_conv(model.encoder.temporal(unfold_time(seen, len(pixels))))
            latent = latent.float()
            quantised = model.quantize.lookup(model.quantize(latent))
            # Straight through: the gradient passes the rounding as if it were not there.
            through = latent + (quantised - latent).detach()
            chosen = sorted(rng.choice(frames, self.run.decoded, replace=False).tolist())
            decoded = model.decoder.frames(model.post_quant_conv(through), through, chosen)
        error = F.mse_loss(decoded.float().transpose(1, 2), pixels[:, chosen])
        return error, F.mse_loss(latent, quantised)

    def _pictures(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of pictures from the codes they have always had; how far these moved."""
        model = self.model
        with torch.no_grad():
            seen = model.encoder.spatial(pixels)
            repeats = model.config.temporal_downsample_factor
            still = seen[:, :, None].expand(-1, -1, repeats, -1, -1)
            latent = self.before.quant_conv(self.before.encoder.temporal(still))
            quantised = model.quantize.lookup(model.quantize(latent))
        with products(pixels.device, self.run.bf16):
            now = model.quant_conv(model.encoder.temporal(still)).float()
            decoded = model.picture(quantised).float()
        return F.mse_loss(decoded, pixels), F.mse_loss(now, latent)
