"""nano's configuration: its two networks, and the generation defaults of its checkpoint."""

from __future__ import annotations

from typing import Any

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.loading import Checkpoint
from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.vision_processor import VisionProcessor

VISION_CONFIG = VisionConfig(codebook_size=2048, ch=32, ch_mult=(1, 1, 2, 4), num_res_blocks=1)

# Photographs are resized to the sizes of the training set: 8x8, 7x9, 9x7, 6x11 or 11x6 codes.
PREPROCESSOR = PreprocessorConfig(min_pixels=60 * 60, max_pixels=66 * 66)

GENERATION_DEFAULTS = GenerationDefaults(
    tasks=("image", "chat", "video"),
    suffix="",
    negative_prompt="",  # the empty caption of its training
    guidance_scale=1.5,  # this and the temperature were chosen on seen pairs: docs/nano.md
    temperature=0.2,
    license="Apache-2.0",
    description=(
        "nano generates and names 400 objects in three icon styles, and moves them. Trained from "
        "scratch by recipes/nano on images and videos composed of Noto Emoji (Apache-2.0), Fluent "
        "Emoji (MIT), Twemoji, EmojiOne and Streamline Emojis (CC BY 4.0), and for recognition "
        "only on images of OpenMoji and the first EmojiOne (CC BY-SA 4.0); see NOTICE and "
        "docs/nano.md."
    ),
)


def config_for(text: TextTokenizer, **changes: Any) -> DecoderConfig:
    """The published architecture at a small size, over this vocabulary."""
    settings: dict[str, Any] = {
        "hidden_size": 384,
        "intermediate_size": 1152,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 1024,
        "rope_theta": 10_000.0,
        "attention_dropout": 0.0,  # every image is seen about once; the paper's 0.1 is slower here
        "image_area": 64 * 64,
    }
    return DecoderConfig(**text.vocabulary.config_keys(), **(settings | changes))


def assemble(vision: VisionTokenizer, decoder: Transformer, text: TextTokenizer) -> Checkpoint:
    """The checkpoint of these three parts, which it shares."""
    return Checkpoint(
        name="nano",
        defaults=GENERATION_DEFAULTS,
        decoder=decoder,
        text_tokenizer=text,
        vision_processor=VisionProcessor(vision, PREPROCESSOR),
    )
