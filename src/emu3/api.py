"""`Emu3`, the Python API: a checkpoint and a synchronous client of the engine.

Arguments become requests (`inference/requests.py`), the engine validates and serves them in the
caller's thread, and events become results and callbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.checkpoints.weights import OnBytes
from emu3.config import DecoderConfig
from emu3.errors import InputError
from emu3.inference.conversation import Conversation
from emu3.inference.engine import Engine
from emu3.inference.events import (
    ChatResult,
    Event,
    ImageResult,
    PartialText,
    RowProgress,
    VideoFrames,
    VideoResult,
)
from emu3.inference.inputs import VideoSource, encode_video
from emu3.inference.optimize import optimize_for_inference, optimize_vision_tokenizer
from emu3.inference.request_states import resolve_sampling
from emu3.inference.requests import ChatRequest, ImageRequest, VideoRequest
from emu3.inference.sampling import SamplingParams
from emu3.inference.validation import check_seed, requested_grid
from emu3.models.precision import Precision
from emu3.outputs import ImageOutput, VideoOutput
from emu3.processing.document_format import VideoCodes
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.video import Frame

OnRow = Callable[[int, int, Sequence[Tensor]], None]
"""Called when rows of codes are finished: how many are, of how many in all images together, and
the finished codes of each image, [r, w]."""

OnGroup = Callable[[VideoFrames], None]
"""Called with each group of frames when it is finished."""


@dataclass(frozen=True)
class Emu3:
    """A decoder, its text tokenizer and a vision tokenizer, on one device."""

    checkpoint: Checkpoint

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "nano",
        *,
        vision: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | Precision | None = None,
        on_bytes: OnBytes = lambda done, total: None,
    ) -> Emu3:
        """Load `"nano"` (part of this package), a folder, or a hub id, in any known format.

        `vision` names the vision tokenizer where it is not found automatically. The default device
        is CUDA if there is one. `dtype` is the decoder's precision, `"fp32"`, `"bf16"`, `"int8"` or
        `"int4"`, applied while the weights are read; by default the widest in which one image fits
        the free memory, at most bfloat16 on CUDA. The vision tokenizer always runs in float32, in
        which its codes are defined. `on_bytes` reports bytes of the decoder that are read.
        Raises InputError when anything is missing, broken or not supported.

        Both networks are optimized for inference (`inference/optimize.py`); `load_checkpoint`
        returns ones that can be trained and saved.
        """
        checkpoint = load_checkpoint(model, vision, DeviceConfig.resolve(device, dtype), on_bytes)
        optimize_for_inference(checkpoint.decoder, checkpoint.text_tokenizer.vocabulary.visual)
        optimize_vision_tokenizer(checkpoint.vision_processor.vision)
        return cls(checkpoint)

    @property
    def config(self) -> DecoderConfig:
        """The decoder's `config.json`."""
        return self.checkpoint.decoder.config

    @property
    def text_tokenizer(self) -> TextTokenizer:
        """The BPE tokenizer: `.encode(text) -> list[int]`, `.decode(ids) -> str`."""
        return self.checkpoint.text_tokenizer

    def image(
        self,
        prompt: str | Sequence[str],
        *,
        ratio: str | Sequence[str] = "1:1",
        area: int | None = None,
        negative_prompt: str | None = None,
        suffix: str | None = None,
        guidance_scale: float | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        temperature: float | None = None,
        num_images: int = 1,
        seed: int = 0,
        allow_special: bool = False,
        on_row: OnRow | None = None,
    ) -> ImageOutput:
        """Generate images: `num_images` for each prompt, prompt by prompt.

        `area` is in pixels, approximate; `ratio` is width:height, one for all or one per prompt.
        `suffix`, `negative_prompt`, `guidance_scale` and the sampling parameters default to the
        checkpoint's generation defaults, for BAAI's guidance 3.0, top_k 2048, temperature 1.0.
        Image i is generated with seed `seed + i` and has the same codes alone or in a batch.
        `top_k=1` is greedy. Raises InputError on arguments out of range, naming the limit.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        ratios = [ratio] * len(prompts) if isinstance(ratio, str) else list(ratio)
        if not prompts:
            raise InputError("no prompt given")
        if len(ratios) != len(prompts):
            raise InputError(f"{len(prompts)} prompts but {len(ratios)} ratios")
        if num_images < 1:
            raise InputError(f"num_images = {num_images} must be at least 1")
        check_seed(seed, len(prompts) * num_images)
        requests = [
            ImageRequest(
                text,
                ratio=shape,
                area=area,
                seed=seed + index * num_images + number,
                sampling=self._sampling(top_k, top_p, temperature),
                guidance_scale=guidance_scale,
                negative_prompt=negative_prompt,
                suffix=suffix,
                allow_special=allow_special,
            )
            for index, (text, shape) in enumerate(zip(prompts, ratios, strict=True))
            for number in range(num_images)
        ]
        on_event = None if on_row is None else _RowReporter(on_row, self._sizes(requests))
        results = Engine(self.checkpoint).run(requests, on_event)
        images = [result for result in results if isinstance(result, ImageResult)]
        return ImageOutput(
            [each.image for each in images],
            [each.codes for each in images],
            [each.settings for each in images],
        )

    def _sizes(self, requests: Sequence[ImageRequest]) -> list[tuple[int, int]]:
        """Height and width in codes of each image."""
        return [requested_grid(self.checkpoint, r.size, r.ratio, r.area) for r in requests]

    def video(
        self,
        prompt: str,
        *,
        ratio: str | None = None,
        area: int | None = None,
        seconds: float = 2.0,
        fps: float = 8.0,
        image: Image.Image | None = None,
        negative_prompt: str | None = None,
        suffix: str | None = None,
        guidance_scale: float | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        temperature: float | None = None,
        seed: int = 0,
        on_group: OnGroup | None = None,
    ) -> VideoOutput:
        """Generate a video of `seconds` at `fps`, rounded to whole frames, at least one.

        `image` is its first four frames, which are identical, and decides its size instead of
        `ratio` (default 1:1) and `area`. Other arguments are those of `image`. `on_group` gets
        every four frames when they are finished. Raises InputError on arguments out of range.
        """
        request = VideoRequest(
            prompt,
            seconds=seconds,
            fps=fps,
            ratio=ratio,
            area=area,
            image=image,
            seed=seed,
            sampling=self._sampling(top_k, top_p, temperature),
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            suffix=suffix,
        )
        return self._video(request, on_group)

    def extend(
        self,
        frames: Tensor | Iterable[Frame],
        *,
        seconds: float = 2.0,
        fps: float = 8.0,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        suffix: str | None = None,
        guidance_scale: float | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        temperature: float | None = None,
        seed: int = 0,
        on_group: OnGroup | None = None,
    ) -> VideoOutput:
        """Continue a clip, frames [T, H, W, 3] uint8 of rate `fps`, for `seconds` more.

        The result has the old frames as the vision tokenizer reconstructs them, and the new ones. A
        last group of fewer than four frames is dropped and generated anew. Any length is possible:
        a longer clip is generated in overlapping context windows. `prompt` says what happens;
        without one, a checkpoint that can describe clips writes it (`inference/captioning.py`),
        `settings.prompt` has it, and guidance is 1 unless it or a `negative_prompt` is given. Other
        arguments are those of `video`.
        Raises InputError on fewer than four frames, and where the context holds no two groups.
        """
        groups = list(self.checkpoint.vision_processor.encode_frames(frames))
        count = sum(group.frames for group in groups)
        codes = torch.cat([group.codes for group in groups]) if groups else torch.empty(0, 1, 1)
        if count < self.checkpoint.vision_processor.frames_per_group:
            least = self.checkpoint.vision_processor.frames_per_group
            raise InputError(
                f"a clip of {count} frames is too short; a continuation needs {least} or more"
            )
        request = VideoRequest(
            prompt,
            seconds=seconds,
            video=VideoCodes(codes, fps, count),
            seed=seed,
            sampling=self._sampling(top_k, top_p, temperature),
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            suffix=suffix,
        )
        return self._video(request, on_group)

    def _video(self, request: VideoRequest, on_group: OnGroup | None) -> VideoOutput:
        def on_event(index: int, event: Event) -> None:
            if on_group is not None and isinstance(event, VideoFrames):
                on_group(event)

        (result,) = Engine(self.checkpoint).run([request], on_event)
        assert isinstance(result, VideoResult)
        return VideoOutput(result.frames, result.codes, result.fps, result.settings)

    def _sampling(
        self, top_k: int | None, top_p: float, temperature: float | None
    ) -> SamplingParams:
        """Sampling parameters, the checkpoint's defaults where None."""
        defaults = self.checkpoint.defaults
        return resolve_sampling(defaults.resolve(top_k=top_k, top_p=top_p, temperature=temperature))

    def chat(
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
        allow_special: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Answer a question about images and videos (or none); greedy by default.

        A video is `video.open_clip(path, fps)`, a `VideoOutput`, or `video.Clip(frames, fps)`.
        `on_text` gets the whole answer so far after each token.
        """
        return self.chat_batch(
            [text],
            [list(images)],
            [list(videos)],
            max_new_tokens=max_new_tokens,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            seed=seed,
            allow_special=allow_special,
            on_text=on_text,
        )[0]

    def conversation(self) -> Conversation:
        """A conversation that keeps its KV cache: `.say(text, images, videos)`."""
        return Conversation(self.checkpoint)

    def chat_batch(
        self,
        texts: Sequence[str],
        images: Sequence[Image.Image | Sequence[Image.Image]],
        videos: Sequence[Sequence[VideoSource]] | None = None,
        *,
        max_new_tokens: int = 1024,
        top_k: int = 1,
        top_p: float = 1.0,
        temperature: float = 1.0,
        seed: int = 0,
        allow_special: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> list[str]:
        """`chat` for several questions at once, each with its images and then its videos.

        The answers are those of single calls; question i has seed `seed + i`. `on_text` follows the
        first.
        """
        sampling = SamplingParams(top_k, top_p, temperature)
        if not texts or len(texts) != len(images):
            raise InputError(f"{len(texts)} questions but {len(images)} groups of images")
        clips = [()] * len(texts) if videos is None else videos
        if len(texts) != len(clips):
            raise InputError(f"{len(texts)} questions but {len(clips)} groups of videos")
        check_seed(seed, len(texts))
        requests = [
            ChatRequest(
                text,
                images=(group,) if isinstance(group, Image.Image) else tuple(group),
                videos=tuple(encode_video(self.checkpoint, clip) for clip in moving),
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                seed=seed + index,
                stream=on_text is not None and index == 0,
                allow_special=allow_special,
            )
            for index, (text, group, moving) in enumerate(zip(texts, images, clips, strict=True))
        ]

        def on_event(index: int, event: Event) -> None:
            if on_text is not None and isinstance(event, PartialText):
                on_text(event.text)

        results = Engine(self.checkpoint).run(requests, on_event)
        answers = [result.text for result in results if isinstance(result, ChatResult)]
        if on_text is not None:
            on_text(answers[0])
        return answers

    def encode(self, image: Image.Image | Tensor) -> Tensor:
        """An image to codes [h, w]; frames [T, H, W, 3] uint8 to codes [t, h, w].

        An image is resized by the checkpoint's preprocessor. Frames are encoded in groups of four,
        each on its own; raises InputError when they fill no whole group.
        """
        return self.checkpoint.vision_processor.encode(image)

    def decode(self, codes: Tensor) -> Image.Image | Tensor:
        """Codes [h, w] to an image; codes [t, h, w] to frames [4t, 8h, 8w, 3] uint8.

        Raises InputError on another shape or on codes outside the codebook.
        """
        return self.checkpoint.vision_processor.decode(codes)


class _RowReporter:
    """Turns the row events of several images into calls of `on_row`."""

    def __init__(self, on_row: OnRow, sizes: Sequence[tuple[int, int]]) -> None:
        self.on_row, self.total = on_row, sum(height for height, _ in sizes)
        self.rows = [torch.empty(0, width, dtype=torch.long) for _, width in sizes]

    def __call__(self, index: int, event: Event) -> None:
        if isinstance(event, RowProgress):
            self.rows[index] = event.codes
            self.on_row(sum(map(len, self.rows)), self.total, list(self.rows))
