"""The text tokenizer: byte-level BPE, read from a checkpoint's two vocabulary files.

`*.tiktoken` holds the merge ranks (Qwen's for the published models), `*_vision_tokens.txt` the
control and visual tokens that follow them. By default, input is plain text: `<|image start|>` in a
prompt does not become a control token. `allow_special=True` gives the reference's behaviour.

Source: `tokenization_emu3.py` of baaivision/Emu3.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken

from emu3.errors import InputError
from emu3.processing.vocabulary import BASE_SPECIALS, Vocabulary

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pre-tokenization pattern; part of the file format. Digits are single tokens."""

_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode White_Space
MAX_SPACES = 10_000
"""Longer runs of white space are split before tiktoken sees them, whose matcher backtracks over a
run once per character and panics after about a million steps."""
MAX_COMBINING = 10_000
"""Combining marks in a row; sorting them in NFC takes quadratic time. UAX #15 expects up to 30."""
LFS_POINTER = b"version https://git-lfs"

RANKS_FILE = "emu3.tiktoken"
SPECIALS_FILE = "emu3_vision_tokens.txt"


class TextTokenizer:
    """Text to token ids and back. Stateless; safe to share between threads."""

    def __init__(self, ranks: dict[bytes, int], specials: Iterable[str]) -> None:
        if any(bytes([byte]) not in ranks for byte in range(256)):
            raise InputError("text vocabulary: each of the 256 single bytes must have a rank")
        self.ranks = ranks
        self.specials = tuple(specials)
        self.vocabulary = Vocabulary.build(len(ranks), self.specials)
        self._plain = tiktoken.Encoding(
            "emu3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
        )

    @classmethod
    def from_folder(cls, folder: Path) -> TextTokenizer:
        """Read the two vocabulary files of a checkpoint folder; raises InputError if invalid."""
        ranks = _read_ranks(_only_file(folder, "*.tiktoken"))
        path = _only_file(folder, "*_vision_tokens.txt")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not a UTF-8 list of tokens ({error})") from None
        return cls(ranks, [line.strip() for line in lines if line.strip()])

    def save(self, folder: Path) -> None:
        """Write the two vocabulary files that `from_folder` reads."""
        ranks = "".join(
            f"{base64.b64encode(token).decode()} {rank}\n"
            for token, rank in sorted(self.ranks.items(), key=lambda item: item[1])
        )
        (folder / RANKS_FILE).write_text(ranks, encoding="utf-8")
        (folder / SPECIALS_FILE).write_text("\n".join(self.specials) + "\n", encoding="utf-8")

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text, after NFC normalization.

        With `allow_special`, names of control tokens become these tokens, as in the reference. Do
        not use it with untrusted text. Raises InputError on text that cannot be normalized or
        tokenized in bounded time and memory.
        """
        encoding = self._with_specials if allow_special else self._plain
        ids: list[int] = []
        for part, is_one_piece in split_long_spaces(normalize(text), MAX_SPACES):
            if is_one_piece:
                ids += self._one_piece.encode_ordinary(part)
            else:
                allowed = "all" if allow_special else set[str]()
                ids += _encode(encoding, part, allowed)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of token ids; control and visual tokens appear by name, or are skipped.

        Invalid UTF-8 becomes U+FFFD. Raises InputError on ids outside the vocabulary.
        """
        parts = [self._bytes(int(i), skip_special) for i in ids]
        return b"".join(parts).decode("utf-8", errors="replace")

    def _bytes(self, token: int, skip_special: bool) -> bytes:
        if 0 <= token < len(self.ranks):
            return self._plain.decode_single_token_bytes(token)
        if not len(self.ranks) <= token < self.vocabulary.size:
            raise InputError(
                f"token id {token} is outside the vocabulary of {self.vocabulary.size}"
            )
        return b"" if skip_special else self._special_names[token - len(self.ranks)].encode()

    @cached_property
    def _one_piece(self) -> tiktoken.Encoding:
        """Merges a whole text as one piece."""
        return tiktoken.Encoding(
            "emu3-piece", pat_str=r"(?s:.+)", mergeable_ranks=self.ranks, special_tokens={}
        )

    @cached_property
    def _special_names(self) -> tuple[str, ...]:
        return (*BASE_SPECIALS, *self.specials)

    @cached_property
    def _with_specials(self) -> tiktoken.Encoding:
        first = len(self.ranks)
        specials = {name: first + index for index, name in enumerate(self._special_names)}
        return tiktoken.Encoding(
            "emu3-specials",
            pat_str=PATTERN,
            mergeable_ranks=self.ranks,
            special_tokens=specials,
        )


def normalize(text: str) -> str:
    """NFC. Raises InputError on more than `MAX_COMBINING` combining marks in a row."""
    if not text.isascii():
        run = 0
        for character in text:
            run = run + 1 if unicodedata.combining(character) else 0
            if run > MAX_COMBINING:
                raise InputError(
                    f"the text has more than {MAX_COMBINING:,} combining marks in a row"
                )
    return unicodedata.normalize("NFC", text)


def split_long_spaces(text: str, limit: int) -> list[tuple[str, bool]]:
    """Parts of a text that are tokenized independently, and whether a part is one piece.

    White space longer than `limit` is split where `PATTERN` splits it, so the ids stay the same:
    line breaks after a symbol belong to it; the rest up to the last line break is one piece; so is
    what follows, but for a last character that may belong to the next word.
    """
    parts, done = list[tuple[str, bool]](), 0
    for match in re.finditer(f"[{_SPACE}]{{{limit + 1},}}", text):
        start, stop = match.span()
        before = text[start - 1 : start]
        if before and unicodedata.category(before)[0] not in "LN":
            start += len(match[0]) - len(match[0].lstrip("\r\n"))
        breaks = start + 1 + max(text[start:stop].rfind("\n"), text[start:stop].rfind("\r"))
        end = stop - 1 if stop < len(text) else stop
        pieces = [(text[start:breaks], True), (text[breaks : max(end, breaks)], True)]
        parts += [(text[done:start], False), *pieces]
        done = max(end, breaks)
    parts.append((text[done:], False))
    return [part for part in parts if part[0]]


def _encode(encoding: tiktoken.Encoding, text: str, allowed: Any) -> list[int]:
    try:
        return encoding.encode(text, allowed_special=allowed, disallowed_special=())
    except BaseException as error:
        # A panic in tiktoken's Rust code: a BaseException of a type that cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise InputError(
            "the text cannot be tokenized: tiktoken failed on a very long run of characters"
        ) from None


def _only_file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{folder}: expected one file {pattern}, found {names}")
    return found[0]


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Parse lines of `base64(token) rank`. Ranks are token ids, so they must be 0, 1, 2, …"""
    ranks: dict[bytes, int] = {}
    try:
        data = path.read_bytes()
        if data.startswith(LFS_POINTER):
            raise InputError(
                f"{path}: a Git LFS pointer instead of the file; run git lfs pull in its repository"
            )
        for line in data.splitlines():
            if line.strip():
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except InputError:
        raise
    except (ValueError, binascii.Error) as error:
        raise InputError(f"{path}: not a tiktoken vocabulary ({error})") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise InputError(f"{path}: ranks must run from 0 without gaps or duplicates")
    return ranks
