"""Test doubles of the vision tokenizer, and made-up codes."""

from __future__ import annotations

import torch
from torch import Tensor

from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.testing import byte_tokenizer
from emu3.training.lm_loss import TrainingSequence
from recipes.nano.emoji_world import RATIOS, code_grid

TEXT = byte_tokenizer(2048)

AUGMENTED = {
    ratio: torch.arange(400 * 3 * h * w).view(400, 3, h, w).remainder(2048).short()
    for ratio in RATIOS
    for h, w in [code_grid(ratio)]
}
"""Codes of augmented images, different for every object."""


class LightnessTokenizer(VisionTokenizer):
    """The code of a patch is its lightness; near codes stand for similar lightness."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.quantize = torch.nn.Module()  # type: ignore[assignment]
        self.quantize.embedding = torch.nn.Embedding(2048, 1)
        self.quantize.embedding.weight.data[:, 0] = torch.arange(2048)

    def encode(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 8).mean(1).add(1).mul(1000).long()


def text_of(document: TrainingSequence) -> str:
    """The bytes of a document, without codes and control tokens."""
    return TEXT.decode([each for each in document.token_ids.tolist() if each < 256])


def is_code(document: TrainingSequence) -> Tensor:
    """Mask of the visual token ids."""
    visual = TEXT.vocabulary.visual
    return (document.token_ids >= visual.start) & (document.token_ids < visual.stop)
