"""Optimizations for inference: fewer, larger matrix products and weights in the kernel's layout.

A decoding step reads every weight once and computes little, so memory bandwidth decides. The q, k
and v projections become one matmul (`qkv_proj`), gate and up another (`gate_up_proj`). On a CPU,
matrices are reordered into oneDNN's layout, which is read three times as fast as plain rows in
float32 and a quarter faster in bfloat16. Quantized matrices are concatenated but not reordered.

`optimize_for_inference` changes a decoder in place, one matrix at a time, so that no weight is held
twice. Results equal those of the plain decoder up to rounding, which a test checks. An optimized
decoder can be neither trained nor saved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.models.attention import Attention
from emu3.models.quantization import Quantized
from emu3.models.transformer import MLP, Block, LMHead, Transformer
from emu3.models.vq.tokenizer import VisionTokenizer

MIN_ROWS = 4  # oneDNN reads a matrix a quarter faster for four rows than for one or two


class OneDNNLinear(nn.Module):
    """A matrix [out, in] in oneDNN's layout, which only oneDNN can read."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        # The hint of 64 rows suits passes of 3 to 8 rows best, and costs one of 1 or 2 nothing.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, 64)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        rows = x.flatten(0, -2)
        if len(rows) < MIN_ROWS:
            rows = F.pad(rows, (0, 0, 0, MIN_ROWS - len(rows)))
        out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, None, "none", [], "")
        return out[: x.numel() // x.shape[-1]].unflatten(0, x.shape[:-1])


class FusedAttention(Attention):
    """`Attention` with one product for queries, keys and values."""

    def __init__(self, plain: Attention) -> None:
        nn.Module.__init__(self)
        self.layer, self.dropout = plain.layer, plain.dropout
        self.heads, self.kv_heads = plain.heads, plain.kv_heads
        self.qkv_proj = concat_linears([plain.q_proj, plain.k_proj, plain.v_proj])
        self.o_proj = concat_linears([plain.o_proj])  # type: ignore[assignment]

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values, concatenated."""
        return self.qkv_proj(x)


class FusedMLP(MLP):
    """`MLP` with one product for gate and up."""

    def __init__(self, plain: MLP) -> None:
        nn.Module.__init__(self)
        self.gate_up_proj = concat_linears([plain.gate_proj, plain.up_proj])
        self.down_proj = concat_linears([plain.down_proj])  # type: ignore[assignment]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gate and values."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return gate, up


class LMHeadWithVisualRows(LMHead):
    """`LMHead` with a copy of the rows of the visual codes, which image steps need."""

    def __init__(self, plain: LMHead, codes: slice) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight = plain.weight
        self.register_parameter("bias", None)
        self.rows = slice(codes.start, codes.stop)
        self.codes = _matrix(plain.weight.detach()[codes].contiguous())

    def forward(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """[..., hidden] to [..., rows]."""
        return self.codes(hidden) if rows == self.rows else super().forward(hidden, rows)


@torch.no_grad()
def optimize_for_inference(model: Transformer, codes: slice) -> Transformer:
    """Optimize a decoder in place; `codes` are the ids of visual codes. Returns the decoder."""
    for block in model.model.layers:
        assert isinstance(block, Block)
        block.self_attn = FusedAttention(block.self_attn)
        block.mlp = FusedMLP(block.mlp)
    if isinstance(model.lm_head, LMHead):
        model.lm_head = LMHeadWithVisualRows(model.lm_head, codes)
    model.optimized_for_inference = True
    return model.eval()


def optimize_vision_tokenizer(model: VisionTokenizer) -> VisionTokenizer:
    """Optimize a vision tokenizer in place: its convolutions use channels-last weights.

    oneDNN computes in that layout and otherwise converts around every convolution. At the
    published size an image decodes a fifth faster.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
    return model.eval()


def concat_linears(parts: Sequence[nn.Module]) -> nn.Module:
    """Matrices of one width as one, with concatenated outputs.

    The parts lose their weights, so that both are never held at once.
    """
    if isinstance(parts[0], Quantized):
        return _concat_quantized([part for part in parts if isinstance(part, Quantized)])
    whole = parts[0].get_parameter("weight").detach()
    if len(parts) > 1:
        whole = torch.cat([part.get_parameter("weight").detach() for part in parts])
    for part in parts:
        part.register_parameter("weight", None)
    return _matrix(whole)


def _concat_quantized(parts: list[Quantized]) -> Quantized:
    """The rows of quantized matrices in one module of the same kind."""
    whole = parts[0]
    for name in dict(whole.named_buffers()):
        whole.register_buffer(name, torch.cat([part.get_buffer(name) for part in parts]))
    whole.shape = (sum(part.shape[0] for part in parts), whole.shape[1])
    return whole


def _matrix(weight: Tensor) -> nn.Module:
    """The fastest module that multiplies by a dense matrix on its device."""
    if packable(weight):
        return OneDNNLinear(weight)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def packable(weight: Tensor) -> bool:
    """Whether oneDNN has a kernel for the matrix on this CPU."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
