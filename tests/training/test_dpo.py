"""DPO: loss computed by hand, gradient accumulation, and exact resume."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from emu3.errors import InputError
from emu3.processing.prompts import PromptTemplates
from emu3.testing import byte_tokenizer, tiny_decoder
from emu3.training import dpo
from emu3.training.dpo import (
    DPOLossConfig,
    DPOTrainingConfig,
    PreferencePair,
    accumulate_pair_gradients,
    add_reference_log_probs,
    sequence_log_probs,
    train_dpo,
)

PROMPTS = PromptTemplates.from_tokenizer(byte_tokenizer())
VISUAL = PROMPTS.tokenizer.vocabulary.visual
LOSS = DPOLossConfig(beta=0.3, next_token_weight=0.7)


def image(height: int, width: int) -> torch.Tensor:
    return PROMPTS.document_format.body_token_ids(torch.randint(0, 64, (height, width)))


def pair(text: str = "ab", height: int = 2, width: int = 3) -> PreferencePair:
    prompt = torch.tensor(PROMPTS.image(text, (height, width)))
    return PreferencePair(prompt, image(height, width), image(height, width))


@pytest.fixture
def pairs() -> list[PreferencePair]:
    return [pair("a"), pair("abcd", 1, 2), pair("abc", 3, 3)]


@torch.no_grad()
def log_probs_by_hand(
    model: torch.nn.Module, prompt: torch.Tensor, image_ids: torch.Tensor
) -> list[float]:
    """Log-probability of each visual token, from the logits of one sequence without padding."""
    predicted = model(torch.cat([prompt, image_ids])[None])[0].log_softmax(-1)
    codes = [at for at, token in enumerate(image_ids.tolist()) if token >= VISUAL.start]
    return [predicted[len(prompt) + at - 1, image_ids[at]].item() for at in codes]


@pytest.mark.parametrize("chunk", [2, 512])
def test_log_probs_are_sums_over_visual_tokens(
    pairs: list[PreferencePair], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpo, "CHUNK_SIZE", chunk)
    model = tiny_decoder()
    rows = [(one.prompt, one.chosen) for one in pairs]
    found, counts = sequence_log_probs(model, rows, VISUAL)
    expected = [log_probs_by_hand(model, *row) for row in rows]
    assert counts.tolist() == [6, 2, 9]
    assert found.tolist() == pytest.approx([sum(each) for each in expected], rel=1e-5)


def test_image_in_the_prompt_is_context() -> None:
    model, image_ids = tiny_decoder(), image(1, 2)
    prompt = torch.cat(
        [PROMPTS.document_format.encode_image(torch.zeros(2, 2)), pair(height=1, width=2).prompt]
    )
    found, counts = sequence_log_probs(model, [(prompt, image_ids)], VISUAL)
    assert counts.tolist() == [2]
    assert found.item() == pytest.approx(sum(log_probs_by_hand(model, prompt, image_ids)), rel=1e-5)


def test_initial_loss_is_log_2_plus_the_next_token_loss(pairs: list[PreferencePair]) -> None:
    model = tiny_decoder(attention_dropout=0.5).train()  # must have no effect
    with_reference = add_reference_log_probs(model, pairs, VISUAL, micro_batch_size=2)
    values = accumulate_pair_gradients(
        model.train(), with_reference, VISUAL, LOSS, micro_batch_size=3
    )
    entropies = [log_probs_by_hand(model.eval(), one.prompt, one.chosen) for one in pairs]
    expected = sum(-sum(each) / len(each) for each in entropies) / len(pairs)
    assert values["preference_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert values["margin"] == pytest.approx(0, abs=1e-4)
    assert values["next_token_loss"] == pytest.approx(expected, rel=1e-5)
    assert values["loss"] == pytest.approx(math.log(2) + 0.7 * expected, rel=1e-5)


def test_loss_equals_the_formula_of_the_paper(pairs: list[PreferencePair]) -> None:
    """With a reference model that differs from the trained one."""
    with_reference = add_reference_log_probs(tiny_decoder(1), pairs, VISUAL)
    model = tiny_decoder(0)
    expected, margins = 0.0, []
    for one in with_reference:
        assert one.reference_log_probs is not None
        chosen, rejected = (
            log_probs_by_hand(model, one.prompt, one.chosen),
            sum(log_probs_by_hand(model, one.prompt, one.rejected)),
        )
        margin = (sum(chosen) - one.reference_log_probs[0]) - (
            rejected - one.reference_log_probs[1]
        )
        preferred = math.log1p(math.exp(-0.3 * margin))
        expected += (preferred - 0.7 * sum(chosen) / len(chosen)) / len(with_reference)
        margins.append(margin)
    values = dpo.dpo_losses(model, with_reference, VISUAL, LOSS)
    assert values["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert values["margin"].item() == pytest.approx(sum(margins) / 3, rel=1e-3)
    assert values["accuracy"].item() == pytest.approx(sum(m > 0 for m in margins) / 3)


def test_gradient_accumulation_equals_one_batch(pairs: list[PreferencePair]) -> None:
    with_reference = add_reference_log_probs(tiny_decoder(1), pairs, VISUAL)
    model = tiny_decoder()
    dpo.dpo_losses(model, with_reference, VISUAL, LOSS)["loss"].backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(wanted) == len(list(model.parameters()))
    for micro_batch_size in (1, 2, 9):
        model.zero_grad()
        accumulate_pair_gradients(model, with_reference, VISUAL, LOSS, micro_batch_size)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("next_token", [0.0, 1.0])
def test_steps_increase_the_margin(pairs: list[PreferencePair], next_token: float) -> None:
    model = tiny_decoder()
    with_reference = add_reference_log_probs(model, pairs, VISUAL)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []
    for _ in range(4):
        optimizer.zero_grad()
        preference = DPOLossConfig(next_token_weight=next_token)
        seen.append(
            accumulate_pair_gradients(model, with_reference, VISUAL, preference, 2)["margin"]
        )
        optimizer.step()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] + 0.01


def test_invalid_input_is_refused(pairs: list[PreferencePair]) -> None:
    model = tiny_decoder()
    with pytest.raises(InputError, match="add_reference_log_probs"):
        dpo.dpo_losses(model, pairs, VISUAL, LOSS)
    with pytest.raises(InputError, match="no visual tokens"):
        add_reference_log_probs(
            model, [PreferencePair(pairs[0].prompt, image(1, 1), torch.tensor([5]))], VISUAL
        )
    with pytest.raises(InputError, match="beta"):
        DPOLossConfig(beta=0.0)


CONFIG = DPOTrainingConfig(
    steps=6,
    learning_rate=1e-3,
    warmup_steps=1,
    max_grad_norm=1.0,
    bf16=False,
    report_every=1,
    save_every=2,
    seed=3,
    batch_size=2,
    micro_batch_size=1,
    weight_decay=0.0,
    loss=LOSS,
)


def test_killed_and_resumed_equals_never_killed(
    pairs: list[PreferencePair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_reference = add_reference_log_probs(tiny_decoder(), pairs, VISUAL)
    whole = train_dpo(tiny_decoder(), CONFIG, with_reference, VISUAL, tmp_path / "whole")
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["preference_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert json.loads(lines[-1])["margin"] > 0

    calls = iter(range(3))

    def dies(*args: object) -> dict[str, float]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return accumulate_pair_gradients(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(dpo, "accumulate_pair_gradients", dies)
        with pytest.raises(KeyboardInterrupt):
            train_dpo(tiny_decoder(), CONFIG, with_reference, VISUAL, tmp_path / "killed")
    again = train_dpo(tiny_decoder(), CONFIG, with_reference, VISUAL, tmp_path / "killed")
    for name, weight in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_nothing_to_train_is_refused(pairs: list[PreferencePair], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="requires_grad_"):
        train_dpo(tiny_decoder().requires_grad_(False), CONFIG, pairs, VISUAL, tmp_path)
    none: Sequence[PreferencePair] = []
    with pytest.raises(InputError, match="lower the margin"):
        train_dpo(tiny_decoder(), CONFIG, none, VISUAL, tmp_path)
