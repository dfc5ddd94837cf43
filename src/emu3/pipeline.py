"""`Emu3`: one door to a checkpoint. Strings and pictures in, pictures and strings out.

image:  str → prompt → ids → generate → ids → grammar → codes → vision → pixels → picture
chat:   picture → pixels → vision → codes → grammar → ids → prompt → generate → text → str
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoint import Checkpoint, Place, open_checkpoint
from emu3.config import DecoderConfig
from emu3.conversation import Conversation
from emu3.errors import InputError
from emu3.fuse import ready, ready_vision
from emu3.generate import generate_text
from emu3.image import size_in_codes
from emu3.output import ImageOutput, Settings
from emu3.precision import Precision
from emu3.sampling import Sampling
from emu3.text import TextTokenizer
from emu3.weights import OnBytes
from emu3.windows import Drawing, OnPass, Picture, window_for

OnRow = Callable[[int, int, Sequence[Tensor]], None]
"""Called as rows of codes are finished: how many are, of how many in all pictures together, and
what there is of each picture, codes [r, w]."""

MAX_SEED = 2**63 - 1


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

        Both networks are made ready to be run (`fuse.py`); `open_checkpoint` gives some that can be
        trained and saved.
        """
        checkpoint = open_checkpoint(model, vision, Place.choose(device, dtype), on_bytes)
        ready(checkpoint.decoder, checkpoint.text.vocabulary.visual)
        ready_vision(checkpoint.codec.vision)
        return cls(checkpoint)

    @property
    def config(self) -> DecoderConfig:
        """What the checkpoint's `config.json` says."""
        return self.checkpoint.decoder.config

    @property
    def text_tokenizer(self) -> TextTokenizer:
        """The BPE tokenizer: `.encode(text) -> list[int]`, `.decode(ids) -> str`."""
        return self.checkpoint.text

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
        card = self.checkpoint.card
        guidance_scale = card.guidance_scale if guidance_scale is None else guidance_scale
        top_k = card.top_k if top_k is None else top_k
        temperature = card.temperature if temperature is None else temperature
        sampling = Sampling(top_k, top_p, temperature)
        _check_request(prompts, ratios, num_images, seed, guidance_scale)
        suffix = card.suffix if suffix is None else suffix
        negative_prompt = card.negative_prompt if negative_prompt is None else negative_prompt
        area = self.config.image_area if area is None else area
        settings = [
            Settings(
                prompt=text,
                suffix=suffix,
                negative_prompt=negative_prompt,
                ratio=shape,
                area=area,
                guidance_scale=guidance_scale,
                top_k=top_k,
                top_p=top_p,
                temperature=temperature,
                seed=seed + index * num_images + number,
                model=self.checkpoint.name,
                dtype=self.checkpoint.precision,
            )
            for index, (text, shape) in enumerate(zip(prompts, ratios, strict=True))
            for number in range(num_images)
        ]
        codes = self._draw(settings, sampling, allow_special, on_row)
        return ImageOutput([self.checkpoint.codec.picture(each) for each in codes], codes, settings)

    @torch.no_grad()
    def _draw(
        self,
        settings: Sequence[Settings],
        sampling: Sampling,
        allow_special: bool,
        on_row: OnRow | None,
    ) -> list[Tensor]:
        """Codes [h, w] for each of the settings, drawn in one batch."""
        prompts, grammar = self.checkpoint.prompts, self.checkpoint.prompts.grammar
        factor = self.checkpoint.codec.vision.config.spatial_factor
        sizes = [size_in_codes(s.ratio, s.area, factor) for s in settings]
        rows, negatives = (
            [
                prompts.image(text, size, allow_special=allow_special)
                for text, size in zip(texts, sizes, strict=True)
            ]
            for texts in (
                [s.prompt + s.suffix for s in settings],
                [s.negative_prompt for s in settings],
            )
        )
        longest = max(map(len, [*rows, *negatives]))
        self._check_context(longest, max(grammar.length(*size) for size in sizes), "picture")
        scale = settings[0].guidance_scale
        branches = zip(rows, negatives, strict=True) if scale != 1 else ([row] for row in rows)
        pictures = [
            Picture(list(prompts), size, each.seed)
            for prompts, size, each in zip(branches, sizes, settings, strict=True)
        ]
        decoder = self.checkpoint.decoder
        window = window_for(decoder, len(pictures) * len(pictures[0].prompts))
        told = (lambda active: None) if on_row is None else _row_reporter(on_row, pictures)
        Drawing(decoder, grammar, sampling, scale, window).run(pictures, told)
        return [torch.tensor(each.codes).view(each.size) for each in pictures]

    def chat(
        self,
        text: str,
        images: Sequence[Image.Image] = (),
        *,
        max_new_tokens: int = 1024,
        top_k: int = 1,
        top_p: float = 1.0,
        temperature: float = 1.0,
        seed: int = 0,
        allow_special: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Answer a question about pictures (or none); greedy unless told otherwise.

        `on_text` is called with all of the answer so far, as it grows.
        """
        return self.chat_batch(
            [text],
            [list(images)],
            max_new_tokens=max_new_tokens,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            seed=seed,
            allow_special=allow_special,
            on_text=on_text,
        )[0]

    def conversation(self) -> Conversation:
        """Several questions, each with what was said before in mind: `.say(text, images)`."""
        return Conversation(self.checkpoint)

    @torch.no_grad()
    def chat_batch(
        self,
        texts: Sequence[str],
        images: Sequence[Image.Image | Sequence[Image.Image]],
        *,
        max_new_tokens: int = 1024,
        top_k: int = 1,
        top_p: float = 1.0,
        temperature: float = 1.0,
        seed: int = 0,
        allow_special: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> list[str]:
        """`chat` for several questions at once, each with its picture or pictures.

        Answers are the same as one at a time; `on_text` follows the first.
        """
        sampling = Sampling(top_k, top_p, temperature)
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens = {max_new_tokens} must be at least 1")
        if not texts or len(texts) != len(images):
            raise InputError(f"{len(texts)} questions but {len(images)} groups of pictures")
        _check_seed(seed, len(texts))
        prompts, vocabulary = self.checkpoint.prompts, self.checkpoint.text.vocabulary
        rows = [
            prompts.chat(
                text, [self.encode(p) for p in _listed(group)], allow_special=allow_special
            )
            for text, group in zip(texts, images, strict=True)
        ]
        room = self.config.max_position_embeddings - max(map(len, rows))
        self._check_context(max(map(len, rows)), 1, "answer")

        def said(ids: Tensor) -> str:
            return self.checkpoint.text.decode(ids.tolist(), skip_special=True).strip()

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
        return self.checkpoint.codec.encode(picture)

    def decode(self, codes: Tensor) -> Image.Image | Tensor:
        """Codes [h, w] to a picture; codes [t, h, w] to frames [4t, 8h, 8w, 3] uint8.

        Raises InputError on another shape or on codes that the codebook does not have.
        """
        return self.checkpoint.codec.decode(codes)

    def _check_context(self, prompt: int, new: int, what: str) -> None:
        """Raise InputError where a request is longer than what the decoder was trained for."""
        limit = self.config.max_position_embeddings
        if prompt + new > limit:
            raise InputError(
                f"{prompt} ids of prompt and {new} of {what} exceed the context of {limit}; "
                "use a smaller area or a shorter text"
            )


def _row_reporter(on_row: OnRow, pictures: Sequence[Picture]) -> OnPass:
    """Turns passes of the decoder into finished rows."""
    total, told = sum(height for height, _ in (picture.size for picture in pictures)), 0

    def on_pass(active: Sequence[Picture]) -> None:
        nonlocal told
        done = sum(len(picture.codes) // picture.size[1] for picture in pictures)
        if done > told:
            told = done
            on_row(done, total, [picture.rows() for picture in pictures])

    return on_pass


def _listed(images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
    return [images] if isinstance(images, Image.Image) else list(images)


def _check_seed(seed: int, rows: int) -> None:
    if not 0 <= seed <= MAX_SEED - rows:
        raise InputError(f"seed = {seed} must lie in 0 to {MAX_SEED}")


def _check_request(
    prompts: Sequence[str], ratios: Sequence[str], num_images: int, seed: int, guidance: float
) -> None:
    if not prompts:
        raise InputError("no prompt given")
    if len(ratios) != len(prompts):
        raise InputError(f"{len(prompts)} prompts but {len(ratios)} ratios")
    if num_images < 1:
        raise InputError(f"num_images = {num_images} must be at least 1")
    _check_seed(seed, len(prompts) * num_images)
    if not 0 <= guidance < float("inf"):
        raise InputError(f"guidance_scale = {guidance} must be 0 or more; 1 is no guidance")
