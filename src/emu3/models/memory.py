"""How much memory a model needs in each precision, how much there is, and so which one fits."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from emu3.config import DecoderConfig, VisionConfig
from emu3.errors import InputError
from emu3.models.precision import BF16, FP32, INT4, INT8, Precision
from emu3.models.quantization import install_quantized_modules
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer

GUIDED = 2  # sequences in a batch: the prompt's and the negative prompt's
# Of the vision tokenizer's finest level, `ch` channels of float32 for each pixel, while it decodes.
# Measured at its true size: 5.1 GB at 720x720 and 9.2 GB at 1024x1024, which are 9.6 and 8.5.
FINEST = 10
SPARE = 0.5e9  # bytes for everything else
SHARE = 0.4  # of the free memory for caches: while rows join one, it is there twice


def weight_bytes(config: DecoderConfig, to: Precision) -> int:
    """Of a decoder held in a precision. Raises InputError where its widths do not allow it."""
    with torch.device("meta"):
        model = Transformer(config)
    install_quantized_modules(model, to)
    return sum(
        tensor.numel() * (to.dtype if tensor.dtype == torch.float32 else tensor.dtype).itemsize
        for tensor in model.state_dict().values()
    )


def kv_cache_bytes(config: DecoderConfig, ids: int, to: Precision) -> int:
    """Of the keys and values of a guided picture of so many ids, prompts included."""
    return GUIDED * ids * _place_bytes(config, to.dtype)


def max_kv_cache_tokens(model: Transformer) -> int:
    """How many ids of one row fit into a cache of the memory that is free now, one at least."""
    place = _place_bytes(model.config, model.dtype)
    return max(1, int(SHARE * available_bytes(model.device) / place))


def _place_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Of the keys and values of one id of one row."""
    channels = config.num_key_value_heads * config.head_dim
    return 2 * config.num_hidden_layers * channels * dtype.itemsize


def vision_decode_bytes(config: DecoderConfig, vision: VisionConfig) -> int:
    """What the vision tokenizer takes, weights included, to decode a picture of the usual area."""
    with torch.device("meta"):
        model = VisionTokenizer(vision)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return weights + FINEST * vision.ch * 4 * config.image_area


def required_bytes(config: DecoderConfig, vision: VisionConfig, to: Precision) -> int:
    """Bytes to draw one guided picture of the usual area."""
    ids = min(
        config.max_position_embeddings,
        int(1.05 * config.image_area / vision.spatial_factor**2) + 256,  # line ends, and words
    )
    drawing = weight_bytes(config, to) + kv_cache_bytes(config, ids, to)
    return drawing + vision_decode_bytes(config, vision) + int(SPARE)


def available_bytes(device: torch.device) -> int:
    """Bytes that a process could take now, on a GPU or of the machine (and of its container)."""
    if device.type == "cuda":
        # What PyTorch holds and does not use is its own to give again.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    limits = [_meminfo(), _container()]
    return min(limit for limit in limits if limit is not None)


def widest_fitting_precision(
    config: DecoderConfig, vision: VisionConfig, device: torch.device
) -> Precision:
    """The widest precision in which a picture fits: float32 or less on a CPU, bfloat16 or less on
    a GPU. The narrowest possible where none does; whoever runs out of memory is told so then.
    """
    have = available_bytes(device)
    widest = (BF16,) if device.type == "cuda" else (FP32, BF16)
    best = widest[0]
    for to in (*widest, INT8, INT4):
        try:
            need = required_bytes(config, vision, to)
        except InputError:
            continue  # its widths do not divide into groups
        best = to
        if need <= have:
            return to
    return best


def _meminfo() -> int:
    """What Linux could free for a process; elsewhere the whole of the memory."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container() -> int | None:
    """What a control group leaves of its limit, if it has one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
