"""The one vocabulary: text, then control tokens, then visual codes.

    0 .. text_size-1        byte-pair ranks of the text tokenizer
    .. + 3 + 205            <|endoftext|>, <|im_start|>, <|im_end|>, <|extra_0|> .. <|extra_204|>
    .. + 3                  <|image token|>, <|image start|>, <|image end|>
    .. + codebook_size      visual codes, in order

A code becomes an id by one addition. How many there are of each is read from the checkpoint's
vocabulary files; only the order above is fixed (`tokenization_emu3.py`, paper section 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from emu3.config import DecoderConfig
from emu3.errors import InputError

BASE_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|extra_{i}|>" for i in range(205)),
)
"""Control tokens that every Emu3 text tokenizer has, before those named in its own file."""

PAD, EOL, EOF = "<|endoftext|>", "<|extra_200|>", "<|extra_201|>"
BOS, EOS = "<|extra_203|>", "<|extra_204|>"
SOT, SOV, EOV = "<|image token|>", "<|image start|>", "<|image end|>"


def visual_token(code: int) -> str:
    """The name of a code in the special-token file, as published: six digits."""
    return f"<|visual token {code:0>6d}|>"


class VocabularyKeys(TypedDict):
    """What a decoder's config says of its vocabulary, by the published names."""

    vocab_size: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int
    img_token_id: int
    boi_token_id: int
    eoi_token_id: int
    eol_token_id: int
    eof_token_id: int


@dataclass(frozen=True)
class Vocabulary:
    """Where everything is, under the paper's names; BAAI's code calls three otherwise.

    `pad` fills batches, `eol` ends a row of codes, `eof` a frame, `bos` and `eos` a document, `sov`
    opens a picture (boi in BAAI's code), `sot` ends its size (img), `eov` closes it (eoi).
    """

    text_size: int
    pad: int
    eol: int
    eof: int
    bos: int
    eos: int
    sot: int
    sov: int
    eov: int
    visual_start: int
    codebook_size: int

    @property
    def size(self) -> int:
        """Ids in all: rows of the embedding and of the head."""
        return self.visual_start + self.codebook_size

    @property
    def visual(self) -> slice:
        """The ids of visual codes, as rows of the head."""
        return slice(self.visual_start, self.size)

    @classmethod
    def build(cls, text_size: int, specials: Sequence[str]) -> Vocabulary:
        """From the number of byte-pair ranks and the special-token file, in its order.

        Raises InputError when the file lacks a control token or its codes are not in order.
        """
        names = (*BASE_SPECIALS, *specials)
        ids = {name: text_size + index for index, name in enumerate(names)}
        missing = [name for name in (SOT, SOV, EOV, visual_token(0)) if name not in ids]
        if missing:
            raise InputError(f"special-token file: {', '.join(missing)} missing")
        start = ids[visual_token(0)]
        codes = names[start - text_size :]
        if any(name != visual_token(code) for code, name in enumerate(codes)):
            raise InputError("special-token file: visual tokens must come last and in order")
        return cls(
            text_size=text_size,
            pad=ids[PAD],
            eol=ids[EOL],
            eof=ids[EOF],
            bos=ids[BOS],
            eos=ids[EOS],
            sot=ids[SOT],
            sov=ids[SOV],
            eov=ids[EOV],
            visual_start=start,
            codebook_size=len(codes),
        )

    def config_keys(self) -> VocabularyKeys:
        """For the config of a decoder over this vocabulary."""
        return {
            "vocab_size": self.size,
            "pad_token_id": self.pad,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos,
            "img_token_id": self.sot,
            "boi_token_id": self.sov,
            "eoi_token_id": self.eov,
            "eol_token_id": self.eol,
            "eof_token_id": self.eof,
        }

    def check(self, config: DecoderConfig) -> None:
        """Raise InputError where a decoder's config and the vocabulary files disagree."""
        for key, found in self.config_keys().items():
            if (said := getattr(config, key)) != found:
                raise InputError(
                    f"config.json says {key} = {said}, the vocabulary files say {found}"
                )
