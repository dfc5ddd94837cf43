"""Conversations: several questions and answers, with prefix caching.

    BOS opening  images text closing  answer  USER:  images text closing  answer  …

Videos follow the images of their question. The engine keeps the KV cache of the turns so far,
so a question about an image of 16,000 tokens costs that much once, and the next question only its
own tokens. BAAI did not publish how turns are joined; this is the template that transformers ships
for its port.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from emu3.checkpoints.loading import Checkpoint
from emu3.inference.engine import Engine
from emu3.inference.events import ChatResult, Event, PartialText
from emu3.inference.inputs import VideoSource, encode_turn, encode_video
from emu3.inference.requests import ChatRequest, ChatTurn
from emu3.inference.sampling import SamplingParams
from emu3.inference.validation import chat_prompt_ids


@dataclass
class Conversation:
    """A checkpoint and the turns so far."""

    checkpoint: Checkpoint
    turns: tuple[ChatTurn, ...] = ()
    engine: Engine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.engine = Engine(self.checkpoint)

    @property
    def num_tokens(self) -> int:
        """Tokens of all turns so far."""
        if not self.turns:
            return 0
        request = ChatRequest("", history=self.turns)
        codes = [encode_turn(self.checkpoint, turn) for turn in request.turns]
        last = self.checkpoint.prompts.turn("", [])
        return len(chat_prompt_ids(self.checkpoint, request, codes)) - len(last)

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
        """Ask the next question; returns its answer. Greedy by default.

        Raises InputError where the context is full, and leaves the conversation as it was.
        """
        request = ChatRequest(
            text,
            images=tuple(self.checkpoint.vision_processor.encode(image) for image in images),
            videos=tuple(encode_video(self.checkpoint, video) for video in videos),
            max_new_tokens=max_new_tokens,
            sampling=SamplingParams(top_k, top_p, temperature),
            seed=seed,
            history=self.turns,
            stream=on_text is not None,
            keep_cache=True,
        )

        def on_event(index: int, event: Event) -> None:
            if on_text is not None and isinstance(event, PartialText):
                on_text(event.text)

        (result,) = self.engine.run([request], on_event)
        assert isinstance(result, ChatResult)
        if on_text is not None:
            on_text(result.text)
        ids = result.ids[:-1] if result.complete else result.ids
        turn = ChatTurn(text, result.text, request.images, request.videos, ids)
        self.turns = (*self.turns, turn)
        return result.text
