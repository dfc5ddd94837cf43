"""The vision tokenizer: a convolutional VQ autoencoder between pixels and codes (paper 2.2).

Read `tokenizer` first; `encoder`, `quantizer` and `decoder` are its parts, built from `blocks`.
"""

from emu3.models.vq.tokenizer import VisionTokenizer

__all__ = ["VisionTokenizer"]
