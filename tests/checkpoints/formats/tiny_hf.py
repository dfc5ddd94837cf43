"""Tiny folders in the transformers format, and their contents."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from emu3.checkpoints.formats import hf
from emu3.config import DecoderConfig, PreprocessorConfig
from emu3.processing.tokenizer import TextTokenizer
from emu3.testing import byte_tokenizer, tiny_vision

PREPROCESSOR = PreprocessorConfig(min_pixels=64, max_pixels=1024, spatial_factor=4)
DECODERS: list[dict[str, Any]] = [
    {},
    {"rope_theta": 1e4, "num_hidden_layers": 1, "attention_dropout": 0.0},
    {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 1, "rms_norm_eps": 1e-2},
]
VISIONS: list[dict[str, Any]] = [
    {},
    {"ch_mult": (1, 1, 2, 2), "attn_resolutions": (2, 3), "embed_dim": 6, "z_channels": 6},
    {"temporal_downsample_factor": 2, "attn_resolutions": (), "num_res_blocks": 2},
]
NATURAL = (
    "A cat's nap,  12 345 hours\r\n\r\n long.  ",
    "IT'S they'LL o'ſ DON'T",
    "naïve e\u0301te\u0301 Ωmega Ω 数字 12345 ελληνικά 🐈‍⬛ \u200b\ufeff end",
    "def f(x):\n\treturn x**2   # why?\n\n\n",
    "the theatre thaws the thirsty three hundred",
    "",
)


def trained_tokenizer(codebook_size: int = 64) -> TextTokenizer:
    """A byte-pair vocabulary trained on a few sentences, with up to 200 merges."""
    words = "the theatre thaws, three hundred 300 thirsty cats – naïve Ωmega, isn't it?\n  it's\t"
    pieces = [[bytes([b]) for b in word.encode()] for word in (words * 2).split(" ")]
    ranks = {bytes([byte]): byte for byte in range(256)}
    while len(ranks) < 456:
        pairs: dict[tuple[bytes, bytes], int] = {}
        for piece in pieces:
            for pair in pairwise(piece):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks.setdefault(left + right, len(ranks))
        for piece in pieces:
            for at in reversed(range(len(piece) - 1)):
                if piece[at : at + 2] == [left, right]:
                    piece[at : at + 2] = [left + right]
    return TextTokenizer(ranks, byte_tokenizer(codebook_size).specials)


def decoder_over(text: TextTokenizer) -> DecoderConfig:
    return DecoderConfig(**text.vocabulary.config_keys())


def write(folder: Path, text: TextTokenizer | None = None, **changes: Any) -> Path:
    """Write a folder without weights; `changes` replace the tiny configs."""
    text = text or byte_tokenizer()
    configs: dict[str, Any] = {
        "decoder": decoder_over(text),
        "vision": tiny_vision().config,
        "preprocessor": PREPROCESSOR,
    }
    hf.write_files(folder, text=text, dtype="float32", **{**configs, **changes})
    return folder


def edit(path: Path, section: str | None = None, **changes: Any) -> None:
    """Change keys of a JSON file or of an object in it; None removes a key."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    part = whole if section is None else whole[section]
    part.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del part[key]
    path.write_text(json.dumps(whole), encoding="utf-8")
