"""Prompts to token ids, and token ids to images and text, with the interface of BAAI's processor.

As in `processing_emu3.py` of baaivision/Emu3, names of control tokens in a prompt become these
tokens. For untrusted text load the tokenizer with `split_special_tokens=True`, or use `emu3.Emu3`.
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

DocumentPart = str | Image.Image


class Emu3Processor:
    """Combines image processor, vision tokenizer and text tokenizer."""

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
        """Build prompts.

        Args:
            text: one or several prompts.
            image: mode "U" only, one for each prompt.
            mode: "G" generates images, "U" understands them.
            ratio: mode "G" only: aspect ratio (width:height) of all images or one for each prompt.
            image_area: mode "G" only: approximate area of the images, in pixels.
            padding_image: mode "U" only: encode images of different sizes in one batch, which is
                faster but changes codes near the padded edges.
            return_tensors: as in transformers.
            **kwargs: passed to the tokenizer (`padding`, `padding_side`, …).

        Returns:
            `input_ids`, `attention_mask`, and `image_size`: (h, w) in codes for each prompt.

        Raises:
            InputError: the mode is unknown, or the arguments do not fit it.
        """
        texts = [text] if isinstance(text, str) else list(text)
        allow_special = not self.tokenizer.split_special_tokens
        if mode == "G":
            if image is not None:
                raise InputError("mode 'G' generates images and takes none; use mode 'U'")
            ratios = [ratio] * len(texts) if isinstance(ratio, str) else list(ratio)
            _check_lengths(texts, ratios, "ratios")
            factor = self.vision_tokenizer.spatial_scale_factor
            sizes = [size_in_codes(each, image_area, factor) for each in ratios]
            rows = [
                self.prompts.image(each, size, allow_special=allow_special)
                for each, size in zip(texts, sizes, strict=True)
            ]
        elif mode == "U":
            if image is None:
                raise InputError("mode 'U' requires an image for each text")
            images = [image] if isinstance(image, Image.Image) else list(image)
            _check_lengths(texts, images, "images")
            codes = self.encode_images(images, padding_image=padding_image)
            sizes = [(each.shape[0], each.shape[1]) for each in codes]
            rows = [
                self.prompts.chat(each, [image_codes], allow_special=allow_special)
                for each, image_codes in zip(texts, codes, strict=True)
            ]
        else:
            raise InputError(f"unknown mode {mode!r}; 'G' generates images, 'U' understands them")
        inputs = self.tokenizer(rows, return_tensors=return_tensors, **kwargs)
        image_size = [list(size) for size in sizes]
        return BatchFeature({**inputs, "image_size": image_size}, tensor_type=return_tensors)

    @torch.no_grad()
    def encode_images(
        self, images: Sequence[Image.Image], *, padding_image: bool = False
    ) -> list[Tensor]:
        """Codes [h, w] of each image. `padding_image` pads them to one size and batches them."""
        vision = self.vision_tokenizer
        pixels = [
            self.image_processor(image, return_tensors="pt")["pixel_values"].to(
                vision.device, vision.dtype
            )
            for image in images
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
        """A function for the allowed next token ids, given the ids of an unfinished image.

        Height and width are in codes: one size for all rows, or one for each. The function is for
        `PrefixConstrainedLogitsProcessor`, or `prefix_allowed_tokens_fn` of `generate`.
        """
        sizes = list(zip(_as_ints(height), _as_ints(width), strict=True))
        document_format, sot = self.prompts.document_format, self.prompts.tokenizer.vocabulary.sot

        def allowed(batch_id: int, ids: Tensor) -> Sequence[int]:
            starts = (ids == sot).nonzero()
            if not len(starts):
                raise InputError("the ids contain no image start; use a prompt of mode 'G'")
            step = len(ids) - 1 - int(starts[-1])
            size = sizes[batch_id if len(sizes) > 1 else 0]
            low, high = document_format.allowed_range(*size, step)
            return self._visual_ids if high - low > 1 else (low,)

        return allowed

    @cached_property
    def _visual_ids(self) -> list[int]:
        vocabulary = self.prompts.tokenizer.vocabulary
        return list(range(vocabulary.visual_start, vocabulary.size))

    def decode(
        self, token_ids: Tensor | Sequence[int], skip_special_tokens: bool = False
    ) -> list[DocumentPart] | DocumentPart:
        """A document, ids [L], to its texts and images; a single part is returned without a list.

        With `skip_special_tokens` the result is the text alone. Raises InputError if an image in
        the document is incomplete or malformed.
        """
        ids = torch.as_tensor(token_ids).cpu().long()
        if ids.ndim != 1:
            raise InputError(
                f"decode takes the ids of one document [L], got {list(ids.shape)}; generate "
                "returns [B, L], so pass outputs[0]"
            )
        if skip_special_tokens:
            return self.tokenizer.decode(ids, skip_special_tokens=True)
        parts = [
            self._decode_image(part) if part.ndim == 2 else self.tokenizer.decode(part)
            for part in self.document_format.split(ids)
        ]
        return parts if len(parts) > 1 else parts[0] if parts else ""

    def batch_decode(
        self, sequences: Tensor | Sequence[Any], skip_special_tokens: bool = False
    ) -> list[list[DocumentPart] | DocumentPart]:
        """`decode` for each row."""
        return [self.decode(row, skip_special_tokens) for row in sequences]

    @property
    def document_format(self) -> DocumentFormat:
        """The order of tokens in an image."""
        return self.prompts.document_format

    @torch.no_grad()
    def _decode_image(self, codes: Tensor) -> Image.Image:
        pixels = self.vision_tokenizer.decode(codes[None].to(self.vision_tokenizer.device))
        return self.image_processor.postprocess(pixels)["pixel_values"][0]


def _check_lengths(texts: Sequence[str], others: Sequence[object], name: str) -> None:
    if len(texts) != len(others):
        raise InputError(f"{len(texts)} texts but {len(others)} {name}; give one for each text")


def _as_ints(value: int | Sequence[int] | Tensor) -> list[int]:
    return torch.as_tensor(value).reshape(-1).tolist()
