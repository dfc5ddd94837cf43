"""Training vision.decoder alone, once the codes stand still.

Encoder and codebook are frozen, so a decoder that was trained on the codes stays right while
pictures get closer to their originals: nothing has to serve two ends any more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.training.mixed_precision import autocast
from emu3.training.optimizers import build_muon_and_adamw
from emu3.training.trainer import StepResult, TrainingConfig, TrainingTask, train

ImageBatchFn = Callable[[np.random.Generator], Tensor]
"""Randomness to the pixels of one step, [B, 3, H, W] in [-1, 1]."""


VQDecoderTrainingConfig = TrainingConfig
"""Everything a run states."""


def finetune_vq_decoder(
    model: VisionTokenizer, run: VQDecoderTrainingConfig, pictures: ImageBatchFn, folder: Path
) -> VisionTokenizer:
    """Bring pictures back from their codes with less squared error; codes do not change.

    Goes on from `folder`'s checkpoint if there is one. Returns the same model, in eval mode.
    Raises TrainingError and Stopped as `loop.train` does.
    """
    pieces = {"decoder": model.decoder, "post_quant_conv": model.post_quant_conv}
    side = nn.ModuleDict(pieces)
    model.eval()

    def gradients(rng: np.random.Generator, step: int) -> StepResult:
        pixels = pictures(rng)
        with torch.no_grad():
            latent = model.quantize.lookup(model.encode(pixels)[:, None])
        side.train()
        with autocast(pixels.device, run.bf16):
            decoded = model.decode_latent(latent).float()
        loss = F.mse_loss(decoded, pixels)
        loss.backward()
        side.eval()
        return StepResult(
            {"loss": loss.item(), "psnr": psnr(loss)},
            len(pixels),
            description=describe_pixels(pixels),
        )

    train(TrainingTask(side, build_muon_and_adamw(side.named_parameters()), gradients), run, folder)
    return model


def psnr(mse: Tensor) -> float:
    """Of pixels in [-1, 1], in dB."""
    return (-10 * torch.log10(mse.detach() / 4)).item()  # pixels span 2


def describe_pixels(pixels: Tensor) -> str:
    """A batch of pixels [B, 3, H, W] in a few words, for who has to find it again."""
    count, _, height, width = pixels.shape
    return f"{count} pictures of {width}x{height}, mean {pixels.mean().item():.4f}"
