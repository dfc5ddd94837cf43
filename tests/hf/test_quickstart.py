"""The scripts in docs/how-to/transformers.md, run as printed except for paths and the device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("transformers", reason='needs pip install "emu3[hf]"')

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "transformers.md").read_text(encoding="utf-8")
GENERATE_SCRIPT, CHAT_SCRIPT = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)

# The reference ids were generated greedily in float32.
GREEDY = {"do_sample=True,\n    top_k=2048": "do_sample=False", "torch.bfloat16": "torch.float32"}


def run_script(script: str, reference: Path, **changes: str) -> dict[str, Any]:
    paths = {
        "BAAI/Emu3-Gen": str(reference / "Emu3-Gen-tiny"),
        "BAAI/Emu3-Chat": str(reference / "Emu3-Gen-tiny"),
        "BAAI/Emu3-VisionTokenizer": str(reference / "Emu3-VisionTokenizer-tiny"),
        "cuda:0": "cpu",
    }
    for old, new in {**paths, **changes}.items():
        assert old in script or old in paths
        script = script.replace(old, new)
    names: dict[str, Any] = {}
    exec(compile(script, "docs/how-to/transformers.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_quickstart_runs_as_printed(reference: Path) -> None:
    names = run_script(GENERATE_SCRIPT, reference)
    assert names["model"].dtype == torch.bfloat16
    assert Image.open("result_1.png").size == (64, 64)
    before, image, after = names["mm_list"]
    assert before.endswith("a portrait of young girl. masterpiece, film grained, best quality.")
    assert (image.size, after) == ((64, 64), "<|extra_204|>")


@pytest.mark.slow
def test_quickstart_equals_the_reference(reference: Path, golden: dict[str, Tensor]) -> None:
    names = run_script(GENERATE_SCRIPT, reference, **GREEDY)
    assert torch.equal(names["neg_inputs"].input_ids, golden["batch0.neg_ids"].long())
    assert torch.equal(names["outputs"], golden["batch0.output"].long())
    names = run_script(
        GENERATE_SCRIPT, reference, **GREEDY, **{"a portrait of young girl.": "a shiba inu"}
    )
    assert torch.equal(names["pos_inputs"].input_ids, golden["single.input_ids"].long())
    assert torch.equal(names["pos_inputs"].image_size, golden["single.size"].long())
    assert torch.equal(names["outputs"], golden["single.output"].long())
    generated = np.asarray(Image.open("result_1.png")).astype(int)
    assert np.abs(generated - golden["single.image"].numpy()).max() <= 1


def batch_changes(masked: bool) -> dict[str, str]:
    """Changes to the Quickstart for two prompts, as in BAAI's newer script."""
    prompts = '["a portrait of young girl.", "a shiba inu"]'
    changes = {
        'prompt = "a portrait of young girl."': f"prompt = {prompts}",
        "prompt += POSITIVE_PROMPT": "prompt = [p + POSITIVE_PROMPT for p in prompt]",
        "text=NEGATIVE_PROMPT": "text=[NEGATIVE_PROMPT] * 2",
        'ratio="1:1"': 'ratio=["1:1", "16:9"]',
    }
    if masked:
        plain = 'unconditional_ids=neg_inputs.input_ids.to("cpu"),'
        changes[plain] = f"{plain} unconditional_attention_mask=neg_inputs.attention_mask,"
    return {**GREEDY, **changes}


@pytest.mark.slow
def test_batched_quickstart_equals_the_reference(
    reference: Path, golden: dict[str, Tensor]
) -> None:
    """The script passes no mask for the negative prompt, so the guidance attends to padding."""
    names = run_script(GENERATE_SCRIPT, reference, **batch_changes(masked=False))
    for key, inputs in [("input_ids", "pos_inputs"), ("neg_ids", "neg_inputs")]:
        assert torch.equal(names[inputs].input_ids, golden[f"batch.{key}"].long())
    assert torch.equal(names["pos_inputs"].image_size, golden["batch.size"].long())
    assert torch.equal(names["outputs"], golden["batch.output"].long())


@pytest.mark.slow
def test_masked_batch_equals_single_prompts(reference: Path, golden: dict[str, Tensor]) -> None:
    names = run_script(GENERATE_SCRIPT, reference, **batch_changes(masked=True))
    for row, index in zip(names["outputs"], range(2), strict=True):
        alone = golden[f"batch{index}.output"][0].long()
        assert torch.equal(row[: len(alone)], alone)
        assert (row[len(alone) :] == names["model"].config.pad_token_id).all()


def run_chat(reference: Path, golden: dict[str, Tensor], **changes: str) -> dict[str, Any]:
    for index, name in enumerate(["first.png", "second.png"]):
        Image.fromarray(golden[f"vq.rgb{index}"].numpy()).save(name)
    new = golden["chat0.output"].shape[1] - golden["chat0.input_ids"].shape[1]
    steps = {"max_new_tokens=1024": f"max_new_tokens={new}", "outputs = outputs[": "new = outputs["}
    tail = {"batch_decode(outputs": "batch_decode(new", "torch.bfloat16": "torch.float32"}
    return run_script(CHAT_SCRIPT, reference, **steps, **tail, **changes)


def test_chat_equals_the_reference(reference: Path, golden: dict[str, Tensor]) -> None:
    names = run_chat(reference, golden)
    assert torch.equal(names["inputs"].input_ids, golden["chat.input_ids"].long())
    assert torch.equal(names["inputs"].attention_mask, golden["chat.attention_mask"].long())
    assert torch.equal(names["outputs"], golden["chat.output"].long())
    assert all(isinstance(answer, str) for answer in names["answers"])


@pytest.mark.slow
def test_chat_without_image_padding_equals_single_questions(
    reference: Path, golden: dict[str, Tensor]
) -> None:
    names = run_chat(reference, golden, **{"padding_image=True": "padding_image=False"})
    for row, index in zip(names["outputs"], range(2), strict=True):
        alone = golden[f"chat{index}.output"][0].long()
        assert torch.equal(row[-len(alone) :], alone)
