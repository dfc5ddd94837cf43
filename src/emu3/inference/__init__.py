"""Inference: one engine that works on image, video, chat and tokenize requests together.

`engine.py` is the synchronous core; read it first, then `model_runner.py` (one forward pass for all
sequences of a step) and `sequences.py`. `requests.py` and `events.py` are its inputs and outputs,
`validation.py` its limits. `reference.py` is the slow version that every faster one must equal.
"""

from emu3.inference.async_engine import AsyncEngine, RequestHandle
from emu3.inference.engine import Engine
from emu3.inference.requests import (
    ChatRequest,
    ChatTurn,
    ImageRequest,
    TokenizeRequest,
    VideoInput,
    VideoRequest,
)
from emu3.inference.sampling import SamplingParams

__all__ = [
    "AsyncEngine",
    "ChatRequest",
    "ChatTurn",
    "Engine",
    "ImageRequest",
    "RequestHandle",
    "SamplingParams",
    "TokenizeRequest",
    "VideoInput",
    "VideoRequest",
]
