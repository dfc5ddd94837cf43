"""Conversion between user data and what the models read: text, images, videos, prompts, token ids.

Read `vocabulary` first, then `document_format` (the token order of an image or a video) and
`prompts`. `image` and `video` read and write files; `vision_processor` turns images and frames into
visual codes and back.
"""

from emu3.processing.document_format import DocumentFormat, VideoCodes
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.video import Clip, open_clip, video_writer
from emu3.processing.vision_processor import FrameGroup, VisionProcessor
from emu3.processing.vocabulary import Vocabulary

__all__ = [
    "Clip",
    "DocumentFormat",
    "FrameGroup",
    "PromptTemplates",
    "TextTokenizer",
    "VideoCodes",
    "VisionProcessor",
    "Vocabulary",
    "open_clip",
    "video_writer",
]
