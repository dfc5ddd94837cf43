"""Weight-only quantization to 8 and 4 bits: round-to-nearest, and modules that compute with it.

Activations stay bfloat16. int8 has one scale per matrix row; int4 has a scale and a zero point per
group of columns in a row. With int4, embeddings and the language-model head are int8 nevertheless:
an embedding reads single rows, and image generation depends on small differences between the rows
of the head. Norms are not quantized.

Buffers have the layout of the weight files. On a CPU, an int4 module converts its buffers to the
layout of PyTorch's kernel on first use with bfloat16 activations; the size does not change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.errors import InputError
from emu3.models.precision import Precision
from emu3.models.transformer import Transformer

INT4_MAX = 15
INT4_OFFSET = 8  # PyTorch's kernel subtracts it before scaling
KERNEL_ROW_MULTIPLE = 16  # rows that PyTorch's 4-bit CPU kernel requires a multiple of
PACK_ROWS = 256  # rows converted at a time; a multiple of the kernel's largest block, 64
KERNEL_GROUP_SIZES = (32, 64, 128, 256)


def quantize_int8(rows: Tensor) -> dict[str, Tensor]:
    """Rows [n, in] to `weight` [n, in] int8 and `scale` [n] bfloat16: row = weight * scale."""
    wide = rows.float()
    scale = (wide.abs().amax(1).clamp_min(1e-12) / 127).to(torch.bfloat16)
    weight = (wide / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return {"weight": weight, "scale": scale}


def dequantize_int8(weight: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `quantize_int8`: float32 [n, in]."""
    return weight.float() * scale.float()[..., None]


def quantize_int4(rows: Tensor, group: int) -> dict[str, Tensor]:
    """Rows [n, in] to `weight` [n, in/2] uint8, `scale` and `zero` [n, in/group] bfloat16.

    A byte holds two columns, the even one in its low half. The value of a column is
    (weight - 8) * scale + zero, with the scale and zero point of its group.
    """
    wide = rows.float().unflatten(1, (-1, group))
    least, most = wide.aminmax(dim=2, keepdim=True)
    scale = ((most - least).clamp_min(1e-12) / INT4_MAX).to(torch.bfloat16)
    zero = (least + INT4_OFFSET * scale.float()).to(torch.bfloat16)
    steps = ((wide - zero.float()) / scale.float() + INT4_OFFSET).round().clamp(0, INT4_MAX)
    low, high = steps.flatten(1).to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
    return {"weight": low | high << 4, "scale": scale[..., 0], "zero": zero[..., 0]}


def dequantize_int4(weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The inverse of `quantize_int4`: float32 [n, in]."""
    steps = _unpack(weight).float().unflatten(1, (scale.shape[1], -1))
    return ((steps - INT4_OFFSET) * scale.float()[..., None] + zero.float()[..., None]).flatten(1)


def _unpack(weight: Tensor) -> Tensor:
    """[n, in/2] uint8 to [n, in] numbers 0 to 15."""
    return torch.stack([weight & 15, weight >> 4], dim=2).flatten(1)


class Quantized(nn.Module):
    """Base of quantized matrices [out, in]; the buffers are what the weight files hold."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    def quantize(self, rows: Tensor) -> dict[str, Tensor]:
        """Quantize dense rows [n, in] to the same rows of each buffer, by name."""
        raise NotImplementedError

    def dequantize(self) -> Tensor:
        """The dense matrix [out, in] float32."""
        raise NotImplementedError


class Int8Matrix(Quantized):
    """An 8-bit matrix with one scale per row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(shape)
        self.register_buffer("weight", torch.empty(shape, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(shape[0], dtype=torch.bfloat16))

    def quantize(self, rows: Tensor) -> dict[str, Tensor]:
        """Dense rows [n, in] to `weight` [n, in] int8 and `scale` [n]."""
        return quantize_int8(rows)

    def dequantize(self) -> Tensor:
        """The dense matrix [out, in] float32."""
        return dequantize_int8(self.weight, self.scale)


class Int8Linear(Int8Matrix):
    """Replaces `nn.Linear` and `LMHead`."""

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """x [..., in] to [..., out]; `rows` restricts it to a slice of the outputs."""
        weight, scale = self.weight, self.scale
        if rows is not None:
            weight, scale = weight[rows], scale[rows]
        if x.device.type != "cpu" or x.dtype != scale.dtype:
            return F.linear(x, dequantize_int8(weight, scale).to(x.dtype))
        out = torch.ops.aten._weight_int8pack_mm(x.flatten(0, -2), weight, scale)
        return out.unflatten(0, x.shape[:-1])


class Int8Embedding(Int8Matrix):
    """Replaces `nn.Embedding`."""

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [B, L] to embeddings [B, L, in] bfloat16."""
        return dequantize_int8(self.weight[ids], self.scale[ids]).to(self.scale.dtype)


class Int4Linear(Quantized):
    """Replaces `nn.Linear`: 4 bits, with a scale and a zero point per group of columns.

    Raises InputError if the number of columns is no multiple of the group size.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, shape: tuple[int, int], group: int) -> None:
        super().__init__(shape)
        if shape[1] % group:
            raise InputError(
                f"int4: {shape[1]} columns do not divide into groups of {group}; "
                "use int8, or another group size"
            )
        self.group_size = group
        self.packed_scales: Tensor | None = None  # set once `weight` has the kernel's layout
        groups = (shape[0], shape[1] // group)
        self.register_buffer("weight", torch.empty(shape[0], shape[1] // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.empty(groups, dtype=torch.bfloat16))
        self.register_buffer("zero", torch.empty(groups, dtype=torch.bfloat16))

    def quantize(self, rows: Tensor) -> dict[str, Tensor]:
        """Dense rows [n, in] to `weight` [n, in/2] uint8, `scale` and `zero` [n, in/group]."""
        return quantize_int4(rows, self.group_size)

    def dequantize(self) -> Tensor:
        """The dense matrix [out, in] float32.

        Raises ValueError after the buffers were converted to the kernel's layout.
        """
        if self.packed_scales is not None:
            raise ValueError("the weights are already in the layout of the CPU kernel")
        return dequantize_int4(self.weight, self.scale, self.zero)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        if not self._has_kernel(x):
            return F.linear(x, self.dequantize().to(x.dtype))
        scales = self._pack() if self.packed_scales is None else self.packed_scales
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.flatten(0, -2), self.weight, self.group_size, scales
        )
        return out.unflatten(0, x.shape[:-1])

    def _has_kernel(self, x: Tensor) -> bool:
        fits = self.shape[0] % KERNEL_ROW_MULTIPLE == 0 and self.group_size in KERNEL_GROUP_SIZES
        return fits and x.device.type == "cpu" and x.dtype == torch.bfloat16

    def _pack(self) -> Tensor:
        """Convert the buffers to the kernel's layout in place; returns its scales.

        Works on `PACK_ROWS` rows at a time and copies them over the old ones: freed large
        temporaries are not returned to the system (measured: 5 GB more for the published model).
        """
        for rows in self.weight.split(PACK_ROWS):
            steps = _unpack(rows).int()
            rows.copy_(torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, 2))
        self.packed_scales = torch.stack([self.scale.T, self.zero.T], dim=2).contiguous()
        self.scale, self.zero = self.scale.new_empty(0), self.zero.new_empty(0)
        return self.packed_scales


def make_quantized_module(
    name: str, shape: tuple[int, ...], precision: Precision
) -> Quantized | None:
    """An empty quantized module for the parameter `name`, or None if it is not quantized."""
    if precision.bits is None or len(shape) != 2:
        return None
    matrix = (shape[0], shape[1])
    if name.endswith("embed_tokens.weight"):
        return Int8Embedding(matrix)
    if name.endswith("lm_head.weight") or precision.bits == 8:
        return Int8Linear(matrix)
    return Int4Linear(matrix, precision.group_size)


def precision_of(model: Transformer) -> str:
    """The precision of a decoder's weights: "fp32", "bf16", "int8" or "int4"."""
    kinds = {type(module) for module in model.modules()}
    if Int4Linear in kinds:
        return "int4"
    if Int8Linear in kinds:
        return "int8"
    return "fp32" if model.dtype == torch.float32 else "bf16"


def install_quantized_modules(model: Transformer, precision: Precision) -> None:
    """Replace the matrices of a decoder by empty quantized modules, before weights are loaded."""
    for name, parameter in list(model.named_parameters()):
        path, _ = name.rsplit(".", 1)
        with torch.device(parameter.device):
            module = make_quantized_module(name, tuple(parameter.shape), precision)
        if module is not None:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, module)
