"""The text tokenizer as a transformers tokenizer.

By default, names of control tokens in a text become these tokens, as in BAAI's code, because
existing scripts rely on it. For untrusted text set `split_special_tokens=True` of transformers:
then such names are plain text, as everywhere else in this library.

Source: `tokenization_emu3.py` of baaivision/Emu3.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from transformers import AddedToken, PreTrainedTokenizer

from emu3.errors import InputError
from emu3.processing.tokenizer import RANKS_FILE, SPECIALS_FILE, TextTokenizer
from emu3.processing.vocabulary import BASE_SPECIALS, BOS, EOF, EOL, EOS, EOV, PAD, SOT, SOV

TOKEN_ATTRIBUTES = {
    "img_token": SOT,
    "boi_token": SOV,
    "eoi_token": EOV,
    "eol_token": EOL,
    "eof_token": EOF,
}
"""Attributes of the tokenizer for the control tokens of images, named as in BAAI's code."""


class Emu3Tokenizer(PreTrainedTokenizer):
    """Byte-level BPE, followed by control tokens and visual tokens.

    The string form of a text token is its bytes decoded as Latin-1, which is unique and reversible.
    """

    vocab_files_names: ClassVar = {"vocab_file": RANKS_FILE, "special_tokens_file": SPECIALS_FILE}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, special_tokens_file: str, **kwargs: Any) -> None:
        folder = Path(vocab_file).parent
        if Path(special_tokens_file).parent != folder:
            raise InputError(f"{vocab_file} and {special_tokens_file} must be in the same folder")
        for name, token in TOKEN_ATTRIBUTES.items():
            if str(kwargs.pop(name, token)) != token:
                raise InputError(
                    f"{name} cannot be changed; it is {token} in every Emu3 vocabulary"
                )
        self.text = TextTokenizer.from_folder(folder)
        for name, token in {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}.items():
            kwargs.setdefault(name, token)
        super().__init__(**kwargs)

    img_token = property(lambda self: SOT)
    boi_token = property(lambda self: SOV)
    eoi_token = property(lambda self: EOV)
    eol_token = property(lambda self: EOL)
    eof_token = property(lambda self: EOF)

    @cached_property
    def _names(self) -> list[str]:
        ranks = sorted(self.text.ranks.items(), key=lambda item: item[1])
        written = [token.decode("latin-1") for token, _ in ranks]
        return [*written, *BASE_SPECIALS, *self.text.specials]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self._names)}

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.text.vocabulary.size

    def get_vocab(self) -> dict[str, int]:
        """All tokens with their ids."""
        return dict(self._ids)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """The tokens of a text."""
        plain = kwargs.get("split_special_tokens", self.split_special_tokens)
        return [self._names[i] for i in self.text.encode(text, allow_special=not plain)]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens."""
        return "".join(tokens).encode("latin-1").decode("utf-8", errors="replace")

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the two vocabulary files."""
        if filename_prefix:
            raise InputError(
                "filename_prefix is not supported: the vocabulary files have fixed names"
            )
        folder = Path(save_directory)
        self.text.save(folder)
        return str(folder / RANKS_FILE), str(folder / SPECIALS_FILE)

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)  # None for an unknown token, which scripts rely on

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def _decode(
        self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs: Any
    ) -> str:
        """Token ids to text; `skip_special_tokens` omits all control and visual tokens.

        Other arguments are ignored: byte-level BPE needs no cleanup of spaces.
        """
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return self.text.decode(ids, skip_special=skip_special_tokens)

    def _add_tokens(
        self, new_tokens: list[str] | list[AddedToken], special_tokens: bool = False
    ) -> int:
        """Accept tokens of the vocabulary; others cannot be added, ids are rows of the decoder."""
        unknown = [str(token) for token in new_tokens if str(token) not in self._ids]
        if unknown:
            raise InputError(f"the vocabulary is fixed; cannot add {', '.join(unknown)}")
        return 0
