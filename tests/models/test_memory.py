"""Memory estimates against real tensors, and the precision chosen for the published size."""

from __future__ import annotations

import pytest
import torch

from emu3.config import DecoderConfig, VisionConfig
from emu3.models import memory
from emu3.models.precision import BF16, FP32, INT4, INT8, PRECISIONS, Precision
from emu3.testing import tiny_decoder, tiny_vision

CPU = torch.device("cpu")
GB = 10**9


def test_weight_bytes_match_parameters() -> None:
    model = tiny_decoder()
    assert memory.weight_bytes(model.config, FP32) == sum(t.nbytes for t in model.parameters())
    assert 2 * memory.weight_bytes(model.config, BF16) == memory.weight_bytes(model.config, FP32)


def test_kv_cache_bytes_match_cache() -> None:
    model = tiny_decoder()
    cache = model.new_cache(2, 50)
    counted = memory.kv_cache_bytes(model.config, 50, FP32)
    assert counted == cache.keys.nbytes + cache.values.nbytes


def test_narrower_precision_needs_less_memory() -> None:
    config, vision = DecoderConfig(), VisionConfig()
    sizes = [memory.required_bytes(config, vision, to) for to in PRECISIONS]
    assert sizes == sorted(sizes, reverse=True)
    weights = [memory.weight_bytes(config, to) / GB for to in PRECISIONS]
    assert weights == pytest.approx([33.97, 16.98, 8.50, 5.44], abs=0.01)  # as measured


@pytest.mark.parametrize(
    ("device", "have", "best"),
    [
        ("cpu", 64, FP32),
        ("cpu", 32, BF16),
        ("cpu", 24, INT8),
        ("cpu", 16, INT4),
        ("cpu", 1, INT4),
        ("cuda", 80, BF16),
        ("cuda", 24, INT8),
    ],
)
def test_precision_chosen_for_published_size(
    device: str, have: int, best: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: have * GB)
    assert (
        memory.widest_fitting_precision(DecoderConfig(), VisionConfig(), torch.device(device))
        == best
    )


def test_narrowest_possible_precision_if_none_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 0)
    tiny = tiny_decoder().config  # 32 columns, no groups of 64
    assert memory.widest_fitting_precision(tiny, tiny_vision().config, CPU) == INT8


def test_max_kv_cache_tokens_leaves_memory_for_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_decoder()
    cache = model.new_cache(1, 50)
    twice = 2 * (cache.keys.nbytes + cache.values.nbytes)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1.25 * twice)
    assert memory.max_kv_cache_tokens(model) == 50
    monkeypatch.setattr(memory, "available_bytes", lambda device: 0)
    assert memory.max_kv_cache_tokens(model) == 1


def test_unused_reserved_gpu_memory_is_available(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 17 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 6 * GB)
    assert memory.available_bytes(torch.device("cuda")) == 16 * GB


def test_available_memory_is_plausible() -> None:
    tensor = torch.empty(1)
    assert tensor.nbytes < memory.available_bytes(CPU) < 2**50
