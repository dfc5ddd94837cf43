"""Preferences: the loss by hand, portions = one batch, and what a step does."""

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
PREFERENCE = DPOLossConfig(beta=0.3, next_token_weight=0.7)


def picture(height: int, width: int) -> torch.Tensor:
    return PROMPTS.document_format.body_token_ids(torch.randint(0, 64, (height, width)))


def pair(words: str = "ab", height: int = 2, width: int = 3) -> PreferencePair:
    prompt = torch.tensor(PROMPTS.image(words, (height, width)))
    return PreferencePair(prompt, picture(height, width), picture(height, width))


@pytest.fixture
def pairs() -> list[PreferencePair]:
    return [pair("a"), pair("abcd", 1, 2), pair("abc", 3, 3)]


@torch.no_grad()
def by_hand(model: torch.nn.Module, prompt: torch.Tensor, drawn: torch.Tensor) -> list[float]:
    """Each code's log-probability, from the logits of one row without padding."""
    predicted = model(torch.cat([prompt, drawn])[None])[0].log_softmax(-1)
    codes = [at for at, token in enumerate(drawn.tolist()) if token >= VISUAL.start]
    return [predicted[len(prompt) + at - 1, drawn[at]].item() for at in codes]


@pytest.mark.parametrize("chunk", [2, 512])
def test_log_probabilities_are_sums_over_codes_alone(
    pairs: list[PreferencePair], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpo, "CHUNK", chunk)
    model = tiny_decoder()
    rows = [(one.prompt, one.chosen) for one in pairs]
    found, counts = sequence_log_probs(model, rows, VISUAL)
    expected = [by_hand(model, *row) for row in rows]
    assert counts.tolist() == [6, 2, 9]
    assert found.tolist() == pytest.approx([sum(each) for each in expected], rel=1e-5)


def test_a_picture_in_the_prompt_is_context() -> None:
    model, drawn = tiny_decoder(), picture(1, 2)
    prompt = torch.cat(
        [PROMPTS.document_format.encode_image(torch.zeros(2, 2)), pair(height=1, width=2).prompt]
    )
    found, counts = sequence_log_probs(model, [(prompt, drawn)], VISUAL)
    assert counts.tolist() == [2]
    assert found.item() == pytest.approx(sum(by_hand(model, prompt, drawn)), rel=1e-5)


def test_it_starts_at_log_2_and_the_chosen_pictures_entropy(pairs: list[PreferencePair]) -> None:
    model = tiny_decoder(attention_dropout=0.5).train()  # which must make no difference
    known = add_reference_log_probs(model, pairs, VISUAL, micro_batch=2)
    values = accumulate_pair_gradients(model.train(), known, VISUAL, PREFERENCE, micro_batch=3)
    entropies = [by_hand(model.eval(), one.prompt, one.chosen) for one in pairs]
    expected = sum(-sum(each) / len(each) for each in entropies) / len(pairs)
    assert values["preference"] == pytest.approx(math.log(2), abs=1e-5)
    assert values["margin"] == pytest.approx(0, abs=1e-4)
    assert values["next_token"] == pytest.approx(expected, rel=1e-5)
    assert values["loss"] == pytest.approx(math.log(2) + 0.7 * expected, rel=1e-5)


def test_the_loss_is_the_formula_of_the_paper(pairs: list[PreferencePair]) -> None:
    """Against another reference than the model itself, in plain numbers."""
    known = add_reference_log_probs(tiny_decoder(1), pairs, VISUAL)
    model = tiny_decoder(0)
    expected, margins = 0.0, []
    for one in known:
        assert one.reference_log_probs is not None
        chosen, rejected = (
            by_hand(model, one.prompt, one.chosen),
            sum(by_hand(model, one.prompt, one.rejected)),
        )
        margin = (sum(chosen) - one.reference_log_probs[0]) - (
            rejected - one.reference_log_probs[1]
        )
        preferred = math.log1p(math.exp(-0.3 * margin))
        expected += (preferred - 0.7 * sum(chosen) / len(chosen)) / len(known)
        margins.append(margin)
    values = dpo.dpo_losses(model, known, VISUAL, PREFERENCE)
    assert values["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert values["margin"].item() == pytest.approx(sum(margins) / 3, rel=1e-3)
    assert values["right"].item() == pytest.approx(sum(m > 0 for m in margins) / 3)


def test_many_small_passes_are_one_large_one(pairs: list[PreferencePair]) -> None:
    known = add_reference_log_probs(tiny_decoder(1), pairs, VISUAL)
    model = tiny_decoder()
    dpo.dpo_losses(model, known, VISUAL, PREFERENCE)["loss"].backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(wanted) == len(list(model.parameters()))
    for portion in (1, 2, 9):
        model.zero_grad()
        accumulate_pair_gradients(model, known, VISUAL, PREFERENCE, portion)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("next_token", [0.0, 1.0])
def test_steps_raise_the_margin(pairs: list[PreferencePair], next_token: float) -> None:
    model = tiny_decoder()
    known = add_reference_log_probs(model, pairs, VISUAL)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []
    for _ in range(4):
        optimizer.zero_grad()
        preference = DPOLossConfig(next_token_weight=next_token)
        seen.append(accumulate_pair_gradients(model, known, VISUAL, preference, 2)["margin"])
        optimizer.step()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] + 0.01


def test_what_cannot_be_is_refused(pairs: list[PreferencePair]) -> None:
    model = tiny_decoder()
    with pytest.raises(InputError, match="with_reference"):
        dpo.dpo_losses(model, pairs, VISUAL, PREFERENCE)
    with pytest.raises(InputError, match="no codes"):
        add_reference_log_probs(
            model, [PreferencePair(pairs[0].prompt, picture(1, 1), torch.tensor([5]))], VISUAL
        )
    with pytest.raises(InputError, match="beta"):
        DPOLossConfig(beta=0.0)


RUN = DPOTrainingConfig(
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
    loss=PREFERENCE,
)


def test_killed_and_resumed_is_never_killed(
    pairs: list[PreferencePair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = add_reference_log_probs(tiny_decoder(), pairs, VISUAL)
    whole = train_dpo(tiny_decoder(), RUN, known, VISUAL, tmp_path / "whole")
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["preference"] == pytest.approx(math.log(2), abs=1e-4)
    assert json.loads(lines[-1])["margin"] > 0

    calls = iter(range(3))

    def dies(*args: object) -> dict[str, float]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return accumulate_pair_gradients(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(dpo, "accumulate_pair_gradients", dies)
        with pytest.raises(KeyboardInterrupt):
            train_dpo(tiny_decoder(), RUN, known, VISUAL, tmp_path / "killed")
    again = train_dpo(tiny_decoder(), RUN, known, VISUAL, tmp_path / "killed")
    for name, weight in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_without_pairs_or_weights_there_is_nothing_to_train(
    pairs: list[PreferencePair], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="requires_grad_"):
        train_dpo(tiny_decoder().requires_grad_(False), RUN, pairs, VISUAL, tmp_path)
    none: Sequence[PreferencePair] = []
    with pytest.raises(InputError, match="smaller margin"):
        train_dpo(tiny_decoder(), RUN, none, VISUAL, tmp_path)
