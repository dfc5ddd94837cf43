"""A request checked and measured, in the caller's thread: what is wrong with it is said at once.

Nothing here runs the model. A picture's length follows from its size, and so does that of a
picture in a question.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.request_handle import RequestHandle
from emu3.inference.requests import (
    ChatRequest,
    ChatTurn,
    ImageRequest,
    Request,
    TokenizeRequest,
    VideoRequest,
)
from emu3.inference.sampling import GumbelNoise, SamplingParams
from emu3.inference.speculative import JacobiDecoder, VisualSequence, draft_length_for
from emu3.inference.token_counts import blank_picture, blank_video, requested_grid_size
from emu3.inference.tokenize_request import TokenizeJob, plan_tokenize
from emu3.inference.validation import check_context, check_guidance, check_seed
from emu3.inference.video_request import VideoJob, plan_video
from emu3.processing.document_format import VideoCodes

SMALLER = "ask for a smaller picture or with a shorter text"


@dataclass(eq=False)
class ImageJob:
    """A picture to be drawn."""

    request: ImageRequest
    ticket: RequestHandle
    picture: VisualSequence
    sampling: SamplingParams
    guidance: float
    room: int
    rows_told: int = 0
    partials_told: int = 0

    @property
    def key(self) -> Hashable:
        """A pass has one sampling and one guidance."""
        return self.sampling, self.guidance

    @property
    def rows(self) -> int:
        """Two with guidance."""
        return len(self.picture.prompts)


@dataclass(eq=False)
class ChatJob:
    """A question to be answered, with at most `most` new ids."""

    request: ChatRequest
    ticket: RequestHandle
    prompt_ids: int
    most: int
    noise: GumbelNoise
    ids: list[int] = field(default_factory=list)
    key: Hashable = "chat"
    rows: int = 1

    @property
    def room(self) -> int:
        """For the question and the answer."""
        return self.prompt_ids + self.most


Job = ImageJob | VideoJob | ChatJob | TokenizeJob


def plan(checkpoint: Checkpoint, request: Request, ticket: RequestHandle) -> Job:
    """Check and measure a request. Raises InputError on whatever could not be done."""
    if isinstance(request, TokenizeRequest):
        return plan_tokenize(checkpoint, request, ticket)
    check_seed(request.seed)
    if isinstance(request, ImageRequest):
        return plan_picture(checkpoint, request, ticket)
    if isinstance(request, VideoRequest):
        return plan_video(checkpoint, request, ticket)
    return plan_answer(checkpoint, request, ticket)


def plan_picture(checkpoint: Checkpoint, request: ImageRequest, ticket: RequestHandle) -> ImageJob:
    """As `plan`, for a picture."""
    prompts = checkpoint.prompts
    manner = checkpoint.defaults.resolve(
        suffix=request.suffix,
        negative_prompt=request.negative,
        guidance_scale=request.guidance,
    )
    scale = manner.guidance_scale
    sampling = request.sampling or SamplingParams(manner.top_k, manner.top_p, manner.temperature)
    check_guidance(scale)
    if request.partials < 0:
        raise InputError(f"partials = {request.partials} must be 0 or more")
    size = requested_grid_size(checkpoint, request.size, request.ratio, request.area)
    branches = [prompts.image(request.prompt + manner.suffix, size)]
    if scale != 1:
        branches.append(prompts.image(manner.negative_prompt, size))
    limit, length = (
        checkpoint.decoder.config.max_position_embeddings,
        prompts.document_format.num_tokens(*size),
    )
    check_context(limit, max(map(len, branches)), length, "picture", SMALLER)
    picture = VisualSequence(branches, size, request.seed)
    model = checkpoint.decoder
    widest = JacobiDecoder(
        model, prompts.document_format, sampling, scale, draft_length_for(model, 1)
    )
    return ImageJob(request, ticket, picture, sampling, scale, widest.room(picture))


def plan_answer(checkpoint: Checkpoint, request: ChatRequest, ticket: RequestHandle) -> ChatJob:
    """As `plan`, for an answer."""
    if request.max_new_tokens < 1:
        raise InputError(f"max_new_tokens = {request.max_new_tokens} must be at least 1")
    blank = [blank_codes(checkpoint, turn) for turn in request.turns]
    length = len(chat_prompt_ids(checkpoint, request, blank))
    limit = checkpoint.decoder.config.max_position_embeddings
    check_context(limit, length, 1, "answer", SMALLER)
    most = min(request.max_new_tokens, limit - length)
    noise = GumbelNoise([request.seed], checkpoint.decoder.device)
    return ChatJob(request, ticket, length, most, noise)


def blank_codes(checkpoint: Checkpoint, turn: ChatTurn | ChatRequest) -> list[Tensor | VideoCodes]:
    """Codes as many as a turn's pictures and videos will have. Raises InputError."""
    pictures = [blank_picture(checkpoint, image) for image in turn.images]
    return [*pictures, *(blank_video(checkpoint, reel) for reel in turn.videos)]


def chat_prompt_ids(
    checkpoint: Checkpoint,
    request: ChatRequest,
    codes: Sequence[Sequence[Tensor | VideoCodes]],
) -> list[int]:
    """The ids that an answer follows; `codes` of the pictures [h, w] and then the videos of each
    turn, the last's too.

    Turns are joined as in a conversation: no EOS behind earlier answers.
    """
    prompts, ids = checkpoint.prompts, list[int]()
    for turn, pictures in zip(request.turns, codes, strict=True):
        ids += prompts.turn(turn.text, pictures) if ids else prompts.chat(turn.text, pictures)
        if isinstance(turn, ChatTurn):
            ids += checkpoint.text_tokenizer.encode(" " + turn.answer)
    return ids
