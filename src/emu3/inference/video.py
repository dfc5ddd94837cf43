"""Videos: the plan of context windows, and the state of a video request.

A video is generated as one document, after a header that states its length. A continuation that
does not fit the context is generated in overlapping context windows: the last frames of codes
follow a new header and condition the frames that are generated after them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.inference.captioning import MAX_CAPTION_TOKENS, can_caption, caption_prompt_ids
from emu3.inference.events import Event, VideoFrames, VideoResult, VideoSpec
from emu3.inference.request_states import (
    DecodeJob,
    RequestState,
    decode_text,
    ratio_and_area,
    resolve_sampling,
    resolve_settings,
)
from emu3.inference.requests import VideoRequest
from emu3.inference.sampling import SamplingParams
from emu3.inference.sequences import STEP_WIDTH, TextSequence, VisualSequence
from emu3.inference.validation import (
    SHORTER_VIDEO,
    check_context,
    check_seed,
    context_error,
    given_frames,
    num_frames,
)
from emu3.outputs import VideoSettings
from emu3.processing.document_format import VideoCodes
from emu3.processing.vision_processor import FrameGroup

DEFAULT_FPS = 8.0


@dataclass(frozen=True)
class ContextWindow:
    """One document of a video.

    `before` groups of frames precede it, `context` groups at its beginning are read and not
    generated, and it stands for `frames` frames.
    """

    before: int
    context: int
    frames: int


@dataclass(frozen=True)
class VideoPlan:
    """A video to be generated. `extra_prompt_tokens` leaves room for a caption to come."""

    checkpoint: Checkpoint
    settings: VideoSettings
    grid: tuple[int, int]  # height and width in codes
    extra_prompt_tokens: int = 0

    def prompts(self, frames: int) -> list[list[int]]:
        """The prompt of a video of so many frames, and with guidance the negative prompt."""
        settings, prompts = self.settings, self.checkpoint.prompts
        texts = [settings.prompt + settings.suffix, settings.negative_prompt]
        guided = settings.guidance_scale != 1
        return [
            prompts.video(text, self.grid, settings.fps, frames) for text in texts[: 1 + guided]
        ]

    def token_counts(self, frames: int) -> tuple[int, int]:
        """Tokens of the longest prompt of a video of so many frames, and of the video itself."""
        document_format = self.checkpoint.prompts.document_format
        length = document_format.num_tokens(*self.grid, document_format.num_groups(frames))
        prompt = max(map(len, self.prompts(frames))) + self.extra_prompt_tokens
        return prompt, length

    @property
    def _limit(self) -> int:
        return self.checkpoint.decoder.config.max_position_embeddings

    def single_window(self, frames: int, num_known: int) -> list[ContextWindow]:
        """The whole video after `num_known` groups. Raises InputError beyond the context."""
        check_context(self._limit, *self.token_counts(frames), "video", SHORTER_VIDEO)
        return [ContextWindow(0, num_known, frames)]

    def sliding_windows(self, frames: int, num_known: int) -> list[ContextWindow]:
        """As many windows after `num_known` groups as `frames` need. Raises InputError."""
        group, windows = self.checkpoint.vision_processor.frames_per_group, list[ContextWindow]()
        while num_known < self.checkpoint.prompts.document_format.num_groups(frames):
            context, new = self.next_window(num_known, frames)
            before = num_known - context
            last = min(frames - before * group, (context + new) * group)
            windows.append(ContextWindow(before, context, last))
            num_known += new
        return windows

    def next_window(self, num_known: int, frames: int) -> tuple[int, int]:
        """How many groups are read next, and how many generated, towards `frames` in all.

        As many as fit; at least half of them are read, or all that there are. Raises InputError
        where the context does not hold two groups.
        """
        document_format, limit = self.checkpoint.prompts.document_format, self._limit
        left = document_format.num_groups(frames) - num_known
        most = min(num_known + left, limit // document_format.num_tokens(*self.grid))
        for total in range(most, 1, -1):  # groups of the window, read and generated
            new = min(left, max(total // 2, total - num_known))
            before = (num_known + new - total) * document_format.frames_per_group
            window_frames = min(frames - before, total * document_format.frames_per_group)
            if sum(self.token_counts(window_frames)) <= limit:
                return total - new, new
        prompt, length = self.token_counts(2 * document_format.frames_per_group)
        advice = "use smaller frames or a shorter text"
        raise context_error(limit, prompt, length, "two groups of frames", advice)

    def sequence(self, window: ContextWindow, codes: Tensor) -> VisualSequence:
        """The sequence of a window, after its share of the video's codes [t, h, w]."""
        document_format = self.checkpoint.prompts.document_format
        settings = self.settings
        return VisualSequence(
            self.prompts(window.frames),
            self.grid,
            settings.seed,
            document_format,
            resolve_sampling(settings),
            settings.guidance_scale,
            groups=document_format.num_groups(window.frames),
            known=codes[window.before : window.before + window.context],
            frame_offset=window.before,
        )


class VideoRequestState(RequestState):
    """A video: its windows one after another, a caption before them where one is wanted."""

    kind = "video"

    def __init__(self, checkpoint: Checkpoint, request: VideoRequest) -> None:
        """Check a request. Raises InputError."""
        check_seed(request.seed)
        grid, self.given, frames_before = given_frames(checkpoint, request)
        self.request = request
        self.captions = (
            request.prompt is None
            and request.video is not None
            and can_caption(checkpoint.defaults)
        )
        settings = _settings(checkpoint, request, grid, self.given, self.captions)
        extra = MAX_CAPTION_TOKENS if self.captions else 0
        self.plan = VideoPlan(checkpoint, settings, grid, extra)
        self.frames = frames_before + num_frames(request.seconds, settings.fps)
        self.windows = self._plan_windows()
        groups = checkpoint.prompts.document_format.num_groups(self.frames)
        blank = torch.zeros(groups, *grid, dtype=torch.long)
        sequences = [self.plan.sequence(window, blank) for window in self.windows]
        generates = not all(sequence.done for sequence in sequences)
        kv_tokens_per_row = max(sequence.kv_tokens_per_row for sequence in sequences)
        if self.captions:  # the windows follow from the caption's length
            kv_tokens_per_row = checkpoint.decoder.config.max_position_embeddings + STEP_WIDTH
        num_rows = len(sequences[0].prompts)
        super().__init__(checkpoint, num_rows * generates, kv_tokens_per_row * generates)
        self.prompt_tokens = len(sequences[0].prompts[0])
        self.decoded: list[Tensor] = []
        self.known = torch.empty(0, *grid, dtype=torch.long)

    def _plan_windows(self) -> list[ContextWindow]:
        if self.request.video is None:
            return self.plan.single_window(self.frames, self.given)
        return self.plan.sliding_windows(self.frames, self.given)

    @property
    def total_groups(self) -> int:
        """Groups of frames of the whole video."""
        return self.checkpoint.prompts.document_format.num_groups(self.frames)

    def spec(self) -> VideoSpec:
        """What the video will be."""
        height, width = self.plan.grid
        factor = self.checkpoint.vision_processor.vision.config.spatial_factor
        return VideoSpec(width * factor, height * factor, self.frames, self.plan.settings.fps)

    def start(self) -> None:
        """Encode what is given; begin with the caption or with the first window."""
        self.known = self._encode_given()
        prompt = None
        if self.captions and self.num_rows:
            prompt = caption_prompt_ids(self.checkpoint, self.known, self.plan.settings.fps)
        if prompt is None:
            self._begin("" if self.captions else self.plan.settings.prompt)
            return
        limit = self.checkpoint.decoder.config.max_position_embeddings
        self.sequence = TextSequence(
            prompt,
            min(MAX_CAPTION_TOKENS, limit - len(prompt)),
            SamplingParams(top_k=1),
            0,
            self.checkpoint.text_tokenizer.vocabulary.eos,
        )

    def _encode_given(self) -> Tensor:
        request, processor = self.request, self.checkpoint.vision_processor
        if request.image is not None:
            return processor.encode(request.image)[None]
        if request.video is None:
            return self.known
        if isinstance(request.video, VideoCodes):
            return request.video.codes[: self.given].long()
        return processor.encode(request.video.frames[: self.given * processor.frames_per_group])

    def _begin(self, prompt: str) -> None:
        """Plan the windows with the final prompt and begin the first."""
        settings = replace(self.plan.settings, prompt=prompt)
        self.plan = VideoPlan(self.checkpoint, settings, self.plan.grid)
        self.windows = self._plan_windows()
        self._next_window()
        self.prompt_tokens = len(self.sequence.prompts[0])

    def _next_window(self) -> None:
        self.window = self.windows.pop(0)
        self.sequence: VisualSequence | TextSequence = self.plan.sequence(self.window, self.known)

    @property
    def codes(self) -> Tensor:
        """All finished groups of codes, [t, h, w]."""
        if not isinstance(self.sequence, VisualSequence):
            return self.known
        return torch.cat([self.known[: self.window.before], self.sequence.finished_frames()])

    def advance(self) -> list[Event | DecodeJob]:
        """Decode finished groups; the next window when one is done; the video at the end."""
        sequence = self.sequence
        if isinstance(sequence, TextSequence):
            if sequence.done:
                self._begin(self._caption(sequence.ids))
            return []
        out: list[Event | DecodeJob] = list(self._new_frames())
        if not sequence.done:
            return out
        if self.windows:
            self.known = self.codes
            self._next_window()
            return out
        frames = torch.cat(self.decoded)
        return [*out, VideoResult(frames, self.codes, self.plan.settings, self.prompt_tokens)]

    def _caption(self, ids: list[int]) -> str:
        """The caption's text, cut so that it has the tokens that were planned for."""
        text = decode_text(self.checkpoint, ids)
        while len(self.checkpoint.text_tokenizer.encode(text)) > MAX_CAPTION_TOKENS:
            text = text[:-1]  # ids that are invalid UTF-8 become more ids when encoded again
        return text

    def _new_frames(self) -> list[VideoFrames]:
        """Decode the groups that were finished since the last call."""
        processor, codes, new = self.checkpoint.vision_processor, self.codes, list[VideoFrames]()
        for index in range(len(self.decoded), len(codes)):
            count = min(
                processor.frames_per_group, self.frames - index * processor.frames_per_group
            )
            group = FrameGroup(codes[index : index + 1], count)
            frames = [torch.as_tensor(frame) for frame in processor.decode_frames([group])]
            self.decoded.append(torch.stack(frames))
            new.append(
                VideoFrames(index + 1, self.total_groups, self.decoded[-1], self.plan.settings)
            )
        return new


def _settings(
    checkpoint: Checkpoint,
    request: VideoRequest,
    grid: tuple[int, int],
    given: int,
    captions: bool,
) -> VideoSettings:
    """Everything that decides the video."""
    guidance = request.guidance_scale
    if captions and guidance is None and request.negative_prompt is None:
        # The caption describes the given frames; guiding towards it makes the new ones drift.
        guidance = 1.0
    generation = resolve_settings(
        checkpoint,
        suffix=request.suffix,
        negative_prompt=request.negative_prompt,
        guidance_scale=guidance,
        sampling=request.sampling,
    )
    resolve_sampling(generation)  # refuses defaults out of range before anything is planned
    ratio, area = ratio_and_area(checkpoint, grid)
    if request.size is None and request.image is None and request.video is None:
        ratio = request.ratio or "1:1"
        area = checkpoint.decoder.config.image_area if request.area is None else request.area
    fps = DEFAULT_FPS if request.fps is None else request.fps
    return VideoSettings(
        prompt=request.prompt or "",
        ratio=ratio,
        area=area,
        seconds=request.seconds,
        fps=fps if request.video is None else request.video.fps,
        seed=request.seed,
        given=given,
        model=checkpoint.name,
        dtype=checkpoint.precision,
        **asdict(generation),
    )
