"""Prompts in, pictures and texts out, the way the scripts of the published code ask for them.

It does as `processing_emu3.py` of baaivision/Emu3: names of control tokens in a prompt become
these tokens, unless the tokenizer was opened with `split_special_tokens=True`. For text that other
people write, do that, or use `emu3.Emu3`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from emu3.errors import InputError
from emu3.hf.image_processor import Emu3VisionVQImageProcessor
from emu3.hf.tokenizer import Emu3Tokenizer
from emu3.hf.vision_tokenizer import Emu3VisionVQModel
from emu3.processing.document_format import DocumentFormat
from emu3.processing.image import size_in_codes
from emu3.processing.prompts import PromptTemplates

Part = str | Image.Image


class Emu3Processor:
    """Joins the image processor, the vision tokenizer and the text tokenizer."""

    def __init__(
        self,
        image_processor: Emu3VisionVQImageProcessor,
        vision_tokenizer: Emu3VisionVQModel,
        tokenizer: Emu3Tokenizer,
    ) -> None:
        self.image_processor = image_processor
        self.vision_tokenizer = vision_tokenizer
        self.tokenizer = tokenizer
        self.prompts = PromptTemplates.from_tokenizer(tokenizer.text)

    def __call__(
        self,
        text: str | Sequence[str],
        image: Image.Image | Sequence[Image.Image] | None = None,
        *,
        mode: str = "G",
        ratio: str | Sequence[str] = "1:1",
        image_area: int = 720 * 720,
        padding_image: bool = False,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """`input_ids`, `attention_mask`, and `image_size`: (h, w) in codes for each prompt.

        Mode "G" asks for pictures of about `image_area` pixels, with one `ratio` (width:height) or
        one for each text. Mode "U" asks about pictures, one for each text; with `padding_image`
        those of different sizes are encoded in one batch, which is fast and changes codes at the
        edge. Further arguments (`padding`, `padding_side`, …) are the tokenizer's.
        """
        texts = [text] if isinstance(text, str) else list(text)
        special = not self.tokenizer.split_special_tokens
        if mode == "G":
            if image is not None:
                raise InputError("mode 'G' draws pictures and takes none; mode 'U' takes them")
            ratios = [ratio] * len(texts) if isinstance(ratio, str) else list(ratio)
            _pair(texts, ratios, "ratios")
            factor = self.vision_tokenizer.spatial_scale_factor
            sizes = [size_in_codes(each, image_area, factor) for each in ratios]
            pairs = zip(texts, sizes, strict=True)
            rows = [self.prompts.image(t, size, allow_special=special) for t, size in pairs]
        elif mode == "U":
            if image is None:
                raise InputError("mode 'U' needs a picture for each text")
            pictures = [image] if isinstance(image, Image.Image) else list(image)
            _pair(texts, pictures, "pictures")
            codes = self.encode_pictures(pictures, padding_image=padding_image)
            sizes = [(each.shape[0], each.shape[1]) for each in codes]
            rows = [
                self.prompts.chat(t, [each], allow_special=special)
                for t, each in zip(texts, codes, strict=True)
            ]
        else:
            raise InputError(f"mode {mode!r}: 'G' draws pictures, 'U' understands them")
        inputs = self.tokenizer(rows, return_tensors=return_tensors, **kwargs)
        image_size = [list(size) for size in sizes]
        return BatchFeature({**inputs, "image_size": image_size}, tensor_type=return_tensors)

    @torch.no_grad()
    def encode_pictures(
        self, pictures: Sequence[Image.Image], *, padding_image: bool = False
    ) -> list[Tensor]:
        """Codes [h, w] of pictures, each on its own unless they are to be padded to one size."""
        vision = self.vision_tokenizer
        pixels = [
            self.image_processor(picture, return_tensors="pt")["pixel_values"].to(
                vision.device, vision.dtype
            )
            for picture in pictures
        ]
        sizes = [(each.shape[2], each.shape[3]) for each in pixels]
        if not padding_image or len(set(sizes)) == 1:
            return [vision.encode(each)[0].cpu() for each in pixels]
        height, width = (max(side) for side in zip(*sizes, strict=True))
        padded = [
            F.pad(each, (0, width - w, 0, height - h))
            for each, (h, w) in zip(pixels, sizes, strict=True)
        ]
        codes, factor = vision.encode(torch.cat(padded)).cpu(), vision.spatial_scale_factor
        return [c[: h // factor, : w // factor] for c, (h, w) in zip(codes, sizes, strict=True)]

    def build_prefix_constrained_fn(
        self, height: int | Sequence[int] | Tensor, width: int | Sequence[int] | Tensor
    ) -> Callable[[int, Tensor], Sequence[int]]:
        """What may come next in pictures of [height, width] codes: one size, or one for each row.

        For `PrefixConstrainedLogitsProcessor`, or `prefix_allowed_tokens_fn` of `generate`.
        """
        sizes = list(zip(_ints(height), _ints(width), strict=True))
        document_format, sot = self.prompts.document_format, self.prompts.tokenizer.vocabulary.sot

        def allowed(batch_id: int, ids: Tensor) -> Sequence[int]:
            started = (ids == sot).nonzero()
            if not len(started):
                raise InputError("no picture is begun in these ids; prompts in mode 'G' begin one")
            step = len(ids) - 1 - int(started[-1])
            low, high = document_format.allowed_range(
                *sizes[batch_id if len(sizes) > 1 else 0], step
            )
            return self._codes if high - low > 1 else (low,)

        return allowed

    @cached_property
    def _codes(self) -> list[int]:
        vocabulary = self.prompts.tokenizer.vocabulary
        return list(range(vocabulary.visual_start, vocabulary.size))

    def decode(
        self, token_ids: Tensor | Sequence[int], skip_special_tokens: bool = False
    ) -> list[Part] | Part:
        """A document [L] as the list of its texts and pictures; its only part if it has one.

        With `skip_special_tokens` it is text alone. Raises InputError on a picture that is not
        well formed, such as one cut short.
        """
        ids = torch.as_tensor(token_ids).cpu().long()
        if ids.ndim != 1:
            raise InputError(
                f"decode takes the ids of one document [L], not {list(ids.shape)}; "
                "generate returns [B, L], of which outputs[0] is one"
            )
        if skip_special_tokens:
            return self.tokenizer.decode(ids, skip_special_tokens=True)
        parts = [
            self._picture(part) if part.ndim == 2 else self.tokenizer.decode(part)
            for part in self.document_format.split(ids)
        ]
        return parts if len(parts) > 1 else parts[0] if parts else ""

    def batch_decode(
        self, sequences: Tensor | Sequence[Any], skip_special_tokens: bool = False
    ) -> list[list[Part] | Part]:
        """`decode` for each row."""
        return [self.decode(row, skip_special_tokens) for row in sequences]

    @property
    def document_format(self) -> DocumentFormat:
        """The order of tokens in a picture."""
        return self.prompts.document_format

    @torch.no_grad()
    def _picture(self, codes: Tensor) -> Image.Image:
        pixels = self.vision_tokenizer.decode(codes[None].to(self.vision_tokenizer.device))
        return self.image_processor.postprocess(pixels)["pixel_values"][0]


def _pair(texts: Sequence[str], others: Sequence[object], what: str) -> None:
    if len(texts) != len(others):
        raise InputError(f"{len(texts)} texts but {len(others)} {what}")


def _ints(value: int | Sequence[int] | Tensor) -> list[int]:
    return torch.as_tensor(value).reshape(-1).tolist()
