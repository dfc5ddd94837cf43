"""`Emu3`: one door to a checkpoint. Strings, pictures and videos in, the same out.

image:  str → prompt → ids → generate → ids → document_format → codes → vision → pixels → picture
chat:   picture → pixels → vision → codes → document_format → ids → prompt → generate → text → str
video, extend: the same two walks with a time axis (`clips.py`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.checkpoints.weights import OnBytes
from emu3.config import DecoderConfig
from emu3.errors import InputError
from emu3.inference.captioning import can_caption, caption_video
from emu3.inference.conversation import Conversation
from emu3.inference.images import OnRow, check_request, draw
from emu3.inference.optimize import optimize_for_inference, optimize_vision_tokenizer
from emu3.inference.reference import generate_text
from emu3.inference.sampling import SamplingParams
from emu3.inference.validation import check_context, check_seed
from emu3.inference.video import (
    OnGroup,
    VideoPlan,
    VideoSource,
    encode_video,
    num_frames,
    ratio_and_area,
    video_settings,
)
from emu3.models.precision import Precision
from emu3.outputs import ImageOutput, ImageSettings, VideoOutput
from emu3.processing.image import size_in_codes
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.video import Frame


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
        """Open `"nano"` (inside this package), a folder, or a hub id, in any known layout.

        `vision` names the vision tokenizer where it is not found by itself. The default device is
        CUDA if there is one. `dtype` is the decoder's precision, `"fp32"`, `"bf16"`, `"int8"` or
        `"int4"`, reached while the weights are read; by default the widest in which a picture fits
        into the memory there is, bfloat16 at most on CUDA. The vision tokenizer always runs in
        float32, in which its codes are defined.
        `on_bytes` follows the reading of the decoder.
        Raises InputError when anything is missing, broken or not supported.

        Both networks are made ready to be run (`fuse.py`); `load_checkpoint` gives some that can be
        trained and saved.
        """
        checkpoint = load_checkpoint(model, vision, DeviceConfig.resolve(device, dtype), on_bytes)
        optimize_for_inference(checkpoint.decoder, checkpoint.text_tokenizer.vocabulary.visual)
        optimize_vision_tokenizer(checkpoint.vision_processor.vision)
        return cls(checkpoint)

    @property
    def config(self) -> DecoderConfig:
        """What the checkpoint's `config.json` says."""
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
        """Draw pictures: `num_images` for each prompt, prompt by prompt.

        `area` is in pixels, about; `ratio` is width:height, one for all or one for each prompt.
        `suffix`, `negative_prompt` and how to sample default to what suits the checkpoint (its
        card): for BAAI's guidance 3.0, top_k 2048, temperature 1.0. Picture i is drawn with seed
        `seed + i`, and comes out the same alone or in a batch. `top_k=1` is greedy.
        Raises InputError on settings that make no picture, naming the limit.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        ratios = [ratio] * len(prompts) if isinstance(ratio, str) else list(ratio)
        manner = self.checkpoint.defaults.resolve(
            suffix=suffix,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
        )
        sampling = SamplingParams(manner.top_k, manner.top_p, manner.temperature)
        check_request(prompts, ratios, num_images, seed, manner.guidance_scale)
        area = self.config.image_area if area is None else area
        settings = [
            ImageSettings(
                prompt=text,
                ratio=shape,
                area=area,
                seed=seed + index * num_images + number,
                model=self.checkpoint.name,
                dtype=self.checkpoint.precision,
                **asdict(manner),
            )
            for index, (text, shape) in enumerate(zip(prompts, ratios, strict=True))
            for number in range(num_images)
        ]
        codes = draw(self.checkpoint, settings, sampling, allow_special, on_row)
        return ImageOutput(
            [self.checkpoint.vision_processor.decode_image(each) for each in codes], codes, settings
        )

    def video(
        self,
        prompt: str,
        *,
        ratio: str = "1:1",
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
        """Draw a video of `seconds` at `fps`, rounded to whole frames, at least one.

        `image` is its first four frames, which stand still, and decides its size instead of
        `ratio` and `area`. Other settings are those of `image`. `on_group` is told of every four
        frames as they are finished. Raises InputError on settings that make no video, naming the
        limit.
        """
        frames, known = num_frames(seconds, fps), None
        if image is not None:
            if ratio != "1:1" or area is not None:
                raise InputError("the picture decides the size; leave out ratio and area")
            known = self.encode(image)[None]
            ratio, area = ratio_and_area(self.checkpoint, (known.shape[1], known.shape[2]))
        area = self.config.image_area if area is None else area
        factor = self.checkpoint.vision_processor.vision.config.spatial_factor
        manner = self.checkpoint.defaults.resolve(
            suffix=suffix,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
        )
        settings = video_settings(
            self.checkpoint,
            manner,
            prompt=prompt,
            ratio=ratio,
            area=area,
            seconds=seconds,
            fps=fps,
            seed=seed,
            given=0 if known is None else 1,
        )
        size = size_in_codes(ratio, area, factor) if known is None else known.shape[1:]
        film = VideoPlan(self.checkpoint, settings, (size[0], size[1]), on_group)
        return film.whole(frames, known)

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
        """Go on with a clip, frames [T, H, W, 3] uint8 of rate `fps`, for `seconds` more.

        What comes back is all of it, the old frames as the vision tokenizer has them. A last group
        of fewer than four frames is dropped, and what it showed is drawn anew. Any length is
        possible: what the context does not hold at once slides through it. A `prompt` says what
        happens; without one, a checkpoint that can tell what it sees says so itself
        (`telling.py`), `settings.prompt` has its words, and guidance is 1 unless it or a
        `negative_prompt` is given. Other settings are those of `video`.
        Raises InputError on fewer than four frames, and where the context holds no two groups.
        """
        new = num_frames(seconds, fps)
        count, known = self._whole_groups(frames)
        if prompt is None:
            prompt = (
                caption_video(self.checkpoint, known, fps)
                if can_caption(self.checkpoint.defaults)
                else ""
            )
            if guidance_scale is None and negative_prompt is None:
                # To push towards words that only say what is seen pushes away from what is seen.
                guidance_scale = 1.0
        size = known.shape[1], known.shape[2]
        ratio, area = ratio_and_area(self.checkpoint, size)
        manner = self.checkpoint.defaults.resolve(
            suffix=suffix,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
        )
        settings = video_settings(
            self.checkpoint,
            manner,
            prompt=prompt,
            ratio=ratio,
            area=area,
            seconds=seconds,
            fps=fps,
            seed=seed,
            given=len(known),
        )
        return VideoPlan(self.checkpoint, settings, size, on_group).slide(count + new, known)

    def _whole_groups(self, frames: Tensor | Iterable[Frame]) -> tuple[int, Tensor]:
        """How many frames a clip has, and the codes [t, h, w] of its whole groups, one at least."""
        vision_processor, count, codes = self.checkpoint.vision_processor, 0, list[Tensor]()
        for group in vision_processor.encode_frames(frames):
            count += group.frames
            codes += [group.codes] * (group.frames == vision_processor.group)
        if not codes:
            least = vision_processor.group
            raise InputError(f"a clip of {count} frames; {least} at least can be gone on with")
        return count, torch.cat(codes)

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
        """Answer a question about pictures and videos (or none); greedy unless told otherwise.

        A video is `video.open_clip(path, fps)`, a `VideoOutput`, or `video.Clip(frames, fps)`.
        `on_text` is called with all of the answer so far, as it grows.
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
        """Several questions, with what was said before in mind: `.say(text, images, videos)`."""
        return Conversation(self.checkpoint)

    @torch.no_grad()
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
        """`chat` for several questions at once, each with its pictures and then its videos.

        Answers are the same as one at a time; `on_text` follows the first.
        """
        sampling = SamplingParams(top_k, top_p, temperature)
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens = {max_new_tokens} must be at least 1")
        if not texts or len(texts) != len(images):
            raise InputError(f"{len(texts)} questions but {len(images)} groups of pictures")
        clips = [()] * len(texts) if videos is None else videos
        if len(texts) != len(clips):
            raise InputError(f"{len(texts)} questions but {len(clips)} groups of videos")
        check_seed(seed, len(texts))
        prompts, vocabulary = self.checkpoint.prompts, self.checkpoint.text_tokenizer.vocabulary
        rows = [
            prompts.chat(
                text,
                [self.encode(p) for p in _listed(group)]
                + [encode_video(self.checkpoint, clip) for clip in moving],
                allow_special=allow_special,
            )
            for text, group, moving in zip(texts, images, clips, strict=True)
        ]
        limit = self.config.max_position_embeddings
        room = limit - max(map(len, rows))
        instead = "use a shorter text, smaller pictures, or a shorter clip at a lower fps"
        check_context(limit, max(map(len, rows)), 1, "answer", instead)

        def said(ids: Tensor) -> str:
            return self.checkpoint.text_tokenizer.decode(ids.tolist(), skip_special=True).strip()

        out = generate_text(
            self.checkpoint.decoder,
            rows,
            vocabulary.eos,
            vocabulary.pad,
            min(max_new_tokens, room),
            sampling,
            [seed + index for index in range(len(rows))],
            None if on_text is None else lambda step, ids: on_text(said(ids[0])),
        )
        return [said(ids) for ids in out]

    def encode(self, picture: Image.Image | Tensor) -> Tensor:
        """A picture to codes [h, w]; frames [T, H, W, 3] uint8 to codes [t, h, w].

        A picture is resized as the checkpoint's preprocessor says. Frames are encoded in groups
        of four, each on its own; raises InputError when they fill no whole group.
        """
        return self.checkpoint.vision_processor.encode(picture)

    def decode(self, codes: Tensor) -> Image.Image | Tensor:
        """Codes [h, w] to a picture; codes [t, h, w] to frames [4t, 8h, 8w, 3] uint8.

        Raises InputError on another shape or on codes that the codebook does not have.
        """
        return self.checkpoint.vision_processor.decode(codes)


def _listed(images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
    return [images] if isinstance(images, Image.Image) else list(images)
