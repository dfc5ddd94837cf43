"""Request states: what the engine keeps for a request while it works on it.

A request state reserves rows of the KV cache, encodes its inputs when it is admitted, hands
sequences to the model runner, and turns finished ids into events. `video.py` has that of a video.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from PIL import Image
from torch import Tensor

from emu3.checkpoints.generation_defaults import GenerationSettings
from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.events import (
    ChatResult,
    Event,
    ImageResult,
    PartialImage,
    PartialText,
    RequestId,
    RowProgress,
    TokenizeResult,
)
from emu3.inference.inputs import encode_turn
from emu3.inference.requests import ChatRequest, ImageRequest, TokenizeRequest
from emu3.inference.sampling import SamplingParams
from emu3.inference.sequences import DecodingSequence, TextSequence, VisualSequence
from emu3.inference.validation import (
    SHORTER_CHAT,
    SMALLER_IMAGE,
    chat_prompt_ids,
    check_context,
    check_guidance,
    check_max_new_tokens,
    check_seed,
    check_tokenize,
    placeholder_codes,
    requested_grid,
)
from emu3.outputs import ImageSettings

Kind = Literal["image", "video", "chat", "tokenize"]


@dataclass(frozen=True)
class DecodeJob:
    """Codes [r, w] for the vision worker, and the event that the decoded image becomes."""

    codes: Tensor
    event: Callable[[Image.Image], Event]


class RequestState:
    """A request that the engine works on: its memory, its current sequence, its events."""

    kind: ClassVar[Kind]

    def __init__(self, checkpoint: Checkpoint, num_rows: int, kv_tokens_per_row: int) -> None:
        """`num_rows` rows of the KV cache with `kv_tokens_per_row` tokens each are reserved."""
        self.checkpoint = checkpoint
        self.num_rows, self.kv_tokens_per_row = num_rows, kv_tokens_per_row
        self.request_id: RequestId = 0
        self.sequence: DecodingSequence | None = None

    def start(self) -> None:
        """Encode the inputs and make the first `sequence`. Raises InputError."""

    def advance(self) -> list[Event | DecodeJob]:
        """Events since the last call, after a step; may replace `sequence` when that is done.

        The request ends with a final event, or with a decode job while `sequence` is None.
        """
        raise NotImplementedError


def resolve_sampling(settings: GenerationSettings | ImageSettings) -> SamplingParams:
    """The sampling parameters of resolved settings. Raises InputError."""
    return SamplingParams(settings.top_k, settings.top_p, settings.temperature)


def resolve_settings(
    checkpoint: Checkpoint,
    *,
    suffix: str | None,
    negative_prompt: str | None,
    guidance_scale: float | None,
    sampling: SamplingParams | None,
) -> GenerationSettings:
    """What a request asks for, and the checkpoint's defaults elsewhere. Raises InputError."""
    settings = checkpoint.defaults.resolve(
        suffix=suffix,
        negative_prompt=negative_prompt,
        guidance_scale=guidance_scale,
        top_k=None if sampling is None else sampling.top_k,
        top_p=None if sampling is None else sampling.top_p,
        temperature=None if sampling is None else sampling.temperature,
    )
    check_guidance(settings.guidance_scale)
    return settings


class ImageRequestState(RequestState):
    """An image: one visual sequence, then its decoding."""

    kind = "image"

    def __init__(self, checkpoint: Checkpoint, request: ImageRequest) -> None:
        """Check a request. Raises InputError."""
        check_seed(request.seed)
        settings = resolve_settings(
            checkpoint,
            suffix=request.suffix,
            negative_prompt=request.negative_prompt,
            guidance_scale=request.guidance_scale,
            sampling=request.sampling,
        )
        if request.partials < 0:
            raise InputError(f"partials = {request.partials} must be 0 or more")
        grid = requested_grid(checkpoint, request.size, request.ratio, request.area)
        sequence = self._sequence(checkpoint, request, settings, grid)
        super().__init__(checkpoint, len(sequence.prompts), sequence.kv_tokens_per_row)
        self._visual, self._partials = sequence, request.partials
        ratio, area = request.ratio, request.area
        if request.size is not None:
            ratio, area = ratio_and_area(checkpoint, grid)
        self.settings = ImageSettings(
            prompt=request.prompt,
            ratio=ratio,
            area=checkpoint.decoder.config.image_area if area is None else area,
            seed=request.seed,
            model=checkpoint.name,
            dtype=checkpoint.precision,
            **asdict(settings),
        )
        self._rows_reported = self._partials_decoded = 0

    @staticmethod
    def _sequence(
        checkpoint: Checkpoint,
        request: ImageRequest,
        settings: GenerationSettings,
        grid: tuple[int, int],
    ) -> VisualSequence:
        texts = [request.prompt + settings.suffix]
        if settings.guidance_scale != 1:
            texts.append(settings.negative_prompt)
        prompts = [
            checkpoint.prompts.image(text, grid, allow_special=request.allow_special)
            for text in texts
        ]
        limit = checkpoint.decoder.config.max_position_embeddings
        length = checkpoint.prompts.document_format.num_tokens(*grid)
        check_context(limit, max(map(len, prompts)), length, "image", SMALLER_IMAGE)
        return VisualSequence(
            prompts,
            grid,
            request.seed,
            checkpoint.prompts.document_format,
            resolve_sampling(settings),
            settings.guidance_scale,
        )

    def start(self) -> None:
        """Begin the sequence."""
        self.sequence = self._visual

    def advance(self) -> list[Event | DecodeJob]:
        """Finished rows; a partial image when one is due; the image at the end."""
        sequence, height = self._visual, self._visual.grid[0]
        rows, out = sequence.num_codes // sequence.grid[1], list[Event | DecodeJob]()
        if rows == self._rows_reported:
            return out
        self._rows_reported = rows
        codes = sequence.finished_rows()
        out.append(RowProgress(rows, height, codes))
        if sequence.done:
            self.sequence = None
            prompt_tokens = len(sequence.prompts[0])
            return [
                *out,
                DecodeJob(
                    codes, lambda image: ImageResult(image, codes, self.settings, prompt_tokens)
                ),
            ]
        due = rows * (self._partials + 1) // height
        if due > self._partials_decoded:
            self._partials_decoded = due
            out.append(DecodeJob(codes, lambda image: PartialImage(due - 1, image)))
        return out


def ratio_and_area(checkpoint: Checkpoint, grid: tuple[int, int]) -> tuple[str, int]:
    """Ratio (width:height) and area in pixels of height and width in codes."""
    (height, width), factor = grid, checkpoint.vision_processor.vision.config.spatial_factor
    common = math.gcd(height, width)
    return f"{width // common}:{height // common}", height * width * factor**2


class ChatRequestState(RequestState):
    """An answer: one text sequence."""

    kind = "chat"

    def __init__(self, checkpoint: Checkpoint, request: ChatRequest) -> None:
        """Check a request. Raises InputError."""
        check_seed(request.seed)
        check_max_new_tokens(request.max_new_tokens)
        placeholders = [placeholder_codes(checkpoint, turn) for turn in request.turns]
        prompt = chat_prompt_ids(checkpoint, request, placeholders)
        limit = checkpoint.decoder.config.max_position_embeddings
        check_context(limit, len(prompt), 1, "answer", SHORTER_CHAT)
        self.request, self.prompt_tokens = request, len(prompt)
        self.max_new_tokens = min(request.max_new_tokens, limit - len(prompt))
        self.eos = checkpoint.text_tokenizer.vocabulary.eos
        super().__init__(checkpoint, 1, self._text(prompt).kv_tokens_per_row)

    def _text(self, prompt: list[int]) -> TextSequence:
        return TextSequence(
            prompt,
            self.max_new_tokens,
            self.request.sampling,
            self.request.seed,
            self.eos,
            keep_cache=self.request.keep_cache,
        )

    def start(self) -> None:
        """Encode images and videos, and begin the sequence."""
        codes = [encode_turn(self.checkpoint, turn) for turn in self.request.turns]
        self.sequence = self._text(chat_prompt_ids(self.checkpoint, self.request, codes))

    def advance(self) -> list[Event | DecodeJob]:
        """The text so far where it is streamed; the answer at the end."""
        text = self.sequence
        assert isinstance(text, TextSequence)
        if text.done:
            answer = decode_text(self.checkpoint, text.ids)
            return [ChatResult(answer, text.stopped, self.prompt_tokens, tuple(text.ids))]
        if self.request.stream:
            return [PartialText(decode_text(self.checkpoint, text.ids))]
        return []


def decode_text(checkpoint: Checkpoint, ids: list[int]) -> str:
    """The text of an answer's ids."""
    return checkpoint.text_tokenizer.decode(ids, skip_special=True).strip()


class TokenizeRequestState(RequestState):
    """An image to codes and back, or codes to an image: the vision tokenizer alone."""

    kind = "tokenize"

    def __init__(self, checkpoint: Checkpoint, request: TokenizeRequest) -> None:
        """Check a request. Raises InputError."""
        super().__init__(checkpoint, 0, 0)
        check_tokenize(checkpoint, request.source)
        self.source = request.source

    def advance(self) -> list[Event | DecodeJob]:
        """The codes, and the image that they decode to."""
        processor, source = self.checkpoint.vision_processor, self.source
        codes = source if isinstance(source, Tensor) else processor.encode(source)
        return [TokenizeResult(codes, processor.decode_image(codes))]
