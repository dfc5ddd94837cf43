"""A sample as the ids that the decoder learns from, and what each of them is.

    text    BOS text EOS                    all of it TEXT
    draw    BOS caption picture EOS         codes VISION, all else TEXT
    look    chat template of a picture      codes VISION, answers and EOS ANSWER, all else CONTEXT

The documents are those of `emu3.prompt` (paper section 2.3).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from emu3.checkpoint import Place, open_codec, open_text
from emu3.codec import Codec
from emu3.data.roles import ANSWER, CONTEXT, TEXT, VISION
from emu3.data.sample import Sample
from emu3.errors import InputError
from emu3.hub import find_model, find_vision
from emu3.prompt import Prompts
from emu3.text import TextTokenizer


@dataclass(frozen=True)
class Encoded:
    """A document: ids [L] int64 and roles [L] uint8."""

    ids: Tensor
    roles: Tensor


@dataclass(frozen=True)
class Writer:
    """Writes samples as documents for one model, of which only the tokenizers are needed."""

    prompts: Prompts
    codec: Codec

    @classmethod
    def open(cls, model: str | Path, vision: str | Path | None, device: str | None) -> Writer:
        """The tokenizers of a model, without its decoder; raises InputError on a bad one."""
        folder = find_model(model, weights=False)
        text, _ = open_text(folder)
        codec = open_codec(find_vision(folder, vision, model), Place.choose(device, None).device)
        if codec.vision.quantize.size != text.vocabulary.codebook_size:
            raise InputError(
                f"{folder} has ids for {text.vocabulary.codebook_size} codes, its vision "
                f"tokenizer has {codec.vision.quantize.size}; these two do not belong together"
            )
        return cls(Prompts.of(text), codec)

    def write(self, sample: Sample) -> Encoded:
        """The document of a sample; raises InputError where its picture cannot be used."""
        if sample.image is None:
            assert sample.text is not None  # as every sample without a picture has
            return self._text(sample.text)
        codes = self.codec.encode(sample.image.open())
        if sample.text is not None:
            ids = self.prompts.image_document(sample.text, codes)
            return Encoded(ids, self._roles(ids, TEXT))
        ids, answered = self.prompts.chat_document(codes, sample.turns)
        return Encoded(ids, self._roles(ids, CONTEXT).masked_fill_(answered, ANSWER))

    def _text(self, text: str) -> Encoded:
        tokenizer = self.prompts.tokenizer
        v = tokenizer.vocabulary
        ids = torch.tensor([v.bos, *tokenizer.encode(text), v.eos])
        return Encoded(ids, torch.full(ids.shape, TEXT, dtype=torch.uint8))

    def _roles(self, ids: Tensor, other: int) -> Tensor:
        visual = self.prompts.tokenizer.vocabulary.visual
        is_visual = (ids >= visual.start) & (ids < visual.stop)
        return torch.where(is_visual, VISION, other).to(torch.uint8)

    def facts(self) -> dict[str, object]:
        """What the ids depend on: both tokenizers and how pictures are resized, as JSON."""
        table = self.codec.vision.quantize.embedding.weight.detach().float().cpu().contiguous()
        bounds = self.codec.preprocessor
        return {
            **text_facts(self.prompts.tokenizer),
            "codebook": hashlib.sha256(table.numpy().tobytes()).hexdigest(),
            "pixels": [bounds.min_pixels, bounds.max_pixels],
        }


def text_facts(text: TextTokenizer) -> dict[str, object]:
    """What makes ids mean the same: the size of the vocabulary, of its codes, and a hash of it.

    The hash is of ranks and control tokens, so it does not depend on a checkpoint's layout.
    """
    digest = hashlib.sha256()
    for token, rank in sorted(text.ranks.items(), key=lambda item: item[1]):
        digest.update(b"%d %s\n" % (rank, token.hex().encode()))
    digest.update("\n".join(text.specials).encode())
    return {
        "vocabulary_size": text.vocabulary.size,
        "codebook_size": text.vocabulary.codebook_size,
        "text_tokenizer": digest.hexdigest(),
    }
