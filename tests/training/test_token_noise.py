"""Token noise changes inputs, not targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emu3.errors import InputError
from emu3.testing import tiny_decoder
from emu3.training.lm_loss import TrainingSequence, lm_losses
from emu3.training.token_noise import replace_visual_tokens

VISUAL = slice(270, 300)
IDS = torch.cat([torch.arange(200, 210), torch.arange(270, 290), torch.arange(260, 264)]).repeat(40)
REPLACEMENTS = torch.tensor([297, 298, 299])


def noisy(probability: float, seed: int = 0) -> torch.Tensor:
    return replace_visual_tokens(
        IDS, VISUAL, probability, REPLACEMENTS, np.random.default_rng(seed)
    )


def test_only_visual_tokens_are_replaced() -> None:
    is_visual = (IDS >= 270) & (IDS < 300)
    assert torch.equal(noisy(1.0)[~is_visual], IDS[~is_visual])
    assert set(noisy(1.0)[is_visual].tolist()) == set(REPLACEMENTS.tolist())


def test_replacement_probability_and_seed() -> None:
    is_visual = (IDS >= 270) & (IDS < 300)
    before = IDS.clone()
    for probability in (0.0, 0.25, 0.8):
        replaced = (noisy(probability) != IDS)[is_visual].float().mean().item()
        assert replaced == pytest.approx(probability, abs=0.05)
    assert torch.equal(IDS, before)
    assert torch.equal(noisy(0.5, seed=3), noisy(0.5, seed=3))
    assert not torch.equal(noisy(0.5, seed=3), noisy(0.5, seed=4))


@torch.no_grad()
def test_loss_of_clean_targets_with_noisy_inputs() -> None:
    model = tiny_decoder()
    ids, weights = torch.arange(265, 295), torch.ones(30)
    read = replace_visual_tokens(ids, VISUAL, 0.5, REPLACEMENTS, np.random.default_rng(0))
    plain = TrainingSequence(torch.arange(100, 140), torch.ones(40))
    log_p = model(read[None, :-1])[0].log_softmax(-1)
    expected = -log_p.gather(1, ids[1:, None]).mean()
    found = lm_losses(model, [TrainingSequence(ids, weights, input_ids=read)], VISUAL)["loss"]
    torch.testing.assert_close(found, expected)
    together = lm_losses(model, [TrainingSequence(ids, weights, input_ids=read), plain], VISUAL)[
        "loss"
    ]
    alone = lm_losses(model, [plain], VISUAL)["loss"]
    torch.testing.assert_close(together, (29 * expected + 39 * alone) / 68)


def test_input_ids_must_have_the_length_of_the_targets() -> None:
    with pytest.raises(InputError, match="6 input ids for 7 token ids"):
        TrainingSequence(torch.arange(7), torch.ones(7), input_ids=torch.arange(6))
