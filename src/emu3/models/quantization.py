"""Weights of 8 and 4 bits: how numbers become few, and modules that compute with them.

Weight-only: activations stay bfloat16. At 8 bits a row of a matrix has one scale; at 4 bits every
group of its columns has a scale and a zero point, both fitted by rounding to nearest. Embeddings
and the head have 8 bits in either case: they are read a row at a time, and a picture's codes are
decided by small differences between the rows of the head. Norms are not quantised.

A module keeps its numbers in the form of the files. On a CPU in bfloat16 a 4-bit one changes
to the form of PyTorch's kernel at its first use; the bytes are as many.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.errors import InputError
from emu3.models.precision import Precision
from emu3.models.transformer import Transformer

LEVELS = 15  # steps between the least and the greatest of a group at 4 bits
MIDDLE = 8  # what PyTorch's kernel subtracts from a 4-bit number before it scales it
KERNEL_ROWS = 16  # PyTorch's 4-bit CPU kernel takes rows in such bundles
KERNEL_BUNDLE = 256  # rows brought into its order at a time; a multiple of its largest block, 64
KERNEL_GROUPS = (32, 64, 128, 256)


def quantize_int8(rows: Tensor) -> dict[str, Tensor]:
    """Rows [n, in] as `weight` [n, in] int8 and `scale` [n] bfloat16: row = weight * scale."""
    wide = rows.float()
    scale = (wide.abs().amax(1).clamp_min(1e-12) / 127).to(torch.bfloat16)
    weight = (wide / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return {"weight": weight, "scale": scale}


def dequantize_int8(weight: Tensor, scale: Tensor) -> Tensor:
    """Back to float32."""
    return weight.float() * scale.float()[..., None]


def quantize_int4(rows: Tensor, group: int) -> dict[str, Tensor]:
    """Rows [n, in] as `weight` [n, in/2] uint8, `scale` and `zero` [n, in/group] bfloat16.

    A byte holds two columns, the even one in its low half. A group's numbers are
    (weight - 8) * scale + zero.
    """
    wide = rows.float().unflatten(1, (-1, group))
    least, most = wide.aminmax(dim=2, keepdim=True)
    scale = ((most - least).clamp_min(1e-12) / LEVELS).to(torch.bfloat16)
    zero = (least + MIDDLE * scale.float()).to(torch.bfloat16)
    steps = ((wide - zero.float()) / scale.float() + MIDDLE).round().clamp(0, LEVELS)
    low, high = steps.flatten(1).to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
    return {"weight": low | high << 4, "scale": scale[..., 0], "zero": zero[..., 0]}


def dequantize_int4(weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Back to float32."""
    steps = _steps(weight).float().unflatten(1, (scale.shape[1], -1))
    return ((steps - MIDDLE) * scale.float()[..., None] + zero.float()[..., None]).flatten(1)


def _steps(weight: Tensor) -> Tensor:
    """[n, in/2] bytes to [n, in] numbers 0 to 15."""
    return torch.stack([weight & 15, weight >> 4], dim=2).flatten(1)


class Quantized(nn.Module):
    """A matrix [out, in] of few bits; its buffers are what the files hold."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    def quantize(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows [n, in] of the dense matrix to the same rows of each buffer."""
        raise NotImplementedError

    def dequantize(self) -> Tensor:
        """The matrix that this one stands for, [out, in] float32."""
        raise NotImplementedError


class Int8Matrix(Quantized):
    """8 bits, a scale a row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(shape)
        self.register_buffer("weight", torch.empty(shape, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(shape[0], dtype=torch.bfloat16))

    def quantize(self, rows: Tensor) -> dict[str, Tensor]:
        """[n, in] to [n, in] int8 and [n]."""
        return quantize_int8(rows)

    def dequantize(self) -> Tensor:
        """[out, in] float32."""
        return dequantize_int8(self.weight, self.scale)


class Int8Linear(Int8Matrix):
    """In the place of `nn.Linear` and of the head."""

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """[..., in] to [..., out], or to some rows of it."""
        weight, scale = self.weight, self.scale
        if rows is not None:
            weight, scale = weight[rows], scale[rows]
        if x.device.type != "cpu" or x.dtype != scale.dtype:
            return F.linear(x, dequantize_int8(weight, scale).to(x.dtype))
        out = torch.ops.aten._weight_int8pack_mm(x.flatten(0, -2), weight, scale)
        return out.unflatten(0, x.shape[:-1])


class Int8Embedding(Int8Matrix):
    """In the place of `nn.Embedding`."""

    def forward(self, ids: Tensor) -> Tensor:
        """[B, L] to [B, L, in] bfloat16."""
        return dequantize_int8(self.weight[ids], self.scale[ids]).to(self.scale.dtype)


class Int4Linear(Quantized):
    """In the place of `nn.Linear`: 4 bits, a scale and a zero point a group.

    Raises InputError on a width that the groups do not divide.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, shape: tuple[int, int], group: int) -> None:
        super().__init__(shape)
        if shape[1] % group:
            raise InputError(
                f"int4: {shape[1]} columns do not divide into groups of {group}; use int8, "
                f"or another group size"
            )
        self.group_size = group
        self.scales: Tensor | None = None  # the kernel's, once `weight` is in its order
        groups = (shape[0], shape[1] // group)
        self.register_buffer("weight", torch.empty(shape[0], shape[1] // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.empty(groups, dtype=torch.bfloat16))
        self.register_buffer("zero", torch.empty(groups, dtype=torch.bfloat16))

    def quantize(self, rows: Tensor) -> dict[str, Tensor]:
        """[n, in] to [n, in/2] uint8 and twice [n, in/group]."""
        return quantize_int4(rows, self.group_size)

    def dequantize(self) -> Tensor:
        """[out, in] float32; raises ValueError once the kernel has the numbers."""
        if self.scales is not None:
            raise ValueError("already in the order of the kernel")
        return dequantize_int4(self.weight, self.scale, self.zero)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if not self._has_kernel(x):
            return F.linear(x, self.dequantize().to(x.dtype))
        scales = self._pack() if self.scales is None else self.scales
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.flatten(0, -2), self.weight, self.group_size, scales
        )
        return out.unflatten(0, x.shape[:-1])

    def _has_kernel(self, x: Tensor) -> bool:
        fits = self.shape[0] % KERNEL_ROWS == 0 and self.group_size in KERNEL_GROUPS
        return fits and x.device.type == "cpu" and x.dtype == torch.bfloat16

    def _pack(self) -> Tensor:
        """Bring the numbers into the kernel's order, in their place; returns its scales.

        Some rows at a time, and copied over: what a large piece leaves on the heap when it is freed
        would not come back to the system (5 GB more for the published model, measured).
        """
        for rows in self.weight.split(KERNEL_BUNDLE):
            steps = _steps(rows).int()
            rows.copy_(torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, 2))
        self.scales = torch.stack([self.scale.T, self.zero.T], dim=2).contiguous()
        self.scale, self.zero = self.scale.new_empty(0), self.zero.new_empty(0)
        return self.scales


def make_quantized_module(name: str, shape: tuple[int, ...], to: Precision) -> Quantized | None:
    """An empty module for the matrix of that name; None for what stays as it is."""
    if to.bits is None or len(shape) != 2:
        return None
    matrix = (shape[0], shape[1])
    if name.endswith("embed_tokens.weight"):
        return Int8Embedding(matrix)
    if name.endswith("lm_head.weight") or to.bits == 8:
        return Int8Linear(matrix)
    return Int4Linear(matrix, to.group_size)


def precision_of(model: Transformer) -> str:
    """In which precision a decoder is held: "fp32", "bf16", "int8" or "int4"."""
    kinds = {type(module) for module in model.modules()}
    if Int4Linear in kinds:
        return "int4"
    if Int8Linear in kinds:
        return "int8"
    return "fp32" if model.dtype == torch.float32 else "bf16"


def install_quantized_modules(model: Transformer, to: Precision) -> None:
    """Put empty quantised modules where a decoder, still without weights, has matrices."""
    for name, parameter in list(model.named_parameters()):
        path, _ = name.rsplit(".", 1)
        with torch.device(parameter.device):
            module = make_quantized_module(name, tuple(parameter.shape), to)
        if module is not None:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, module)
