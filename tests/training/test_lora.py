"""LoRA: an untrained adapter changes nothing, only it is trained, merging is exact."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from emu3.errors import InputError, MissingExtraError
from emu3.inference.optimize import optimize_for_inference
from emu3.models.transformer import Transformer
from emu3.testing import byte_tokenizer, tiny_decoder
from emu3.training.lora import (
    EMBEDDING,
    LINEAR_LAYERS,
    LoraConfig,
    add_adapter,
    has_adapter,
    load_adapter,
)

pytest.importorskip("peft", reason='needs pip install "emu3[train]"')

VISUAL = byte_tokenizer().vocabulary.visual
ALL_LAYERS = LoraConfig(rank=3, target_modules=(*LINEAR_LAYERS, EMBEDDING))


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 500, (2, 12))


@torch.no_grad()
def logits(model: Transformer, ids: Tensor) -> Tensor:
    return model.eval()(ids)


def train(model: Transformer, ids: Tensor, steps: int = 5) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        out = model(ids[:, :-1]).flatten(0, 1)
        torch.nn.functional.cross_entropy(out, ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    "lora", [LoraConfig(), LoraConfig(target_modules=("q_proj", "v_proj")), ALL_LAYERS]
)
def test_untrained_adapter_changes_nothing(ids: Tensor, lora: LoraConfig) -> None:
    model = tiny_decoder()
    before = logits(model, ids)
    adapted = add_adapter(model, lora)
    assert adapted.model is model
    assert torch.equal(logits(model, ids), before)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    tables = 1 if EMBEDDING in lora.target_modules else 0
    linear = len([name for name in lora.target_modules if name != EMBEDDING])
    assert len(trainable) == 2 * (linear * 2 + tables)  # A and B of each, in two layers
    assert all("lora_" in name for name in trainable)


@pytest.mark.parametrize("lora", [LoraConfig(), ALL_LAYERS])
def test_only_the_adapter_is_trained_and_merging_is_exact(ids: Tensor, lora: LoraConfig) -> None:
    model = tiny_decoder()
    plain = {name: p.clone() for name, p in model.state_dict().items()}
    adapted = add_adapter(model, lora)
    train(model, ids)
    for name, weight in model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(weight, plain[name.replace(".base_layer", "")])
    after = logits(model, ids)
    assert (after - logits(tiny_decoder(), ids)).abs().max() > 0.1
    merged = adapted.merge()
    assert merged is model
    assert list(merged.state_dict()) == list(plain)
    assert not has_adapter(merged)
    assert all(p.requires_grad for p in merged.parameters())
    torch.testing.assert_close(logits(merged, ids), after, atol=1e-4, rtol=1e-4)


def test_adapter_applies_with_a_cache_and_a_slice_of_the_head(ids: Tensor) -> None:
    """The passes of image generation: one token at a time, logits of visual tokens only."""
    model = tiny_decoder()
    add_adapter(model, LoraConfig())
    train(model, ids)
    whole, cache = logits(model, ids), model.new_cache(2, 12)
    with torch.no_grad():
        for at in range(12):
            step = model.compute_logits(model.forward_hidden(ids[:, at : at + 1], cache), VISUAL)
            torch.testing.assert_close(step[:, 0], whole[:, at, VISUAL], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lora", [LoraConfig(), ALL_LAYERS])
def test_save_and_load(ids: Tensor, tmp_path: Path, lora: LoraConfig) -> None:
    model = tiny_decoder()
    adapted = add_adapter(model, lora)
    train(model, ids)
    adapted.save(tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == lora.rank
    assert list(tmp_path.iterdir()) == [tmp_path / "adapter"]
    again = load_adapter(tiny_decoder(), tmp_path / "adapter")
    assert torch.equal(logits(again.model, ids), logits(model, ids))
    assert not any(p.requires_grad for p in again.model.parameters())
    on = load_adapter(tiny_decoder(), tmp_path / "adapter", trainable=True)
    assert {n for n, p in on.model.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_invalid_input_is_refused(tmp_path: Path) -> None:
    adapted = add_adapter(tiny_decoder(), LoraConfig())
    adapted.save(tmp_path / "adapter")
    with pytest.raises(InputError, match="merge it first"):
        add_adapter(adapted.model, LoraConfig())
    with pytest.raises(InputError, match="lm_head"):
        LoraConfig(target_modules=("lm_head",))
    with pytest.raises(InputError, match="target_modules"):
        LoraConfig(target_modules=("attention",))
    with pytest.raises(InputError, match="rank"):
        LoraConfig(rank=0)
    with pytest.raises(InputError, match="adapter_config"):
        load_adapter(tiny_decoder(), tmp_path)
    with pytest.raises(InputError, match="does not match the model"):
        load_adapter(tiny_decoder(hidden_size=64), tmp_path / "adapter")
    model = tiny_decoder()
    optimize_for_inference(model, VISUAL)
    with pytest.raises(InputError, match="load_checkpoint"):
        add_adapter(model, LoraConfig())


def test_missing_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"emu3\[train\]"):
        add_adapter(tiny_decoder(), LoraConfig())
