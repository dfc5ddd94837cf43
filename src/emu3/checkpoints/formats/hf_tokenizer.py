"""Read and write `tokenizer.json` of transformers' Emu3: byte-level BPE.

The rank of a token is its id, in tiktoken files and here. `tokenizer.json` also has the merges,
which follow from the ranks, and the splitting of text. The published -hf repositories split text as
GPT-2 does and do not normalize it, so their tokenizer gives other ids than BAAI's for many texts.
Read by this module, they give BAAI's ids.

The file represents bytes as printable characters (see `byte_to_char`, as in GPT-2's `encoder.py`).
Sources: the `tokenizers` package, 0.23; `convert_emu3_weights_to_hf.py` of transformers.
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
"""Placeholder for the visual codes of an image in transformers' prompts."""

RENAMED = {"<|extra_0|>": IMAGE}
"""Control tokens that have another name in transformers, with the same id."""

IMAGE_AREA = "image_area"  # optional key of the tokenizer config, read by the processor
TOKENIZER_FILE = "tokenizer.json"


@cache
def byte_to_char() -> dict[int, str]:
    """Each byte as a printable character: itself if printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def token_name(token: bytes) -> str:
    """The bytes of a token as printable characters."""
    chars = byte_to_char()
    return "".join(chars[byte] for byte in token)


def text_tokenizer(folder: Path) -> TextTokenizer:
    """Read `tokenizer.json`, with BAAI's names for control tokens.

    The merges and the splitting in the file are ignored; BAAI's are used. Raises InputError if the
    vocabulary is not that of an Emu3 model.
    """
    path = folder / TOKENIZER_FILE
    raw = read_json(path)
    try:
        added = {each["content"]: each["id"] for each in raw.get("added_tokens") or ()}
        ids: dict[str, int] = {**raw["model"]["vocab"], **added}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a byte-pair vocabulary ({error!r})") from None
    if sorted(ids.values()) != list(range(len(ids))):
        raise InputError(f"{path}: token ids must be 0, 1, 2, … without gaps or duplicates")
    if PAD not in ids:
        raise InputError(f"{path}: token {PAD} is missing")
    names = sorted(ids, key=ids.__getitem__)
    baai_names = {theirs: name for name, theirs in RENAMED.items()}
    specials = [baai_names.get(name, name) for name in names[ids[PAD] :]]
    if tuple(specials[: len(BASE_SPECIALS)]) != BASE_SPECIALS:
        raise InputError(
            f"{path}: {BASE_SPECIALS[0]} to {BASE_SPECIALS[-1]} must have consecutive ids in this "
            "order"
        )
    return TextTokenizer(_ranks(names[: ids[PAD]], path), specials[len(BASE_SPECIALS) :])


def _ranks(names: list[str], path: Path) -> dict[bytes, int]:
    values = {char: byte for byte, char in byte_to_char().items()}
    try:
        return {bytes(values[char] for char in name): rank for rank, name in enumerate(names)}
    except KeyError as error:
        raise InputError(f"{path}: character {error} represents no byte") from None


def vocabulary_map(text: TextTokenizer) -> dict[str, int]:
    """The name in `tokenizer.json` and the id of every token, ordered by id."""
    first = len(text.ranks)
    ranks = sorted(text.ranks.items(), key=lambda item: item[1])
    return {token_name(token): rank for token, rank in ranks} | {
        RENAMED.get(name, name): first + index
        for index, name in enumerate((*BASE_SPECIALS, *text.specials))
    }


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair of tokens that merges into each token of several bytes, lowest rank first.

    The pair is the result of byte-pair merging the token with lower ranks only. If that leaves more
    than two parts, no merge makes the token: it is only used if it is a whole piece of split text,
    in tiktoken and in `tokenizers` (`ignore_merges`).
    """
    tokens = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    parts = (_parts(token, ranks) for token in tokens)
    return [(pair[0], pair[1]) for pair in parts if len(pair) == 2]


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Split a token into tokens of lower rank by byte-pair merging."""
    own_rank, no_rank = ranks[token], len(ranks)
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        found = [ranks.get(a + b, no_rank) for a, b in pairwise(parts)]
        lowest = min(found)
        if lowest >= own_rank:
            break
        at = found.index(lowest)  # the leftmost pair of this rank
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def tokenizer_json(text: TextTokenizer) -> dict[str, Any]:
    """The content of `tokenizer.json`. Names of control tokens in a text become these tokens."""
    names = vocabulary_map(text)
    plain: dict[str, Any] = {"single_word": False, "lstrip": False, "rstrip": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            # Matched after NFC normalization, as in BAAI's tokenizer.
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
                {**byte_level, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": False},
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
            "merges": [[token_name(left), token_name(right)] for left, right in merges(text.ranks)],
        },
    }


def special_tokens_map_json() -> dict[str, Any]:
    """The content of `special_tokens_map.json`."""
    return {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}


def tokenizer_config_json() -> dict[str, Any]:
    """The content of `tokenizer_config.json`, with the token names that `Emu3Processor` reads.

    The class is not GPT2Tokenizer, as in the -hf repositories, because that class replaces the
    splitting in `tokenizer.json` by its own.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Emu3Processor",
        **special_tokens_map_json(),
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
