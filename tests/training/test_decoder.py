"""Decoder training: loss computed by hand, gradient accumulation, and exact resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emu3.errors import InputError
from emu3.models.transformer import Transformer
from emu3.processing.prompts import PromptTemplates
from emu3.testing import byte_tokenizer, tiny_decoder
from emu3.training.decoder import BatchFn, DecoderTrainingConfig, init_decoder, train_decoder
from emu3.training.errors import TrainingError
from emu3.training.lm_loss import (
    TrainingSequence,
    accumulate_gradients,
    lm_losses,
    modality_loss_weights,
)
from tests.training.toy_run import flatten, same_checkpoint, saved_state

PROMPTS = PromptTemplates.from_tokenizer(byte_tokenizer())
VISUAL = PROMPTS.tokenizer.vocabulary.visual
CONFIG = replace(
    tiny_decoder().config, num_hidden_layers=1
)  # with the dropout of the published config
TRAINING = DecoderTrainingConfig(
    steps=9,
    micro_batch_size=2,
    learning_rate=3e-3,
    warmup_steps=2,
    weight_decay=0.1,
    max_grad_norm=1.0,
    bf16=False,
    report_every=1,
    save_every=3,
    seed=5,
)


def document(rng: np.random.Generator, height: int, width: int) -> TrainingSequence:
    codes = torch.from_numpy(rng.integers(0, 64, (height, width)))
    ids = PROMPTS.document("ab" * int(rng.integers(1, 4)), codes)
    return TrainingSequence(
        ids, modality_loss_weights(ids, VISUAL, text_weight=1.0, vision_weight=0.5)
    )


def documents(rng: np.random.Generator) -> Sequence[TrainingSequence]:
    return [document(rng, 2, int(rng.integers(1, 4))) for _ in range(3)]


def test_loss_weights_by_modality() -> None:
    codes = torch.zeros(1, 2, dtype=torch.long)
    ids = PROMPTS.document("a", codes)  # BOS a | SOV 1*2 SOT | code code EOL | EOF EOV | EOS
    weights = modality_loss_weights(ids, VISUAL, text_weight=1.0, vision_weight=0.5)
    assert weights.tolist() == [1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 1, 1, 1, 1]


@torch.no_grad()
def test_loss_is_the_weighted_mean_over_all_tokens() -> None:
    """Each document without padding, token by token."""
    model = tiny_decoder()
    rng = np.random.default_rng(0)
    batch = [document(rng, 3, 3), document(rng, 1, 2), document(rng, 2, 1)]
    batch[1].loss_weights[:3] = 0.0  # a context-only prefix
    entropies: list[tuple[float, float, bool]] = []
    for each in batch:
        predicted = model(each.token_ids[None])[0].log_softmax(-1)
        for at in range(1, len(each.token_ids)):
            token = int(each.token_ids[at])
            entropy = -predicted[at - 1, token].item()
            entropies.append((entropy, each.loss_weights[at].item(), token >= VISUAL.start))
    values = lm_losses(model, batch, VISUAL)
    total = sum(weight for _, weight, _ in entropies)
    expected = sum(entropy * weight for entropy, weight, _ in entropies) / total
    assert values["loss"].item() == pytest.approx(expected, rel=1e-5)
    for name, visual in (("text_loss", False), ("vision_loss", True)):
        mine = [e for e, weight, is_visual in entropies if weight and is_visual == visual]
        assert values[name].item() == pytest.approx(sum(mine) / len(mine), rel=1e-5)


def test_gradient_accumulation_equals_one_batch() -> None:
    """The same loss and gradients for any micro-batch size."""
    model = tiny_decoder()
    rng = np.random.default_rng(0)
    batch = [document(rng, int(rng.integers(1, 4)), int(rng.integers(1, 5))) for _ in range(5)]
    whole = lm_losses(model, batch, VISUAL)
    whole["loss"].backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(wanted) == len(list(model.parameters()))
    for micro_batch_size in (1, 2, 5, 9):
        model.zero_grad()
        means = accumulate_gradients(model, batch, VISUAL, micro_batch_size)
        assert means["loss"] == pytest.approx(whole["loss"].item(), rel=1e-5)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-6, rtol=1e-4)


def test_padding_changes_nothing() -> None:
    model = tiny_decoder()
    rng = np.random.default_rng(0)
    batch = [document(rng, int(rng.integers(1, 4)), int(rng.integers(1, 5))) for _ in range(5)]
    plain, padded = (
        lm_losses(model, batch, VISUAL, pad_to_multiple_of=multiple) for multiple in (1, 16)
    )
    for name, value in plain.items():
        torch.testing.assert_close(padded[name], value)


def test_loss_decreases_on_a_repeated_batch(tmp_path: Path) -> None:
    fixed = documents(np.random.default_rng(1))
    saved: list[tuple[int, bool]] = []
    run = replace(TRAINING, steps=40, save_every=15, learning_rate=1e-2)
    model = train_decoder(
        init_decoder(replace(CONFIG, attention_dropout=0.0), run.seed),
        run,
        lambda rng: fixed,
        VISUAL,
        tmp_path,
        on_save=lambda model, step: saved.append((step, model.training)),
    )
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 41))
    for name in ("loss", "text_loss", "vision_loss"):
        assert lines[-1][name] < 0.7 * lines[0][name]
    assert not model.training
    assert saved == [(15, False), (30, False), (40, False)]


def killed_at(step: int) -> BatchFn:
    """Batches that end the run after some steps."""
    left = iter(range(step))

    def until(rng: np.random.Generator) -> Sequence[TrainingSequence]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return documents(rng)

    return until


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train_decoder(init_decoder(CONFIG, TRAINING.seed), TRAINING, documents, VISUAL, folder)
    return folder


@pytest.mark.parametrize("kills", [[2], [3], [4], [8], [4, 2, 4]])
def test_killed_and_resumed_equals_never_killed(
    tmp_path: Path, never_killed: Path, kills: list[int]
) -> None:
    """Killed before the first checkpoint, right after one, between two, and several times."""
    for step in kills:
        with pytest.raises(KeyboardInterrupt):
            train_decoder(
                init_decoder(CONFIG, TRAINING.seed), TRAINING, killed_at(step), VISUAL, tmp_path
            )
    train_decoder(init_decoder(CONFIG, TRAINING.seed), TRAINING, documents, VISUAL, tmp_path)
    assert same_checkpoint(tmp_path, never_killed)


def test_another_seed_gives_other_weights(tmp_path: Path, never_killed: Path) -> None:
    train_decoder(init_decoder(CONFIG, 6), replace(TRAINING, seed=6), documents, VISUAL, tmp_path)
    assert not same_checkpoint(tmp_path, never_killed)


def test_finished_run_draws_no_batch(never_killed: Path) -> None:
    def refuse(rng: np.random.Generator) -> Sequence[TrainingSequence]:
        raise AssertionError("a batch was read")

    model = train_decoder(
        init_decoder(CONFIG, TRAINING.seed), TRAINING, refuse, VISUAL, never_killed
    )
    assert isinstance(model, Transformer)
    assert flatten(model.state_dict()) == flatten(saved_state(never_killed)["model"])


class StatefulBatches:
    """Batches that depend on a position and not on the random generator of a step."""

    def __init__(self, stop_at: int = 99) -> None:
        self.position, self.stop_at = 0, stop_at

    def __call__(self, rng: np.random.Generator) -> Sequence[TrainingSequence]:
        if self.position == self.stop_at:
            raise KeyboardInterrupt
        self.position += 1
        return documents(np.random.default_rng(self.position))

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def test_position_in_the_data_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    for stop_at in (5, 99):
        with suppress(KeyboardInterrupt):
            train_decoder(
                init_decoder(CONFIG, 0),
                TRAINING,
                StatefulBatches(stop_at),
                VISUAL,
                tmp_path / "killed",
            )
    train_decoder(init_decoder(CONFIG, 0), TRAINING, StatefulBatches(), VISUAL, tmp_path / "whole")
    assert same_checkpoint(tmp_path / "killed", tmp_path / "whole")


def test_only_trainable_parameters_change(tmp_path: Path) -> None:
    model = init_decoder(CONFIG, 0).requires_grad_(False)
    run = replace(TRAINING, optimizer="adamw")
    with pytest.raises(InputError, match="nothing to train"):
        train_decoder(model, run, documents, VISUAL, tmp_path)
    model.lm_head.requires_grad_(True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    train_decoder(model, run, documents, VISUAL, tmp_path)
    changed = {n for n, weight in model.state_dict().items() if not torch.equal(weight, before[n])}
    assert changed == {"lm_head.weight"}


def test_bad_batch_is_described(tmp_path: Path) -> None:
    def bad(rng: np.random.Generator) -> Sequence[TrainingSequence]:
        return [
            TrainingSequence(each.token_ids, each.loss_weights * float("nan"))
            for each in documents(rng)
        ]

    message = r"step 1: the loss is nan; batch: seed 5, step 0, 3 documents of \d+ to \d+ tokens, "
    with pytest.raises(TrainingError, match=message):
        train_decoder(init_decoder(CONFIG, 0), TRAINING, bad, VISUAL, tmp_path)
