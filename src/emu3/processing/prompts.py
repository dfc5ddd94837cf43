"""Prompt templates: requests and training documents as token ids.

The templates are those of the published checkpoints (`processing_emu3.py` of baaivision/Emu3,
paper section 2.3). Text is tokenized between control tokens, never across them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emu3.processing.document_format import DocumentFormat, VideoCodes
from emu3.processing.tokenizer import TextTokenizer

SYSTEM_PREFIX = "You are a helpful assistant. USER: "
TURN_PREFIX = " USER: "  # of later turns; from transformers' template, BAAI published none
ANSWER_PREFIX = ". ASSISTANT:"  # the full stop is part of the template, whatever the text ends with


@dataclass(frozen=True)
class PromptTemplates:
    """Builds prompts and training documents for one vocabulary.

    With `allow_special`, names of control tokens in a text become these tokens, as in the
    reference code; by default they are plain text.
    """

    tokenizer: TextTokenizer
    document_format: DocumentFormat

    @classmethod
    def from_tokenizer(cls, tokenizer: TextTokenizer) -> PromptTemplates:
        """Templates for a text tokenizer and the document format of its vocabulary."""
        return cls(
            tokenizer, DocumentFormat(tokenizer.vocabulary, tokenizer.encode, tokenizer.decode)
        )

    def image(self, text: str, size: tuple[int, int], *, allow_special: bool = False) -> list[int]:
        """`BOS text SOV h*w SOT`: the prompt of an image of `size` = (h, w) codes."""
        text_ids = self.tokenizer.encode(text, allow_special=allow_special)
        return [self.tokenizer.vocabulary.bos, *text_ids, *self.document_format.header(*size)]

    def video(
        self,
        text: str,
        size: tuple[int, int],
        fps: float,
        frames: int,
        *,
        allow_special: bool = False,
    ) -> list[int]:
        """`BOS text SOV h*w fps seconds SOT`: the prompt of a video of `frames` pixel frames.

        `size` is (h, w) in codes. Raises DocumentFormatError on a frame rate that the header cannot
        represent, or on less than one frame.
        """
        text_ids = self.tokenizer.encode(text, allow_special=allow_special)
        header = self.document_format.video_header(*size, fps, frames)
        return [self.tokenizer.vocabulary.bos, *text_ids, *header]

    def chat(
        self, text: str, media: Sequence[Tensor | VideoCodes], *, allow_special: bool = False
    ) -> list[int]:
        """The first turn of a conversation: BOS, system prefix, media, text, answer prefix.

        `media` are images as codes [h, w] and videos, in the order given.
        """
        bos = self.tokenizer.vocabulary.bos
        return [bos, *self._turn(SYSTEM_PREFIX, text, media, allow_special)]

    def turn(
        self, text: str, media: Sequence[Tensor | VideoCodes], *, allow_special: bool = False
    ) -> list[int]:
        """A later turn of a conversation; follows the previous answer without its EOS."""
        return self._turn(TURN_PREFIX, text, media, allow_special)

    def _turn(
        self,
        prefix: str,
        text: str,
        media: Sequence[Tensor | VideoCodes],
        allow_special: bool,
    ) -> list[int]:
        suffix = text + ANSWER_PREFIX
        if not media:  # tokenized as one text: tokens may span prefix and text, as in the reference
            return self.tokenizer.encode(prefix + suffix, allow_special=allow_special)
        ids = self.tokenizer.encode(prefix)
        for codes in media:
            ids += self._media_ids(codes).tolist()
        return ids + self.tokenizer.encode(suffix, allow_special=allow_special)

    def _media_ids(self, codes: Tensor | VideoCodes) -> Tensor:
        if isinstance(codes, VideoCodes):
            return self.document_format.encode_video(codes.codes, codes.fps, codes.frames)
        return self.document_format.encode_image(codes)

    def document(self, caption: str, codes: Tensor | VideoCodes) -> Tensor:
        """`BOS caption image EOS`: a training document of one image or video, ids [L] int64.

        `codes` are [h, w] of an image, or a video. Raises DocumentFormatError if a video's number
        of frames does not fit its codes.
        """
        prompt = [self.tokenizer.vocabulary.bos, *self.tokenizer.encode(caption)]
        eos = self.tokenizer.vocabulary.eos
        return torch.cat([torch.tensor(prompt), self._media_ids(codes).cpu(), torch.tensor([eos])])

    def chat_document(
        self, codes: Tensor | VideoCodes, turns: Sequence[tuple[str, str]]
    ) -> tuple[Tensor, Tensor]:
        """A training conversation about one image, codes [h, w], or one video.

        `turns` are pairs of question and answer. Returns token ids [L] int64 and a bool mask [L]
        that is True for the ids of answers, over which the loss is computed. EOS follows the last
        answer only, and is part of the mask.
        """
        ids: list[int] = []
        answer_positions: list[int] = []
        for question, answer in turns:
            ids += self.turn(question, []) if ids else self.chat(question, [codes])
            answer_ids = self.tokenizer.encode(" " + answer)
            answer_positions += range(len(ids), len(ids) + len(answer_ids))
            ids += answer_ids
        answer_positions.append(len(ids))
        mask = torch.zeros(len(ids) + 1, dtype=torch.bool)
        mask[answer_positions] = True
        return torch.tensor([*ids, self.tokenizer.vocabulary.eos]), mask
