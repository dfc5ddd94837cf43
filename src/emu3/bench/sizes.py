"""Decoders to measure: nano as it is, and larger ones whose weights are noise.

A pass takes as long whatever the numbers are. How many passes windows save does depend on them:
over noise the seed decides most draws, and guesses come true more often than they should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from emu3.checkpoints.formats.registry import detect_format
from emu3.checkpoints.hub import find_model
from emu3.checkpoints.weights import load_decoder
from emu3.config import DecoderConfig
from emu3.errors import InputError
from emu3.models.precision import Precision
from emu3.models.quantization import install_quantized_modules
from emu3.models.transformer import Transformer
from emu3.processing.document_format import DocumentFormat
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.vocabulary import EOV, SOT, SOV, Vocabulary, visual_token

WIDEST = 0.035  # of random weights: as spread out as the published initialisation, 0.02


@dataclass(frozen=True)
class Size:
    """What is measured: a decoder, and the height and width in codes of a picture."""

    name: str
    config: DecoderConfig | None  # None: nano
    grid: tuple[int, int]
    about: str


SIZES: dict[str, Size] = {
    size.name: size
    for size in (
        Size("nano", None, (8, 8), "nano, trained"),
        Size(
            "0.3b",
            DecoderConfig(
                hidden_size=1024,
                intermediate_size=3584,
                num_hidden_layers=16,
                num_attention_heads=16,
                num_key_value_heads=4,
            ),
            (24, 24),
            "random weights, 16 layers of 1024, the published vocabulary",
        ),
        Size("8b", DecoderConfig(), (90, 90), "random weights, the published size"),
    )
}


def size_named(name: str) -> Size:
    """Raises InputError on a size that there is not."""
    if name not in SIZES:
        raise InputError(f"no such size: {name!r}; one of {', '.join(SIZES)}")
    return SIZES[name]


@dataclass(frozen=True)
class Subject:
    """A decoder, and the prompts of one guided picture: conditional, then unconditional."""

    decoder: Transformer
    document_format: DocumentFormat
    prompts: list[list[int]]
    grid: tuple[int, int]


def subject(size: Size, to: Precision, device: torch.device) -> Subject:
    """Open or make up what a size names, held in a precision."""
    if size.config is None:
        folder = find_model("nano")
        decoder = load_decoder(folder, to, device, detect_format(folder))
        prompts = PromptTemplates.from_tokenizer(TextTokenizer.from_folder(folder))
        rows = [prompts.image(text, size.grid) for text in ("a red apple, noto style", "")]
        return Subject(decoder, prompts.document_format, rows, size.grid)
    vocabulary = published_vocabulary()
    config = replace(size.config, vocab_size=vocabulary.size)
    document_format = DocumentFormat(vocabulary, _encode, _decode)
    # As long as a prompt with the quality suffix, and as the published negative prompt.
    rows = [
        [vocabulary.bos, *range(100, 100 + words), *document_format.header(*size.grid)]
        for words in (24, 60)
    ]
    return Subject(random_decoder(config, to, device), document_format, rows, size.grid)


def published_vocabulary() -> Vocabulary:
    """The layout of the published vocabulary: 151,643 ranks and 32,768 codes."""
    codes = (visual_token(code) for code in range(32_768))
    return Vocabulary.build(151_643, (SOT, SOV, EOV, *codes))


@torch.no_grad()
def random_decoder(config: DecoderConfig, to: Precision, device: torch.device) -> Transformer:
    """Noise in the place of weights, made in the precision itself: nothing wider is ever held."""
    with torch.device("meta"):
        model = Transformer(config)
    install_quantized_modules(model, to)
    generator = torch.Generator(device).manual_seed(0)
    filled: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        dtype = to.dtype if tensor.dtype == torch.float32 else tensor.dtype
        new = torch.empty(tensor.shape, dtype=dtype, device=device)
        if name.endswith(".scale"):
            new.fill_(WIDEST / (127 if tensor.ndim == 1 else 8))
        elif name.endswith(".zero"):
            new.zero_()
        elif dtype.is_floating_point:
            norm = tensor.ndim == 1
            new.fill_(1.0) if norm else new.uniform_(-WIDEST, WIDEST, generator=generator)
        else:
            new.random_(-127 if dtype == torch.int8 else 0, 128, generator=generator)
        filled[name] = new
    model.load_state_dict(filled, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _encode(text: str) -> list[int]:
    return list(text.encode())


def _decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode()
