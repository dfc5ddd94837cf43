"""Quantization error bounds, kernels against dequantized arithmetic, loading and saving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from emu3.checkpoints.convert import convert_checkpoint
from emu3.checkpoints.loading import DeviceConfig, load_checkpoint, save_decoder
from emu3.checkpoints.weights import load_decoder
from emu3.errors import InputError
from emu3.models.precision import BF16, INT4, INT8, Precision, parse_precision
from emu3.models.quantization import (
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    Quantized,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
)
from emu3.testing import byte_tokenizer, tiny_checkpoint, tiny_decoder

CPU = torch.device("cpu")
SMALL4 = replace(INT4, group_size=16)  # the tiny decoder is 32 and 48 wide


def matrix(rows: int = 48, columns: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def filled(module: Quantized, dense: Tensor) -> Quantized:
    module.load_state_dict(module.quantize(dense))
    return module


@given(st.floats(1e-6, 1e6), st.integers(0, 99))
def test_int8_error_is_at_most_half_a_step(size: float, seed: int) -> None:
    dense = matrix(seed=seed) * size
    parts = quantize_int8(dense)
    step = parts["scale"].float()[:, None]
    assert ((dequantize_int8(**parts) - dense).abs() <= step * 1.01).all()
    inner = dense.abs() < 126 * step
    assert (
        (dequantize_int8(**parts) - dense).abs()[inner] <= (step * 0.501).expand_as(dense)[inner]
    ).all()


@given(st.sampled_from([16, 32, 64]), st.floats(-3, 3), st.integers(0, 99))
def test_int4_error_is_about_half_a_step(group: int, shift: float, seed: int) -> None:
    """Slightly more than half: scale and zero point are rounded to bfloat16."""
    dense = matrix(seed=seed) + shift
    parts = quantize_int4(dense, group)
    assert parts["weight"].shape == (48, 32)
    assert parts["scale"].shape == parts["zero"].shape == (48, 64 // group)
    step = parts["scale"].float().repeat_interleave(group, 1)
    rounding = parts["zero"].float().abs().repeat_interleave(group, 1) / 128
    assert ((dequantize_int4(**parts) - dense).abs() <= step * 0.6 + rounding + step / 8).all()


def test_zeros_stay_zero() -> None:
    zeros = torch.zeros(16, 64)
    assert dequantize_int8(**quantize_int8(zeros)).abs().max() == 0
    assert dequantize_int4(**quantize_int4(zeros, 32)).abs().max() < 1e-6


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_rows_are_quantized_independently(rows: int) -> None:
    """So that a file can be quantized block by block."""
    dense = matrix()
    for whole, part in (
        (quantize_int8(dense), quantize_int8(dense[:rows])),
        (quantize_int4(dense, 32), quantize_int4(dense[:rows], 32)),
    ):
        assert all(torch.equal(whole[name][:rows], part[name]) for name in whole)


@pytest.mark.parametrize(
    "make",
    [
        lambda: filled(Int8Linear((48, 64)), matrix()),
        lambda: filled(Int4Linear((48, 64), 32), matrix()),
        lambda: filled(Int4Linear((592, 64), 64), matrix(592)),  # more rows than PACK_ROWS
        lambda: filled(Int4Linear((40, 64), 16), matrix(40)),  # no kernel for this shape
    ],
)
@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (2, 5, 64)])
def test_kernels_match_dequantized_arithmetic(
    make: Callable[[], Quantized], shape: tuple[int, ...]
) -> None:
    module = make()
    dense = module.dequantize()
    x = torch.randn(shape).to(torch.bfloat16)
    want = F.linear(x.float(), dense)
    got = module(x)
    assert (got.dtype, got.shape) == (torch.bfloat16, want.shape)
    assert (got.float() - want).norm() / want.norm() < 5e-3
    assert torch.equal(module(x), got)  # again, in the kernel's layout


def test_output_slice_equals_slice_of_output() -> None:
    head = filled(Int8Linear((48, 64)), matrix())
    x = torch.randn(2, 3, 64).to(torch.bfloat16)
    assert torch.equal(head(x, slice(16, 40)), head(x)[..., 16:40])


def test_embedding_looks_up_dequantized_rows() -> None:
    embedding = filled(Int8Embedding((48, 64)), matrix())
    ids = torch.tensor([[0, 47], [3, 3]])
    assert torch.equal(embedding(ids), embedding.dequantize()[ids].to(torch.bfloat16))


def test_group_size_must_divide_columns() -> None:
    with pytest.raises(InputError, match="64 columns do not divide into groups of 48"):
        Int4Linear((48, 64), 48)


def matrices(model: nn.Module) -> dict[str, str]:
    return {
        name: type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, Quantized)
    }


@pytest.mark.parametrize("to", [INT8, SMALL4])
def test_stored_equals_quantized_while_loading(tmp_path: Path, to: Precision) -> None:
    """Quantizing while loading and `emu3 quantize` give identical weights."""
    tiny_checkpoint().save(tmp_path / "dense")
    convert_checkpoint(tmp_path / "dense", None, tmp_path / "few", precision=to)
    at_once = load_checkpoint(tmp_path / "dense", None, DeviceConfig(CPU, to)).decoder
    stored = load_checkpoint(tmp_path / "few", None, DeviceConfig(CPU, None)).decoder
    assert matrices(at_once) == matrices(stored)
    assert matrices(stored)["lm_head"] == "Int8Linear"
    assert matrices(stored)["model.embed_tokens"] == "Int8Embedding"
    mine, theirs = at_once.state_dict(), stored.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    ids = torch.tensor([[1, 2, 3, 300]])
    assert torch.equal(at_once(ids), stored(ids))
    dense = load_decoder(tmp_path / "dense", BF16, CPU)(ids)
    assert (stored(ids) - dense).norm() / dense.norm() < (0.05 if to is INT8 else 0.5)


def test_quantized_checkpoint_is_not_requantized(tmp_path: Path) -> None:
    tiny_checkpoint().save(tmp_path / "dense")
    convert_checkpoint(tmp_path / "dense", None, tmp_path / "few", precision=INT8)
    for wanted in ("fp32", "bf16", "int4"):
        with pytest.raises(InputError, match="stored as int8"):
            load_checkpoint(tmp_path / "few", None, DeviceConfig(CPU, parse_precision(wanted)))
    with pytest.raises(InputError, match="already quantized to int8"):
        convert_checkpoint(tmp_path / "few", None, tmp_path / "fewer", precision=INT8)
    with pytest.raises(InputError, match="quantized in memory"):
        load_checkpoint(tmp_path / "few", None, DeviceConfig(CPU, None)).save(tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "few"]


def test_loading_reports_indivisible_widths(tmp_path: Path) -> None:
    save_decoder(tiny_decoder(), byte_tokenizer(), tmp_path)
    with pytest.raises(InputError, match="32 columns do not divide into groups of 64"):
        load_decoder(tmp_path, INT4, CPU)


@pytest.mark.parametrize("wanted", ["int3", "", "float16", "fp16"])
def test_unknown_precision_raises(wanted: str) -> None:
    with pytest.raises(InputError, match="use one of fp32, bf16, int8, int4"):
        parse_precision(wanted)
