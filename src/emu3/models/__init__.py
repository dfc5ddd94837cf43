"""The two networks of Emu3: the decoder-only transformer and, in `models.vq`, the vision tokenizer.

Modules hold arithmetic, parameter names of the published checkpoints, and what follows from a
model's config (precisions, memory needs); they do not tokenize text, load files or sample. Read
`transformer` first, then `attention` and `kv_cache`.
"""

from emu3.models.kv_cache import KVCache
from emu3.models.precision import BF16, FP32, INT4, INT8, Precision, parse_precision
from emu3.models.transformer import Transformer, init_weights
from emu3.models.vq import VisionTokenizer

__all__ = [
    "BF16",
    "FP32",
    "INT4",
    "INT8",
    "KVCache",
    "Precision",
    "Transformer",
    "VisionTokenizer",
    "init_weights",
    "parse_precision",
]
