"""Decoders to measure: nano, and larger ones with random weights.

The time of a forward pass does not depend on the weights. The number of passes of speculative
decoding does: with random weights the sampling noise decides most codes, and drafts are accepted
more often than with trained ones.
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

MAX_WEIGHT = 0.035  # uniform; its standard deviation is that of the published initialisation, 0.02


@dataclass(frozen=True)
class ModelSize:
    """A decoder to measure, and the height and width in codes of its image."""

    name: str
    config: DecoderConfig | None  # None for nano, whose weights are loaded
    grid: tuple[int, int]
    description: str


MODELS: dict[str, ModelSize] = {
    size.name: size
    for size in (
        ModelSize("nano", None, (8, 8), "trained"),
        ModelSize(
            "0.3b",
            DecoderConfig(
                hidden_size=1024,
                intermediate_size=3584,
                num_hidden_layers=16,
                num_attention_heads=16,
                num_key_value_heads=4,
            ),
            (24, 24),
            "random weights, 16 layers of 1024, published vocabulary",
        ),
        ModelSize("8b", DecoderConfig(), (90, 90), "random weights, published size"),
    )
}


def find_model_size(name: str) -> ModelSize:
    """The size with this name; raises InputError if there is none."""
    if name not in MODELS:
        raise InputError(f"no such size: {name!r}; expected one of {', '.join(MODELS)}")
    return MODELS[name]


@dataclass(frozen=True)
class BenchmarkModel:
    """A decoder, and the prompts of one guided image: conditional, then unconditional."""

    decoder: Transformer
    document_format: DocumentFormat
    prompts: list[list[int]]
    grid: tuple[int, int]


def load_model(size: ModelSize, precision: Precision, device: torch.device) -> BenchmarkModel:
    """Load nano, or make a decoder with random weights, in a precision."""
    if size.config is None:
        folder = find_model("nano")
        decoder = load_decoder(folder, precision, device, detect_format(folder))
        prompts = PromptTemplates.from_tokenizer(TextTokenizer.from_folder(folder))
        rows = [prompts.image(text, size.grid) for text in ("a red apple, noto style", "")]
        return BenchmarkModel(decoder, prompts.document_format, rows, size.grid)
    vocabulary = published_vocabulary()
    config = replace(size.config, vocab_size=vocabulary.size)
    document_format = DocumentFormat(vocabulary, _encode, _decode)
    # As long as a prompt with the quality suffix and the published negative prompt.
    rows = [
        [vocabulary.bos, *range(100, 100 + words), *document_format.header(*size.grid)]
        for words in (24, 60)
    ]
    return BenchmarkModel(
        random_decoder(config, precision, device), document_format, rows, size.grid
    )


def published_vocabulary() -> Vocabulary:
    """A vocabulary of the published layout: 151,643 ranks and 32,768 codes."""
    codes = (visual_token(code) for code in range(32_768))
    return Vocabulary.build(151_643, (SOT, SOV, EOV, *codes))


@torch.no_grad()
def random_decoder(
    config: DecoderConfig, precision: Precision, device: torch.device
) -> Transformer:
    """A decoder with random weights, created directly in its precision to save memory."""
    with torch.device("meta"):
        model = Transformer(config)
    install_quantized_modules(model, precision)
    generator = torch.Generator(device).manual_seed(0)
    filled: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        dtype = precision.dtype if tensor.dtype == torch.float32 else tensor.dtype
        new = torch.empty(tensor.shape, dtype=dtype, device=device)
        if name.endswith(".scale"):
            new.fill_(MAX_WEIGHT / (127 if tensor.ndim == 1 else 8))
        elif name.endswith(".zero"):
            new.zero_()
        elif dtype.is_floating_point:
            norm = tensor.ndim == 1
            new.fill_(1.0) if norm else new.uniform_(-MAX_WEIGHT, MAX_WEIGHT, generator=generator)
        else:
            new.random_(-127 if dtype == torch.int8 else 0, 128, generator=generator)
        filled[name] = new
    model.load_state_dict(filled, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _encode(text: str) -> list[int]:
    return list(text.encode())


def _decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode()
