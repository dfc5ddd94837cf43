"""Video requests and results as JSON and bytes, for the job store."""

from __future__ import annotations

import zlib
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from emu3.inference.requests import VideoInput, VideoRequest
from emu3.inference.sampling import SamplingParams
from emu3.processing.document_format import VideoCodes
from emu3.server.job_store import StoredRequest
from emu3.server.media import frames_tensor

PLAIN_FIELDS = (
    "prompt",
    "seconds",
    "fps",
    "size",
    "seed",
    "guidance_scale",
    "negative_prompt",
)


def serialize_request(request: VideoRequest) -> StoredRequest:
    """Return a request as JSON fields, and its image or video as compressed pixels."""
    fields: dict[str, Any] = {name: getattr(request, name) for name in PLAIN_FIELDS}
    if request.sampling is not None:
        fields["sampling"] = asdict(request.sampling)
    if isinstance(request.video, VideoCodes):
        return StoredRequest({**fields, "codes": serialize_codes(request.video)}, None)
    if request.image is not None:
        return _with_frames(fields, "image", VideoInput(frames_tensor([request.image]), 1.0))
    if request.video is not None:
        return _with_frames(fields, "video", request.video)
    return StoredRequest(fields, None)


def deserialize_request(stored: StoredRequest) -> VideoRequest:
    """Return the request that `serialize_request` stored."""
    plain = {name: stored.fields[name] for name in PLAIN_FIELDS}
    size, sampling = stored.fields["size"], stored.fields.get("sampling")
    request = VideoRequest(
        **{**plain, "size": None if size is None else tuple(size)},
        sampling=None if sampling is None else SamplingParams(**sampling),
    )
    if "codes" in stored.fields:
        return replace(request, video=deserialize_codes(stored.fields["codes"]))
    if stored.media is None:
        return request
    video = _unpack_frames(stored.media, stored.fields["shape"], stored.fields["media_fps"])
    if stored.fields["media"] == "image":
        return replace(request, image=Image.fromarray(video.frames[0].numpy()))
    return replace(request, video=video)


def serialize_codes(video: VideoCodes) -> dict[str, Any]:
    """Return the codes of a video as JSON, so that it can be extended later."""
    return {"codes": video.codes.tolist(), "fps": video.fps, "frames": video.frames}


def deserialize_codes(fields: dict[str, Any]) -> VideoCodes:
    """Return the codes that `serialize_codes` returned, after JSON."""
    return VideoCodes(torch.tensor(fields["codes"]), fields["fps"], fields["frames"])


def _with_frames(fields: dict[str, Any], kind: str, video: VideoInput) -> StoredRequest:
    shape = list(video.frames.shape)
    pixels = zlib.compress(video.frames.numpy().tobytes(), 1)
    return StoredRequest({**fields, "media": kind, "shape": shape, "media_fps": video.fps}, pixels)


def _unpack_frames(data: bytes, shape: list[int], fps: float) -> VideoInput:
    pixels = np.frombuffer(bytearray(zlib.decompress(data)), np.uint8)  # writable, as torch wants
    return VideoInput(torch.from_numpy(pixels.reshape(shape)), fps)
