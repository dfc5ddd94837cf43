"""Conversion of engine events to the types of the page: PIL images, NumPy frames and code grids.

No other module of the studio depends on how the engine represents pixels and visual codes.
"""

from __future__ import annotations

import base64

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from emu3.inference.events import (
    ImageResult,
    PartialImage,
    TokenizeResult,
    VideoFrames,
    VideoResult,
)
from emu3.inference.requests import TokenizeRequest
from emu3.server.media import encode_image

CodeGrid = tuple[tuple[int, ...], ...]
"""Visual codes of an image as rows, [h][w]; immutable, so that edits can be undone."""


def event_image(event: PartialImage | ImageResult | TokenizeResult) -> Image.Image:
    """Return the image of an event."""
    return event.image


def frame_arrays(event: VideoFrames | VideoResult) -> list[NDArray[np.uint8]]:
    """Return the frames of an event, each [H, W, 3]."""
    return list(event.frames.numpy())


def frame_images(event: VideoFrames) -> list[Image.Image]:
    """Return the frames of an event as images."""
    return [Image.fromarray(each) for each in frame_arrays(event)]


def code_grid(result: TokenizeResult) -> CodeGrid:
    """Return the codes of an encoded image."""
    return tuple(tuple(row) for row in result.codes.tolist())


def tokenize_request(source: Image.Image | CodeGrid) -> TokenizeRequest:
    """Return the request that encodes an image, or decodes codes."""
    return TokenizeRequest(source if isinstance(source, Image.Image) else torch.tensor(source))


def image_data_url(image: Image.Image) -> str:
    """Return a lossy WebP as a data URL, small enough to be sent with every update."""
    data = encode_image(image, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")
