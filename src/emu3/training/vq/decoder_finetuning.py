"""Fine-tuning of the vision tokenizer's decoder with a frozen encoder and codebook.

Visual codes do not change, so a language model trained on them stays valid while reconstructions
improve.
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
"""Draws the pixels of one step, [B, 3, H, W] in [-1, 1]."""


def finetune_vq_decoder(
    model: VisionTokenizer, config: TrainingConfig, images: ImageBatchFn, folder: Path
) -> VisionTokenizer:
    """Minimize the squared error of reconstructed images; visual codes do not change.

    Resumes from `folder`'s checkpoint if there is one. Returns the same model, in eval mode. Raises
    TrainingError and TrainingInterrupted as `trainer.train`.
    """
    decoder = nn.ModuleDict({"decoder": model.decoder, "post_quant_conv": model.post_quant_conv})
    model.eval()

    def forward_backward(rng: np.random.Generator, step: int) -> StepResult:
        pixels = images(rng)
        with torch.no_grad():
            latent = model.quantize.lookup(model.encode(pixels)[:, None])
        decoder.train()
        with autocast(pixels.device, config.bf16):
            reconstruction = model.decode_latent(latent).float()
        loss = F.mse_loss(reconstruction, pixels)
        loss.backward()
        decoder.eval()
        metrics = {"loss": loss.item(), "psnr": psnr(loss)}
        return StepResult(metrics, len(pixels), description=describe_pixels(pixels))

    optimizer = build_muon_and_adamw(decoder.named_parameters())
    train(TrainingTask(decoder, optimizer, forward_backward), config, folder)
    return model


def psnr(mse: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1]."""
    return (-10 * torch.log10(mse.detach() / 4)).item()  # the range of pixels is 2


def describe_pixels(pixels: Tensor) -> str:
    """A description of a batch [B, 3, H, W] for error messages."""
    count, _, height, width = pixels.shape
    return f"{count} images of {width}x{height}, mean {pixels.mean().item():.4f}"
