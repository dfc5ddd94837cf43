"""What a person asks for, as the ids that the decoder continues.

The templates are those of the published checkpoints (`processing_emu3.py` of baaivision/Emu3,
paper section 2.3). Text is encoded between control tokens and never across them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emu3.processing.document_format import DocumentFormat, VideoCodes
from emu3.processing.tokenizer import TextTokenizer

CHAT_OPENING = "You are a helpful assistant. USER: "
TURN_OPENING = " USER: "  # of later questions; undisclosed by BAAI, transformers' template has it
CHAT_CLOSING = ". ASSISTANT:"  # the full stop is part of the template, whatever the text ends with


@dataclass(frozen=True)
class PromptTemplates:
    """Builds prompts and training documents for one vocabulary.

    `allow_special` lets names of control tokens in a text become these tokens, as the reference
    does with everything it is given.
    """

    tokenizer: TextTokenizer
    document_format: DocumentFormat

    @classmethod
    def from_tokenizer(cls, tokenizer: TextTokenizer) -> PromptTemplates:
        """The prompts of a text tokenizer, with the document_format of its vocabulary."""
        return cls(
            tokenizer, DocumentFormat(tokenizer.vocabulary, tokenizer.encode, tokenizer.decode)
        )

    def image(self, text: str, size: tuple[int, int], *, allow_special: bool = False) -> list[int]:
        """BOS text SOV h*w SOT: what the codes of a picture of `size` = (h, w) codes follow."""
        words = self.tokenizer.encode(text, allow_special=allow_special)
        return [self.tokenizer.vocabulary.bos, *words, *self.document_format.header(*size)]

    def video(
        self,
        text: str,
        size: tuple[int, int],
        fps: float,
        frames: int,
        *,
        allow_special: bool = False,
    ) -> list[int]:
        """BOS text SOV h*w fps seconds SOT: what the codes of a video of so many frames follow.

        Raises GrammarError on a rate that no header can say, or on less than one frame.
        """
        words = self.tokenizer.encode(text, allow_special=allow_special)
        header = self.document_format.video_header(*size, fps, frames)
        return [self.tokenizer.vocabulary.bos, *words, *header]

    def chat(
        self, text: str, pictures: Sequence[Tensor | VideoCodes], *, allow_special: bool = False
    ) -> list[int]:
        """BOS opening, pictures as codes [h, w] or videos, text, closing: what an answer follows.

        They come in the order given.
        """
        bos = self.tokenizer.vocabulary.bos
        return [bos, *self._asked(CHAT_OPENING, text, pictures, allow_special)]

    def turn(
        self, text: str, pictures: Sequence[Tensor | VideoCodes], *, allow_special: bool = False
    ) -> list[int]:
        """The next question of a conversation, behind an answer without its EOS."""
        return self._asked(TURN_OPENING, text, pictures, allow_special)

    def _asked(
        self,
        opening: str,
        text: str,
        pictures: Sequence[Tensor | VideoCodes],
        allow_special: bool,
    ) -> list[int]:
        closing = text + CHAT_CLOSING
        if not pictures:  # one text, which may merge across the seam
            return self.tokenizer.encode(opening + closing, allow_special=allow_special)
        ids = self.tokenizer.encode(opening)
        for each in pictures:
            ids += self._written(each).tolist()
        return ids + self.tokenizer.encode(closing, allow_special=allow_special)

    def _written(self, seen: Tensor | VideoCodes) -> Tensor:
        if isinstance(seen, VideoCodes):
            return self.document_format.encode_video(seen.codes, seen.fps, seen.frames)
        return self.document_format.encode_image(seen)

    def document(self, caption: str, shown: Tensor | VideoCodes) -> Tensor:
        """A training document, ids [L]: BOS caption picture EOS, of codes [h, w] or a video.

        Raises GrammarError where the video's frames and codes do not fit together.
        """
        words = self.tokenizer.encode(caption)
        prompt = [self.tokenizer.vocabulary.bos, *words]
        last = self.tokenizer.vocabulary.eos
        return torch.cat([torch.tensor(prompt), self._written(shown).cpu(), torch.tensor([last])])

    def chat_document(
        self, codes: Tensor | VideoCodes, turns: Sequence[tuple[str, str]]
    ) -> tuple[Tensor, Tensor]:
        """A training document about one picture, codes [h, w], or one video: ids [L], and which of
        them the model says, bool.

        `turns` are questions with their answers, asked as in a conversation: EOS comes behind the
        last answer only.
        """
        ids: list[int] = []
        said: list[int] = []
        for question, answer in turns:
            ids += self.turn(question, []) if ids else self.chat(question, [codes])
            words = self.tokenizer.encode(" " + answer)
            said += range(len(ids), len(ids) + len(words))
            ids += words
        said.append(len(ids))
        mask = torch.zeros(len(ids) + 1, dtype=torch.bool)
        mask[said] = True
        return torch.tensor([*ids, self.tokenizer.vocabulary.eos]), mask
