"""`tokenizer.json` of transformers' Emu3: byte-level BPE, from our ranks and back.

A rank is an id, in both layouts. The file says besides how pairs merge, which follows from the
ranks, and how text is split: the published -hf repositories split as GPT-2 does and do not
normalise, so their own tokenizer gives other ids for many texts. Read here, they give BAAI's.

The file spells bytes as printable characters (`alphabet`, as in GPT-2's `encoder.py`).
Source: the `tokenizers` package, 0.23; `convert_emu3_weights_to_hf.py` of transformers.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from emu3.config import read_json
from emu3.errors import InputError
from emu3.processing.tokenizer import PATTERN, TextTokenizer
from emu3.processing.vocabulary import BASE_SPECIALS, BOS, EOF, EOS, EOV, PAD, SOT, SOV

IMAGE = "<image>"
"""Stands for the codes of a picture in transformers' prompts."""

RENAMED = {"<|extra_0|>": IMAGE}
"""Control tokens that transformers calls otherwise, at the same id."""

IMAGE_AREA = "image_area"  # a key that the tokenizer's file may have, and the processor then obeys
FILE = "tokenizer.json"


@cache
def alphabet() -> dict[int, str]:
    """Each byte as one printable character: itself where it is one, else from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def spell(token: bytes) -> str:
    """The bytes of a token in the file's alphabet."""
    letters = alphabet()
    return "".join(letters[byte] for byte in token)


def text(folder: Path) -> TextTokenizer:
    """Our tokenizer from `tokenizer.json`, with transformers' renames undone.

    Merges and splitting in the file are not read: BAAI's are part of the format. Raises
    InputError when the file is no such vocabulary.
    """
    path = folder / FILE
    raw = read_json(path)
    try:
        added = {each["content"]: each["id"] for each in raw.get("added_tokens") or ()}
        ids: dict[str, int] = {**raw["model"]["vocab"], **added}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a vocabulary of byte pairs ({error!r})") from None
    if sorted(ids.values()) != list(range(len(ids))):
        raise InputError(f"{path}: ids must run from 0 without gaps or repeats")
    if PAD not in ids:
        raise InputError(f"{path}: {PAD} missing")
    names = sorted(ids, key=ids.__getitem__)
    ours = {theirs: name for name, theirs in RENAMED.items()}
    specials = [ours.get(name, name) for name in names[ids[PAD] :]]
    if tuple(specials[: len(BASE_SPECIALS)]) != BASE_SPECIALS:
        raise InputError(f"{path}: {BASE_SPECIALS[0]} to {BASE_SPECIALS[-1]} must come in order")
    return TextTokenizer(_ranks(names[: ids[PAD]], path), specials[len(BASE_SPECIALS) :])


def _ranks(names: list[str], path: Path) -> dict[bytes, int]:
    letters = {letter: byte for byte, letter in alphabet().items()}
    try:
        return {bytes(letters[c] for c in name): rank for rank, name in enumerate(names)}
    except KeyError as error:
        raise InputError(f"{path}: {error} spells no byte") from None


def vocabulary_map(text: TextTokenizer) -> dict[str, int]:
    """Every token's name there and its id, in the order of ids."""
    first = len(text.ranks)
    ranks = sorted(text.ranks.items(), key=lambda item: item[1])
    return {spell(token): rank for token, rank in ranks} | {
        RENAMED.get(name, name): first + index
        for index, name in enumerate((*BASE_SPECIALS, *text.specials))
    }


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that makes each token of several bytes, lowest rank first.

    It is what byte-pair merging leaves of the token when only lower ranks may merge. A token of
    which more than two parts are left is made by no merge; tiktoken knows it only as a whole
    piece of text, and so does the file (`ignore_merges`).
    """
    tokens = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    parts = (_parts(token, ranks) for token in tokens)
    return [(pair[0], pair[1]) for pair in parts if len(pair) == 2]


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """A token as the tokens of lower rank that byte-pair merging makes of it."""
    own, none = ranks[token], len(ranks)
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        found = [ranks.get(a + b, none) for a, b in pairwise(parts)]
        lowest = min(found)
        if lowest >= own:
            break
        at = found.index(lowest)  # the leftmost of equals
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def tokenizer_file(text: TextTokenizer) -> dict[str, Any]:
    """The content of `tokenizer.json`. Names of control tokens in a text become these tokens."""
    names = vocabulary_map(text)
    plain: dict[str, Any] = {"single_word": False, "lstrip": False, "rstrip": False}
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            # Looked for after NFC, as BAAI's own tokenizer does.
            {"id": token, "content": name, **plain, "normalized": True, "special": True}
            for name, token in names.items()
            if token >= len(text.ranks)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {**bytes_only, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {**bytes_only, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": names,
            "merges": [[spell(left), spell(right)] for left, right in merges(text.ranks)],
        },
    }


def special_tokens() -> dict[str, Any]:
    """The content of `special_tokens_map.json`."""
    return {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}


def tokenizer_config_file() -> dict[str, Any]:
    """The content of `tokenizer_config.json`, with the names that `Emu3Processor` asks for.

    The class is not GPT2Tokenizer, as in the -hf repositories: that one puts its own way of
    splitting in the place of the file's.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Emu3Processor",
        **special_tokens(),
        "extra_special_tokens": {
            "image_token": IMAGE,
            "boi_token": SOV,
            "eoi_token": EOV,
            "image_wrapper_token": SOT,
            "eof_token": EOF,
        },
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
