"""The text tokenizer as a transformers tokenizer.

Names of control tokens in a text become these tokens, as with the published tokenizer, for which
the scripts that use it were written. Text that someone else wrote should be read with
`split_special_tokens=True`, transformers' own switch: then it is only ever text, as in the house.

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

NAMED = {"img_token": SOT, "boi_token": SOV, "eoi_token": EOV, "eol_token": EOL, "eof_token": EOF}
"""BAAI's names for the control tokens of a picture, as attributes of the tokenizer."""


class Emu3Tokenizer(PreTrainedTokenizer):
    """Byte-level BPE and the control and visual tokens behind it.

    A token of text is written as its bytes in Latin-1, which is one string for each of them.
    """

    vocab_files_names: ClassVar = {"vocab_file": RANKS_FILE, "special_tokens_file": SPECIALS_FILE}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, special_tokens_file: str, **kwargs: Any) -> None:
        folder = Path(vocab_file).parent
        if Path(special_tokens_file).parent != folder:
            raise InputError(f"{vocab_file} and {special_tokens_file} must lie in one folder")
        for name, token in NAMED.items():
            if str(kwargs.pop(name, token)) != token:
                raise InputError(f"{name} is {token} in every Emu3 vocabulary")
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
        """Ids in all."""
        return self.text.vocabulary.size

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""
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
            raise InputError("the vocabulary files have fixed names; no filename_prefix")
        folder = Path(save_directory)
        self.text.save(folder)
        return str(folder / RANKS_FILE), str(folder / SPECIALS_FILE)

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)  # None for what is no token: scripts ask, to find out

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def _decode(
        self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs: Any
    ) -> str:
        """Ids to text; `skip_special_tokens` leaves out all control and visual tokens.

        Nothing was split at spaces, so there is nothing to clean up; other switches do nothing.
        """
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return self.text.decode(ids, skip_special=skip_special_tokens)

    def _add_tokens(
        self, new_tokens: list[str] | list[AddedToken], special_tokens: bool = False
    ) -> int:
        """None can be added: ids are rows of the decoder. Those that are there may be named."""
        unknown = [str(token) for token in new_tokens if str(token) not in self._ids]
        if unknown:
            raise InputError(f"tokens cannot be added to this vocabulary: {', '.join(unknown)}")
        return 0
