"""A sample as the ids that the decoder learns from, and what each of them is.

    text    BOS text EOS                    all of it TEXT
    draw    BOS caption picture EOS         codes VISION, all else TEXT
    look    chat template of a picture      codes VISION, answers and EOS ANSWER, all else CONTEXT

A clip stands where a picture does.

The documents are those of `emu3.processing.prompts` (paper section 2.3).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from emu3.checkpoints.hub import find_model, find_vision_tokenizer
from emu3.checkpoints.loading import DeviceConfig, load_text_tokenizer, load_vision_processor
from emu3.data.samples import Sample, VideoFile
from emu3.data.token_roles import ANSWER, CONTEXT, TEXT, VISION
from emu3.errors import InputError
from emu3.processing.document_format import VideoCodes
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.video import check_fps
from emu3.processing.vision_processor import FrameGroup, VisionProcessor

DEFAULT_FPS = 8.0
"""Frames a second that clips are seen at unless told otherwise."""

MAX_FRAMES = 4096
"""Of a clip: no context holds more, and a film by mistake must not take hours."""


@dataclass(frozen=True)
class TokenizedDocument:
    """A document: ids [L] int64 and roles [L] uint8."""

    ids: Tensor
    roles: Tensor


@dataclass(frozen=True)
class SampleTokenizer:
    """Writes samples as documents for one model, of which only the tokenizers are needed.

    Clips are seen at `fps` frames a second.
    """

    prompts: PromptTemplates
    vision_processor: VisionProcessor
    fps: float = DEFAULT_FPS

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        vision: str | Path | None,
        device: str | None,
        fps: float = DEFAULT_FPS,
    ) -> SampleTokenizer:
        """The tokenizers of a model, without its decoder; raises InputError on a bad one."""
        folder = find_model(model, weights=False)
        text, _ = load_text_tokenizer(folder)
        vision_processor = load_vision_processor(
            find_vision_tokenizer(folder, vision, model), DeviceConfig.resolve(device, None).device
        )
        if vision_processor.vision.quantize.size != text.vocabulary.codebook_size:
            raise InputError(
                f"{folder} has ids for {text.vocabulary.codebook_size} codes, its vision "
                f"tokenizer has {vision_processor.vision.quantize.size}; these two do not belong together"
            )
        check_fps(fps)
        return cls(PromptTemplates.from_tokenizer(text), vision_processor, fps)

    def tokenize(self, sample: Sample) -> TokenizedDocument:
        """The document of a sample; raises InputError where its picture or clip cannot be used."""
        if sample.image is not None:
            return self._shown(sample, self.vision_processor.encode(sample.image.open()))
        if sample.video is not None:
            return self._shown(sample, self._video(sample.video))
        assert sample.text is not None  # as every sample without either has
        return self._text(sample.text)

    def _shown(self, sample: Sample, codes: Tensor | VideoCodes) -> TokenizedDocument:
        if sample.text is not None:
            ids = self.prompts.document(sample.text, codes)
            return TokenizedDocument(ids, self._roles(ids, TEXT))
        ids, answered = self.prompts.chat_document(codes, sample.turns)
        return TokenizedDocument(ids, self._roles(ids, CONTEXT).masked_fill_(answered, ANSWER))

    def _video(self, file: VideoFile) -> VideoCodes:
        groups: list[FrameGroup] = []
        with file.open(self.fps) as clip:
            for group in self.vision_processor.encode_frames(clip.frames):
                groups.append(group)
                if len(groups) * self.vision_processor.frames_per_group > MAX_FRAMES:
                    raise InputError(
                        f"{file.path.name}: more than {MAX_FRAMES} frames at {self.fps:g} a "
                        "second; cut it, or take a lower --fps"
                    )
        codes = torch.cat([group.codes for group in groups])
        return VideoCodes(codes, self.fps, sum(group.frames for group in groups))

    def _text(self, text: str) -> TokenizedDocument:
        tokenizer = self.prompts.tokenizer
        v = tokenizer.vocabulary
        ids = torch.tensor([v.bos, *tokenizer.encode(text), v.eos])
        return TokenizedDocument(ids, torch.full(ids.shape, TEXT, dtype=torch.uint8))

    def _roles(self, ids: Tensor, other: int) -> Tensor:
        visual = self.prompts.tokenizer.vocabulary.visual
        is_visual = (ids >= visual.start) & (ids < visual.stop)
        return torch.where(is_visual, VISION, other).to(torch.uint8)

    def fingerprint(self) -> dict[str, object]:
        """What the ids depend on: both tokenizers and how pictures are resized, as JSON."""
        table = (
            self.vision_processor.vision.quantize.embedding.weight.detach()
            .float()
            .cpu()
            .contiguous()
        )
        bounds = self.vision_processor.preprocessor
        return {
            **text_tokenizer_fingerprint(self.prompts.tokenizer),
            "codebook": hashlib.sha256(table.numpy().tobytes()).hexdigest(),
            "pixels": [bounds.min_pixels, bounds.max_pixels],
            "fps": self.fps,
        }


def text_tokenizer_fingerprint(text: TextTokenizer) -> dict[str, object]:
    """What makes ids mean the same: the size of the vocabulary, of its codes, and a hash of it.

    The hash is of ranks and control tokens, so it does not depend on a checkpoint's layout.
    """
    digest = hashlib.sha256()
    for token, rank in sorted(text.ranks.items(), key=lambda item: item[1]):
        digest.update(b"%d %s\n" % (rank, token.hex().encode()))
    digest.update("\n".join(text.specials).encode())
    return {
        "vocabulary_size": text.vocabulary.size,
        "codebook_size": text.vocabulary.codebook_size,
        "text_tokenizer": digest.hexdigest(),
    }
