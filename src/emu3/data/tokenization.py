"""Tokenize samples into training documents: token ids, and the role of each.

    sample                                  document                  roles
    text                                    BOS text EOS              TEXT
    image or video with a caption           BOS caption media EOS     codes VISION, others TEXT
    image or video with questions/answers   chat template             codes VISION, answers and EOS
                                                                      ANSWER, others CONTEXT

The templates are those of `emu3.processing.prompts` (paper section 2.3).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from emu3.checkpoints.hub import find_model, find_vision_tokenizer
from emu3.checkpoints.loading import (
    DeviceConfig,
    check_codebook_size,
    load_text_tokenizer,
    load_vision_processor,
)
from emu3.data.samples import Sample, VideoFile
from emu3.data.token_roles import ANSWER, CONTEXT, TEXT, VISION
from emu3.errors import InputError
from emu3.processing.document_format import VideoCodes
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.video import check_fps
from emu3.processing.vision_processor import FrameGroup, VisionProcessor

DEFAULT_FPS = 8.0
"""Frames per second at which videos are sampled."""

MAX_FRAMES = 4096
"""Longest video, in frames. More fit no context, and encoding a movie would take hours."""


@dataclass(frozen=True)
class TokenizedDocument:
    """A document: token ids [L] int64 and their roles [L] uint8."""

    ids: Tensor
    roles: Tensor


@dataclass(frozen=True)
class SampleTokenizer:
    """Tokenizes samples for a model. Needs the model's tokenizers, but not its decoder.

    Videos are sampled at `fps` frames per second, whatever their own rate.
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
        """Load the tokenizers of a model. Raises InputError if they are missing or do not match."""
        folder = find_model(model, weights=False)
        text_tokenizer, _ = load_text_tokenizer(folder)
        vision_processor = load_vision_processor(
            find_vision_tokenizer(folder, vision, model), DeviceConfig.resolve(device, None).device
        )
        check_codebook_size(folder, text_tokenizer, vision_processor)
        check_fps(fps)
        return cls(PromptTemplates.from_tokenizer(text_tokenizer), vision_processor, fps)

    def tokenize(self, sample: Sample) -> TokenizedDocument:
        """The document of a sample. Raises InputError if its image or video cannot be read."""
        if sample.image is not None:
            return self._media_document(sample, self.vision_processor.encode(sample.image.open()))
        if sample.video is not None:
            return self._media_document(sample, self._encode_video(sample.video))
        assert sample.text is not None  # checked by Sample
        return self._text_document(sample.text)

    def _media_document(self, sample: Sample, codes: Tensor | VideoCodes) -> TokenizedDocument:
        if sample.text is not None:
            ids = self.prompts.document(sample.text, codes)
            return TokenizedDocument(ids, self._roles(ids, TEXT))
        ids, is_answer = self.prompts.chat_document(codes, sample.turns)
        return TokenizedDocument(ids, self._roles(ids, CONTEXT).masked_fill_(is_answer, ANSWER))

    def _encode_video(self, file: VideoFile) -> VideoCodes:
        groups: list[FrameGroup] = []
        with file.open(self.fps) as clip:
            for group in self.vision_processor.encode_frames(clip.frames):
                groups.append(group)
                if len(groups) * self.vision_processor.frames_per_group > MAX_FRAMES:
                    raise InputError(
                        f"{file.path.name}: more than {MAX_FRAMES} frames at {self.fps:g} frames "
                        "per second; shorten the video or use a lower --fps"
                    )
        codes = torch.cat([group.codes for group in groups])
        return VideoCodes(codes, self.fps, sum(group.frames for group in groups))

    def _text_document(self, text: str) -> TokenizedDocument:
        tokenizer = self.prompts.tokenizer
        v = tokenizer.vocabulary
        ids = torch.tensor([v.bos, *tokenizer.encode(text), v.eos])
        return TokenizedDocument(ids, torch.full(ids.shape, TEXT, dtype=torch.uint8))

    def _roles(self, ids: Tensor, other: int) -> Tensor:
        """VISION for visual codes, `other` for all other ids."""
        visual = self.prompts.tokenizer.vocabulary.visual
        is_visual = (ids >= visual.start) & (ids < visual.stop)
        return torch.where(is_visual, VISION, other).to(torch.uint8)

    def fingerprint(self) -> dict[str, object]:
        """Everything the token ids depend on, as JSON: both tokenizers and the preprocessing."""
        codebook = self.vision_processor.vision.quantize.embedding.weight
        values = codebook.detach().float().cpu().contiguous().numpy()
        preprocessor = self.vision_processor.preprocessor
        return {
            **text_tokenizer_fingerprint(self.prompts.tokenizer),
            "codebook": hashlib.sha256(values.tobytes()).hexdigest(),
            "pixels": [preprocessor.min_pixels, preprocessor.max_pixels],
            "fps": self.fps,
        }


def text_tokenizer_fingerprint(text: TextTokenizer) -> dict[str, object]:
    """Vocabulary size, codebook size and a hash: ids of equal fingerprints mean the same.

    The hash covers ranks and control tokens, so it is the same in every checkpoint format.
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
