"""Training of a byte-level BPE text tokenizer, in the tiktoken format of BAAI's checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

from emu3.errors import MissingExtraError
from emu3.processing.tokenizer import PATTERN, TextTokenizer
from emu3.processing.vocabulary import EOV, SOT, SOV, visual_token


def train_bpe(texts: Iterable[str], num_ranks: int, codebook_size: int) -> TextTokenizer:
    """Learn a vocabulary of `num_ranks` byte pairs (with the 256 bytes), followed by special
    tokens.

    The special tokens include one for each code of the codebook. Deterministic. Raises
    MissingExtraError without the `tokenizers` library.
    """
    try:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise MissingExtraError("tokenizers", "train", "training a text tokenizer") from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=num_ranks, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    byte_of = _byte_of_character()
    learned = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = {bytes(byte_of[character] for character in token): rank for token, rank in learned}
    specials = (SOT, SOV, EOV, *(visual_token(code) for code in range(codebook_size)))
    return TextTokenizer(tokens, specials)


def _byte_of_character() -> dict[str, int]:
    """Inverse of GPT-2's mapping of bytes to printable characters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    mapped = {chr(256 + index): byte for index, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | mapped
