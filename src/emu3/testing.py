"""Tiny models with random weights for tests; each is built in milliseconds."""

from __future__ import annotations

from typing import Any

import torch

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.loading import Checkpoint
from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig
from emu3.models.transformer import Transformer, init_weights
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.vision_processor import VisionProcessor
from emu3.processing.vocabulary import EOV, SOT, SOV, visual_token


def byte_tokenizer(codebook_size: int = 64) -> TextTokenizer:
    """A text tokenizer whose tokens are single bytes, with `codebook_size` visual tokens."""
    specials = (SOT, SOV, EOV, *(visual_token(code) for code in range(codebook_size)))
    return TextTokenizer({bytes([byte]): byte for byte in range(256)}, specials)


def tiny_decoder(seed: int = 0, **changes: Any) -> Transformer:
    """A decoder for the vocabulary of `byte_tokenizer()`, in eval mode.

    `changes` override keys of its `DecoderConfig`.
    """
    v = byte_tokenizer().vocabulary
    settings: dict[str, Any] = {
        **v.config_keys(),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "image_area": 16 * 16,
    }
    torch.manual_seed(seed)
    model = Transformer(DecoderConfig(**{**settings, **changes}))
    init_weights(model)
    return model.eval()


def tiny_vision(seed: int = 0, **changes: Any) -> VisionTokenizer:
    """A vision tokenizer with 64 codes of 4x4 pixels, in eval mode.

    `changes` override keys of its `VisionConfig`; the codebook may have up to 2048 codes.
    """
    settings: dict[str, Any] = {
        "codebook_size": 64,
        "ch": 32,
        "ch_mult": (1, 1, 1),
        "num_res_blocks": 1,
        "attn_resolutions": (2,),
    }
    torch.manual_seed(seed)
    model = VisionTokenizer(VisionConfig(**{**settings, **changes}))
    model.eval()
    side = 16 * model.config.spatial_factor
    with torch.no_grad():
        # Codebook entries are latents of random images; otherwise all codes would be equal.
        pixels = torch.rand(8, 3, 1, 1) + torch.rand(8, 3, side, side) - 1
        latents = model.encode_latent(pixels).movedim(1, -1).flatten(0, -2)
        model.quantize.embedding.weight.copy_(
            latents[torch.randperm(len(latents))[: model.quantize.size]]
        )
    return model


def tiny_checkpoint(seed: int = 0) -> Checkpoint:
    """A complete checkpoint: 4x4 codes per image, byte tokens, random weights."""
    return Checkpoint(
        name="tiny",
        defaults=GenerationDefaults(suffix="", negative_prompt=""),
        decoder=tiny_decoder(seed),
        text_tokenizer=byte_tokenizer(),
        vision_processor=VisionProcessor(
            tiny_vision(seed),
            PreprocessorConfig(min_pixels=64, max_pixels=1024, spatial_factor=4),
        ),
    )
