"""Videos: drawn from words, gone on with, and brought before a question. The moving half of `Emu3`.

A video is drawn as one document, behind a header that says its length. A longer one slides: its
last frames of codes stand behind a new header, and what follows them is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from emu3.checkpoints.generation_defaults import GenerationSettings
from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.sampling import SamplingParams
from emu3.inference.speculative import JacobiDecoder, VisualSequence, draft_length_for
from emu3.inference.validation import check_context, check_guidance, check_seed
from emu3.outputs import VideoOutput, VideoSettings
from emu3.processing.document_format import VideoCodes, fps_and_duration
from emu3.processing.video import Frame
from emu3.processing.vision_processor import FrameGroup

SHORTER = "use fewer seconds, a lower fps, a smaller area or a shorter text"


class VideoSource(Protocol):
    """What a question may be about: `video.Clip`, `VideoOutput`, or anything with these two."""

    @property
    def frames(self) -> Iterable[Frame | Tensor]:
        """Frames [H, W, 3] uint8, all of one size; [T, H, W, 3] is so many of them."""

    @property
    def fps(self) -> float:
        """Frames a second."""


@dataclass(frozen=True)
class VideoProgress:
    """The next frames of a video that is being made: [n, H, W, 3] uint8, the `done`-th of `total`
    groups. Groups come in order, those that were given first.
    """

    done: int
    total: int
    frames: Tensor
    settings: VideoSettings


OnGroup = Callable[[VideoProgress], None]
"""Called with each group of frames as it is finished."""


def num_frames(seconds: float, fps: float) -> int:
    """Whole frames in so many seconds, at least one; raises InputError on what has no length."""
    fps_and_duration(fps, 1)  # what no header could say is refused
    if not 0 < seconds < math.inf:
        raise InputError(f"seconds = {seconds} must be above 0")
    return max(1, round(seconds * fps))


def video_settings(
    checkpoint: Checkpoint,
    manner: GenerationSettings,
    *,
    prompt: str,
    ratio: str,
    area: int,
    seconds: float,
    fps: float,
    seed: int,
    given: int,
) -> VideoSettings:
    """The settings of a video by this checkpoint."""
    return VideoSettings(
        prompt=prompt,
        ratio=ratio,
        area=area,
        seconds=seconds,
        fps=fps,
        seed=seed,
        given=given,
        model=checkpoint.name,
        dtype=checkpoint.precision,
        **asdict(manner),
    )


def ratio_and_area(checkpoint: Checkpoint, size: tuple[int, int]) -> tuple[str, int]:
    """Ratio (width:height) and area in pixels of so many codes in height and width."""
    (height, width), factor = size, checkpoint.vision_processor.vision.config.spatial_factor
    common = math.gcd(height, width)
    return f"{width // common}:{height // common}", height * width * factor**2


def encode_video(checkpoint: Checkpoint, footage: VideoSource) -> VideoCodes:
    """A video in codes, as a document has it.

    Raises InputError on no frames, and as soon as they are more than the context holds.
    """
    document_format, limit = (
        checkpoint.prompts.document_format,
        checkpoint.decoder.config.max_position_embeddings,
    )
    groups: list[FrameGroup] = []
    for group in checkpoint.vision_processor.encode_frames(footage.frames):
        groups.append(group)
        _, height, width = group.codes.shape
        if document_format.num_tokens(height, width, len(groups)) > limit:
            raise InputError(
                f"a video of {document_format.group * len(groups)} frames or more exceeds the context of "
                f"{limit}; cut it, or take a lower fps"
            )
    if not groups:
        raise InputError("a video without frames")
    codes = torch.cat([group.codes for group in groups])
    return VideoCodes(codes, footage.fps, sum(group.frames for group in groups))


@dataclass(frozen=True)
class ContextWindow:
    """A window of a video: groups `before` it, groups read at its beginning (`context`), and all
    the frames that it stands for.
    """

    before: int
    context: int
    frames: int


@dataclass(frozen=True)
class VideoPlan:
    """One video to be made, and with which model."""

    checkpoint: Checkpoint
    settings: VideoSettings
    size: tuple[int, int]  # codes in height and width
    on_group: OnGroup | None = None

    def __post_init__(self) -> None:
        """Raise InputError on settings that make no video."""
        check_seed(self.settings.seed, 1)
        check_guidance(self.settings.guidance_scale)
        self.sampling()

    def sampling(self) -> SamplingParams:
        """How codes are drawn; raises InputError."""
        return SamplingParams(self.settings.top_k, self.settings.top_p, self.settings.temperature)

    def prompts(self, frames: int) -> list[list[int]]:
        """What a video of so many frames follows: the prompt, and that of the guidance branch."""
        said, prompts = self.settings, self.checkpoint.prompts
        texts = [said.prompt + said.suffix, said.negative_prompt]
        guided = said.guidance_scale != 1
        return [prompts.video(text, self.size, said.fps, frames) for text in texts[: 1 + guided]]

    def ids(self, frames: int) -> tuple[int, int]:
        """How long the longest prompt of a video of so many frames is, and the video itself."""
        document_format = self.checkpoint.prompts.document_format
        length = document_format.num_tokens(*self.size, document_format.num_groups(frames))
        return max(map(len, self.prompts(frames))), length

    def whole(self, frames: int, known: Tensor | None) -> VideoOutput:
        """Draw all in one document, behind the codes `known` [t, h, w].

        Raises InputError where it exceeds the context.
        """
        given = torch.empty(0, *self.size, dtype=torch.long) if known is None else known
        return self._made(VideoRun(self, frames, self.one(frames, len(given)), given))

    def slide(self, frames: int, known: Tensor) -> VideoOutput:
        """Go on with the codes `known` [t, h, w], t > 0, up to so many frames in all.

        The last groups are read and new ones drawn, window after window, as far as the context
        goes. Raises InputError where it does not hold two groups.
        """
        return self._made(VideoRun(self, frames, self.several(frames, len(known)), known))

    def one(self, frames: int, have: int) -> list[ContextWindow]:
        """The document of `whole`, behind `have` groups. Raises InputError as it does."""
        check_context(self._limit, *self.ids(frames), "video", SHORTER)
        return [ContextWindow(0, have, frames)]

    def several(self, frames: int, have: int) -> list[ContextWindow]:
        """The documents of `slide`, behind `have` groups. Raises InputError as it does."""
        group, found = self.checkpoint.vision_processor.group, list[ContextWindow]()
        while have < self.checkpoint.prompts.document_format.num_groups(frames):
            context, new = self.window(have, frames)
            before = have - context
            last = min(frames - before * group, (context + new) * group)
            found.append(ContextWindow(before, context, last))
            have += new
        return found

    def window(self, have: int, frames: int) -> tuple[int, int]:
        """How many groups are read next, and how many drawn behind them, towards `frames` in all.

        As many as fit; what is read is half of it at least, or all that there is.
        """
        document_format, limit = self.checkpoint.prompts.document_format, self._limit
        left = document_format.num_groups(frames) - have
        most = min(have + left, limit // document_format.num_tokens(*self.size))
        for both in range(most, 1, -1):
            new = min(left, max(both // 2, both - have))
            last = min(
                frames - (have + new - both) * document_format.group, both * document_format.group
            )
            if sum(self.ids(last)) <= limit:
                return both - new, new
        prompt, length = self.ids(2 * document_format.group)
        raise InputError(
            f"{prompt} ids of prompt and {length} of two groups of frames exceed the context of "
            f"{limit}; use smaller frames or a shorter text"
        )

    @property
    def _limit(self) -> int:
        return self.checkpoint.decoder.config.max_position_embeddings

    def picture(self, document: ContextWindow, codes: Tensor) -> VisualSequence:
        """What is to be drawn of a document, behind its share of the video's codes [t, h, w]."""
        known = codes[document.before : document.before + document.context]
        return VisualSequence(
            self.prompts(document.frames),
            self.size,
            self.settings.seed,
            codes=known.flatten().tolist(),
            groups=self.checkpoint.prompts.document_format.num_groups(document.frames),
            before=document.before,
        )

    def decoded(self, group: FrameGroup) -> Tensor:
        """The frames of a group, [n, H, W, 3] uint8."""
        frames = self.checkpoint.vision_processor.decode_frames([group])
        return torch.stack([torch.as_tensor(frame) for frame in frames])

    @torch.no_grad()
    def _made(self, take: VideoRun) -> VideoOutput:
        """Draw a take to its end, group by group told and decoded."""
        decoder, scale = self.checkpoint.decoder, self.settings.guidance_scale
        window = draft_length_for(decoder, len(take.picture.prompts))
        document_format, shown = self.checkpoint.prompts.document_format, list[Tensor]()
        drawing = JacobiDecoder(decoder, document_format, self.sampling(), scale, window)

        def show(active: Sequence[VisualSequence]) -> None:
            for group in take.fresh():
                shown.append(self.decoded(group))
                if self.on_group is not None:
                    told = VideoProgress(len(shown), take.total, shown[-1], self.settings)
                    self.on_group(told)

        show([])  # what was given
        going_on = True
        while going_on:
            drawing.run([take.picture], show)
            going_on = take.turn()
        return VideoOutput(torch.cat(shown), take.codes, self.settings.fps, self.settings)


class VideoRun:
    """A film on its way, one document after another, whoever draws them.

    `picture` is what is drawn now. Once it is done, `turn` puts the next one in its place.
    """

    def __init__(
        self, film: VideoPlan, frames: int, documents: Sequence[ContextWindow], known: Tensor
    ) -> None:
        """A video of so many frames, behind the codes `known` [t, h, w]."""
        self.film, self.frames, self.known = film, frames, known
        self.total = film.checkpoint.prompts.document_format.num_groups(frames)
        self.document, *self.left = documents
        self.picture = film.picture(self.document, known)
        self.given = 0  # groups that `fresh` gave

    @property
    def done(self) -> int:
        """Groups that are finished."""
        return self.document.before + len(self.picture.codes) // self.picture.frame

    @property
    def codes(self) -> Tensor:
        """All groups that are finished, [t, h, w]."""
        return torch.cat([self.known[: self.document.before], self.picture.frames()])

    def fresh(self) -> list[FrameGroup]:
        """The groups finished since this was last asked, each with its number of true frames."""
        if self.done == self.given:
            return []
        size, begin = self.film.checkpoint.vision_processor.group, self.given
        new, self.given = self.codes[begin:], self.done
        return [
            FrameGroup(codes[None], min(size, self.frames - (begin + index) * size))
            for index, codes in enumerate(new)
        ]

    def turn(self) -> bool:
        """Go on to the next document, the last one being done; False if that was the end."""
        if not self.left:
            return False
        self.known = self.codes
        self.document, *self.left = self.left
        self.picture = self.film.picture(self.document, self.known)
        return True
