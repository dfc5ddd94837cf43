"""Several questions and answers, of which nothing is read twice.

    BOS opening  pictures text closing  answer  USER:  pictures text closing  answer  …

Videos stand behind the pictures of their question. The cache belongs to the conversation and grows
with it, so a question about a picture of 16,000 ids costs that much once, and the next one only
itself. How BAAI joins turns was never disclosed; this is the template that transformers ships for
its port.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.reference import generate_text
from emu3.inference.sampling import SamplingParams
from emu3.inference.validation import check_seed
from emu3.inference.video import VideoSource, encode_video
from emu3.models.kv_cache import KVCache
from emu3.processing.document_format import VideoCodes


@dataclass
class Conversation:
    """A checkpoint, and all that was said so far."""

    checkpoint: Checkpoint
    cache: KVCache | None = None
    unread: list[int] = field(default_factory=list)  # said, but not in the cache yet

    @property
    def length(self) -> int:
        """Ids so far."""
        return len(self.unread) + (0 if self.cache is None else self.cache.max_length)

    @torch.no_grad()
    def say(
        self,
        text: str,
        images: Sequence[Image.Image] = (),
        videos: Sequence[VideoSource] = (),
        *,
        max_new_tokens: int = 1024,
        top_k: int = 1,
        top_p: float = 1.0,
        temperature: float = 1.0,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Ask the next question; returns its answer. Greedy unless told otherwise.

        Raises InputError where the context is full, and leaves the conversation as it was.
        """
        sampling = SamplingParams(top_k, top_p, temperature)
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens = {max_new_tokens} must be at least 1")
        check_seed(seed)
        decoder, prompts = self.checkpoint.decoder, self.checkpoint.prompts
        shown: list[torch.Tensor | VideoCodes] = [
            *(self.checkpoint.vision_processor.encode(image) for image in images),
            *(encode_video(self.checkpoint, video) for video in videos),
        ]
        asked = prompts.turn(text, shown) if self.length else prompts.chat(text, shown)
        limit = decoder.config.max_position_embeddings
        room = limit - self.length - len(asked)
        if room < 1:
            raise InputError(
                f"{self.length} ids of conversation and {len(asked)} of question exceed the "
                f"context of {limit}; start a new one"
            )
        if self.cache is None:
            self.cache = decoder.new_cache(1, 0)
        before, vocabulary = list(self.cache.lengths), self.checkpoint.text_tokenizer.vocabulary
        try:
            out = generate_text(
                decoder,
                [self.unread + asked],
                vocabulary.eos,
                vocabulary.pad,
                min(max_new_tokens, room),
                sampling,
                [seed],
                None if on_text is None else lambda step, ids: on_text(self._read(ids[0])),
                self.cache,
            )
        except BaseException:
            self.cache.truncate(before)
            raise
        last = int(out[0, -1])
        self.unread = [] if last == vocabulary.eos else [last]
        return self._read(out[0])

    def _read(self, ids: torch.Tensor) -> str:
        return self.checkpoint.text_tokenizer.decode(ids.tolist(), skip_special=True).strip()
