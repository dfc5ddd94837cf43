"""LoRA and prompt tuning of the decoder with PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason='needs pip install "emu3[hf]"')
peft = pytest.importorskip("peft", reason="peft is not installed here: pip install peft")

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], LAYERS, [*LAYERS, "lm_head"]])
def test_lora_trains_saves_and_merges(tiny: Path, tmp_path: Path, targets: list[str]) -> None:
    ids = torch.randint(97, 122, (2, 16))
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets)
    model = peft.get_peft_model(base, config)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(10):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    out = model.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
    model.save_pretrained(tmp_path)
    fresh = transformers.AutoModelForCausalLM.from_pretrained(tiny).eval()
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        again = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
        torch.testing.assert_close(again(input_ids=ids).logits, expected)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(again.generate(input_ids=ids, max_new_tokens=5, do_sample=False), out)


def test_prompt_tuning(tiny: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(base, config)
    ids = torch.randint(97, 122, (2, 8))
    mask = torch.ones_like(ids)
    loss = model(input_ids=ids, attention_mask=mask, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)
