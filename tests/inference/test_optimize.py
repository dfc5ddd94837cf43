"""A decoder made ready computes what the plain one computes."""

from __future__ import annotations

import copy

import pytest
import torch

from emu3.inference import optimize as fuse
from emu3.inference.optimize import optimize_for_inference, optimize_vision_tokenizer
from emu3.models.precision import BF16, FP32, INT4, INT8, Precision
from emu3.models.quantization import Quantized, install_quantized_modules
from emu3.models.transformer import Transformer
from emu3.testing import byte_tokenizer, tiny_decoder, tiny_vision

V = byte_tokenizer().vocabulary


def held_in(to: Precision) -> Transformer:
    """A decoder wide enough for groups of 64, in a precision."""
    plain = tiny_decoder(hidden_size=128, intermediate_size=192)
    if to.bits is None:
        return plain.to(to.dtype)
    model = copy.deepcopy(plain).to(to.dtype)
    install_quantized_modules(model, to)
    for name, module in model.named_modules():
        if isinstance(module, Quantized):
            for part, rows in module.quantize(plain.get_parameter(f"{name}.weight")).items():
                module.get_buffer(part).copy_(rows)
    return model.eval()


@pytest.mark.parametrize("to", [FP32, BF16, INT8, INT4], ids=lambda to: to.name)
@torch.no_grad()
def test_optimized_equals_plain(to: Precision) -> None:
    """All at once and one by one, whole vocabulary and codes alone."""
    plain, model = held_in(to), optimize_for_inference(held_in(to), V.visual)
    ids = torch.randint(V.size, (2, 9))
    near = {"atol": 1e-5, "rtol": 1e-5} if to is FP32 else {"atol": 0.1, "rtol": 0.05}
    torch.testing.assert_close(model(ids), plain(ids), **near)
    hidden = model.forward_hidden(ids)
    rows = model.compute_logits(hidden, V.visual)
    torch.testing.assert_close(rows, model.compute_logits(hidden)[..., V.visual], **near)
    cache = model.new_cache(2, 9)
    parts = [model(part, cache) for part in ids.split([5, 1, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), plain(ids), **near)


@torch.no_grad()
def test_without_a_kernel_linears_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "packable", lambda weight: False)
    plain, model = tiny_decoder(), optimize_for_inference(tiny_decoder(), V.visual)
    assert not any(isinstance(module, fuse.OneDNNLinear) for module in model.modules())
    ids = torch.randint(V.size, (2, 9))
    torch.testing.assert_close(model(ids), plain(ids), atol=1e-5, rtol=1e-5)


def test_fewer_and_larger_products() -> None:
    plain, model = tiny_decoder(), tiny_decoder()
    assert not model.optimized_for_inference
    assert optimize_for_inference(model, V.visual).optimized_for_inference
    for block in model.model.layers:
        assert not any(hasattr(block.self_attn, name) for name in ("q_proj", "k_proj", "v_proj"))
        assert len(list(block.mlp.children())) == 2
    assert len(list(plain.model.layers[0].mlp.children())) == 3


@torch.no_grad()
def test_head_rows_equal_the_full_head() -> None:
    plain, model = tiny_decoder(), optimize_for_inference(tiny_decoder(), V.visual)
    hidden = torch.randn(2, 3, 32)
    for rows in (None, V.visual, slice(5, 9)):
        near = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(
            model.compute_logits(hidden, rows), plain.compute_logits(hidden, rows), **near
        )


@torch.no_grad()
def test_optimized_vision_tokenizer_equals_plain() -> None:
    plain, model = tiny_vision(), optimize_vision_tokenizer(tiny_vision())
    pixels = torch.rand(2, 3, 24, 16) * 2 - 1
    torch.testing.assert_close(
        model.encode_latent(pixels), plain.encode_latent(pixels), atol=1e-6, rtol=1e-4
    )
    codes = plain.encode(pixels)
    torch.testing.assert_close(model.decode(codes), plain.decode(codes), atol=1e-4, rtol=1e-4)
    clip = torch.rand(1, 8, 3, 16, 16) * 2 - 1
    moved = model.encode_groups(clip) != plain.encode_groups(clip)
    assert moved.float().mean() < 0.05  # a tie may fall the other way
