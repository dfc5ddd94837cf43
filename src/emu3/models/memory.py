"""Memory planning: bytes that a model needs in each precision, and bytes that are available."""

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

CFG_ROWS = 2  # sequences of one guided image: the prompt's and the negative prompt's
# Peak activations of the vision tokenizer's decoder, in units of one float32 tensor of `ch`
# channels at full image resolution. Measured on the published model: 5.1 GB at 720x720 (9.6 units)
# and 9.2 GB at 1024x1024 (8.5 units).
VISION_ACTIVATION_UNITS = 10
RESERVE_BYTES = 0.5e9  # everything not counted otherwise
# Share of the free memory that KV caches may take: a cache exists twice while rows are appended.
KV_CACHE_SHARE = 0.4


def weight_bytes(config: DecoderConfig, precision: Precision) -> int:
    """Bytes of a decoder's weights. Raises InputError where `precision` does not fit its shapes."""
    with torch.device("meta"):
        model = Transformer(config)
    install_quantized_modules(model, precision)
    return sum(
        tensor.numel()
        * (precision.dtype if tensor.dtype == torch.float32 else tensor.dtype).itemsize
        for tensor in model.state_dict().values()
    )


def kv_cache_bytes(config: DecoderConfig, tokens: int, precision: Precision) -> int:
    """Bytes of the KV cache of one image with guidance; `tokens` include the prompt."""
    return CFG_ROWS * tokens * _token_bytes(config, precision.dtype)


def max_kv_cache_tokens(model: Transformer) -> int:
    """Tokens that KV caches may hold in the memory that is free now, over all sequences; >= 1."""
    token_bytes = _token_bytes(model.config, model.dtype)
    return max(1, int(KV_CACHE_SHARE * available_bytes(model.device) / token_bytes))


def _token_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one token of one sequence, over all layers."""
    channels = config.num_key_value_heads * config.head_dim
    return 2 * config.num_hidden_layers * channels * dtype.itemsize


def vision_decode_bytes(config: DecoderConfig, vision: VisionConfig) -> int:
    """Bytes to decode an image of `config.image_area` pixels, including the tokenizer's weights."""
    with torch.device("meta"):
        model = VisionTokenizer(vision)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return weights + VISION_ACTIVATION_UNITS * vision.ch * 4 * config.image_area


def required_bytes(config: DecoderConfig, vision: VisionConfig, precision: Precision) -> int:
    """Bytes to generate one image of `config.image_area` pixels with guidance."""
    tokens = min(
        config.max_position_embeddings,
        # 5% more than the visual codes for EOL and EOF tokens, and 256 tokens of prompt.
        int(1.05 * config.image_area / vision.spatial_factor**2) + 256,
    )
    decoder = weight_bytes(config, precision) + kv_cache_bytes(config, tokens, precision)
    return decoder + vision_decode_bytes(config, vision) + int(RESERVE_BYTES)


def available_bytes(device: torch.device) -> int:
    """Bytes that this process could allocate now on a GPU, or on the machine (or container)."""
    if device.type == "cuda":
        # Memory that PyTorch's allocator has reserved but does not use is available, too.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    limits = [_meminfo(), _cgroup_available()]
    return min(limit for limit in limits if limit is not None)


def widest_fitting_precision(
    config: DecoderConfig, vision: VisionConfig, device: torch.device
) -> Precision:
    """The widest precision in which one image can be generated in the available memory.

    At most float32 on a CPU and bfloat16 on a GPU. If none fits, the narrowest that the model's
    shapes allow; running out of memory is then reported where it happens.
    """
    have = available_bytes(device)
    widest = (BF16,) if device.type == "cuda" else (FP32, BF16)
    best = widest[0]
    for precision in (*widest, INT8, INT4):
        try:
            need = required_bytes(config, vision, precision)
        except InputError:
            continue  # the matrix widths are no multiple of the group size
        best = precision
        if need <= have:
            return precision
    return best


def _meminfo() -> int:
    """Available memory as Linux reports it; on other systems, the total memory."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_available() -> int | None:
    """What remains of the control group's memory limit (a container's), or None without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
