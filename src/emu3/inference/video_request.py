"""A video as the engine works on it: checked and measured, begun, and told frame by frame.

It is drawn as a picture of several frames of codes, among pictures. One that is longer than the
context comes to a batch as one document after another, each read anew in the place of the last.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.request_handle import RequestHandle
from emu3.inference.requests import (
    EncodedVideo,
    VideoFrames,
    VideoInput,
    VideoRequest,
    VideoResult,
    VideoSpec,
)
from emu3.inference.sampling import SamplingParams
from emu3.inference.speculative import JacobiDecoder, VisualSequence, draft_length_for
from emu3.inference.token_counts import image_grid_size, requested_grid_size, video_grid_size
from emu3.inference.video import (
    ContextWindow,
    VideoPlan,
    VideoRun,
    num_frames,
    ratio_and_area,
    video_settings,
)
from emu3.outputs import VideoSettings
from emu3.processing.video import Frame
from emu3.processing.vision_processor import VisionProcessor

FPS = 8.0  # where nobody says, as in `Emu3.video`


@dataclass(eq=False)
class VideoJob:
    """A video to be made."""

    request: VideoRequest
    ticket: RequestHandle
    film: VideoPlan
    frames: int
    documents: list[ContextWindow]
    sampling: SamplingParams
    guidance: float
    prompt_ids: int
    rows: int  # two with guidance; none where all is given and nothing is to be drawn
    room: int
    take: VideoRun | None = None  # once it is begun
    shown: list[Image.Image] = field(default_factory=list)

    @property
    def key(self) -> Hashable:
        """It shares passes with pictures of its sampling and guidance."""
        return (self.sampling, self.guidance) if self.rows else self

    @property
    def picture(self) -> VisualSequence:
        """The document that is drawn now."""
        assert self.take is not None
        return self.take.picture

    def begin(self, vision_processor: VisionProcessor) -> None:
        """Bring what is given to codes."""
        self.take = VideoRun(self.film, self.frames, self.documents, self._known(vision_processor))

    def _known(self, vision_processor: VisionProcessor) -> Tensor:
        request = self.request
        if request.image is not None:
            return vision_processor.encode(request.image)[None]
        if isinstance(request.footage, EncodedVideo):
            return torch.tensor(request.footage.codes)[
                : request.footage.frames // vision_processor.group
            ]
        if request.footage is None:
            return torch.empty(0, *self.film.size, dtype=torch.long)
        whole = len(request.footage.frames) // vision_processor.group * vision_processor.group
        groups = vision_processor.encode_frames(arrays(request.footage, whole))
        return torch.cat([group.codes for group in groups])

    def turn(self) -> bool:
        """Go on to the next document, the last one being done; False if that was the end."""
        assert self.take is not None
        return self.take.turn()

    def tell(self, vision_processor: VisionProcessor) -> None:
        """Decode the groups that are finished, and tell of each."""
        assert self.take is not None
        for group in self.take.fresh():
            new = tuple(Image.fromarray(frame) for frame in vision_processor.decode_frames([group]))
            self.shown += new
            done = -(-len(self.shown) // vision_processor.group)
            self.ticket.tell(VideoFrames(done, self.take.total, new))

    def measured(self) -> VideoSpec:
        """What it will be."""
        height, width = self.film.size
        factor = self.film.checkpoint.vision_processor.vision.config.spatial_factor
        return VideoSpec(width * factor, height * factor, self.frames, self.film.settings.fps)

    def filmed(self) -> VideoResult:
        """Its end, once all is drawn and told."""
        assert self.take is not None
        codes = tuple(tuple(map(tuple, group)) for group in self.take.codes.tolist())
        settings = self.film.settings
        return VideoResult(tuple(self.shown), settings.fps, codes, self.prompt_ids, settings)


def arrays(reel: VideoInput, most: int | None = None) -> Iterator[Frame]:
    """The frames of a clip as arrays [H, W, 3] uint8."""
    for frame in reel.frames[:most]:
        yield np.array(frame.convert("RGB"))  # a copy, which may be written to


def plan_video(checkpoint: Checkpoint, request: VideoRequest, ticket: RequestHandle) -> VideoJob:
    """Check and measure a video. Raises InputError on whatever could not be done."""
    size, have, before = given(checkpoint, request)
    film = VideoPlan(checkpoint, settings_of(checkpoint, request, size, have), size)
    frames = before + num_frames(request.seconds, film.settings.fps)
    slides = request.footage is not None
    documents = film.several(frames, have) if slides else film.one(frames, have)
    blank = torch.zeros(
        checkpoint.prompts.document_format.num_groups(frames), *size, dtype=torch.long
    )
    pictures = [film.picture(document, blank) for document in documents]
    model, scale, sampling = checkpoint.decoder, film.settings.guidance_scale, film.sampling()
    widest = JacobiDecoder(
        model, checkpoint.prompts.document_format, sampling, scale, draft_length_for(model, 1)
    )
    draws = not all(picture.done for picture in pictures)
    return VideoJob(
        request,
        ticket,
        film,
        frames,
        documents,
        sampling,
        scale,
        prompt_ids=len(pictures[0].prompts[0]),
        rows=len(pictures[0].prompts) if draws else 0,
        room=max(map(widest.room, pictures)) if draws else 0,
    )


def given(checkpoint: Checkpoint, request: VideoRequest) -> tuple[tuple[int, int], int, int]:
    """Size in codes, groups that are given, and frames that come before the new ones.

    Raises InputError on what decides something twice, or cannot be gone on with.
    """
    image, footage, group = request.image, request.footage, checkpoint.vision_processor.group
    shaped = request.size or request.ratio or request.area
    if footage is not None and (image is not None or request.fps is not None):
        raise InputError("the clip decides how it begins and its rate; leave out image and fps")
    if (footage is not None or image is not None) and shaped:
        what = "picture" if footage is None else "clip"
        raise InputError(f"the {what} decides the size; leave out size, ratio and area")
    if image is not None:
        return image_grid_size(checkpoint, image), 1, 0
    if footage is None:
        ratio = request.ratio or "1:1"
        return requested_grid_size(checkpoint, request.size, ratio, request.area), 0, 0
    if isinstance(footage, EncodedVideo):
        size, count = size_of_coded(checkpoint, footage), footage.frames
    else:
        size, count = video_grid_size(checkpoint, footage), len(footage.frames)
    if count < group:
        raise InputError(f"a clip of {count} frames; {group} at least can be gone on with")
    return size, count // group, count


def size_of_coded(checkpoint: Checkpoint, footage: EncodedVideo) -> tuple[int, int]:
    """Height and width in codes. Raises InputError on codes that are not this model's."""
    try:
        codes = torch.tensor(footage.codes)
    except (TypeError, ValueError, OverflowError):
        raise InputError("codes[t][h][w] are rows of one length") from None
    groups = checkpoint.prompts.document_format.num_groups(footage.frames)
    if codes.ndim != 3 or not codes.numel() or len(codes) != groups:
        raise InputError(f"codes {list(codes.shape)} do not stand for {footage.frames} frames")
    most = checkpoint.vision_processor.vision.quantize.size
    if codes.dtype != torch.long or codes.min() < 0 or codes.max() >= most:
        raise InputError(f"codes must be integers in 0 to {most - 1}")
    return codes.shape[1], codes.shape[2]


def settings_of(
    checkpoint: Checkpoint, request: VideoRequest, size: tuple[int, int], have: int
) -> VideoSettings:
    """What decides the video, in the words of `Emu3.video`."""
    ratio, area = ratio_and_area(checkpoint, size)
    if request.ratio or request.area:
        ratio = request.ratio or "1:1"
        area = checkpoint.decoder.config.image_area if request.area is None else request.area
    sampling, fps = request.sampling, FPS if request.fps is None else request.fps
    manner = checkpoint.defaults.resolve(
        suffix=request.suffix,
        negative_prompt=request.negative,
        guidance_scale=request.guidance,
        top_k=None if sampling is None else sampling.top_k,
        top_p=None if sampling is None else sampling.top_p,
        temperature=None if sampling is None else sampling.temperature,
    )
    return video_settings(
        checkpoint,
        manner,
        prompt=request.prompt,
        ratio=ratio,
        area=area,
        seconds=request.seconds,
        fps=fps if request.footage is None else request.footage.fps,
        seed=request.seed,
        given=have,
    )
