"""The vocabulary: text tokens, then control tokens, then visual tokens.

    0 .. text_size-1        byte-pair ranks of the text tokenizer
    .. + 3 + 205            <|endoftext|>, <|im_start|>, <|im_end|>, <|extra_0|> .. <|extra_204|>
    .. + 3                  <|image token|>, <|image start|>, <|image end|>
    .. + codebook_size      visual codes, in order

A visual code becomes a token id by adding `visual_start`. The number of each kind is read from the
checkpoint's vocabulary files; only the order above is fixed (`tokenization_emu3.py`, paper section
2.1).
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
"""Control tokens of every Emu3 text tokenizer; those of its special-token file follow."""

PAD, EOL, EOF = "<|endoftext|>", "<|extra_200|>", "<|extra_201|>"
BOS, EOS = "<|extra_203|>", "<|extra_204|>"
SOT, SOV, EOV = "<|image token|>", "<|image start|>", "<|image end|>"


def visual_token(code: int) -> str:
    """The name of a visual code in the special-token file, with six digits as published."""
    return f"<|visual token {code:0>6d}|>"


class VocabularyKeys(TypedDict):
    """The vocabulary keys of a decoder's `config.json`."""

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
    """Token ids of control tokens and ranges of token ids, under the paper's names.

    `pad` fills batches; `bos` and `eos` begin and end a document; `sov` begins an image or video
    (`boi` in BAAI's code), `sot` ends its header (`img`), and `eov` ends it (`eoi`); `eol` ends a
    row of codes and `eof` a frame.
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
        """Number of token ids: rows of the embedding and of the language-model head."""
        return self.visual_start + self.codebook_size

    @property
    def visual(self) -> slice:
        """The token ids of visual codes."""
        return slice(self.visual_start, self.size)

    @classmethod
    def build(cls, text_size: int, specials: Sequence[str]) -> Vocabulary:
        """From the number of byte-pair ranks and the lines of the special-token file.

        Raises InputError if a control token is missing, or visual tokens are not last and in order.
        """
        names = (*BASE_SPECIALS, *specials)
        ids = {name: text_size + index for index, name in enumerate(names)}
        missing = [name for name in (SOT, SOV, EOV, visual_token(0)) if name not in ids]
        if missing:
            raise InputError(f"special-token file: missing {', '.join(missing)}")
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
        """The vocabulary keys of the config of a decoder over this vocabulary."""
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
        """Raise InputError if a decoder's config and the vocabulary files disagree."""
        for key, found in self.config_keys().items():
            if (configured := getattr(config, key)) != found:
                raise InputError(
                    f"config.json has {key} = {configured}, but the vocabulary files give {found}"
                )
