"""Wrong codes are read, right ones are learned."""

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
POOL = torch.tensor([297, 298, 299])


def at(share: float, seed: int = 0) -> torch.Tensor:
    return replace_visual_tokens(IDS, VISUAL, share, POOL, np.random.default_rng(seed))


def test_words_and_structure_stay() -> None:
    is_visual = (IDS >= 270) & (IDS < 300)
    assert torch.equal(at(1.0)[~is_visual], IDS[~is_visual])
    assert set(at(1.0)[is_visual].tolist()) == set(POOL.tolist())


def test_so_many_codes_give_way() -> None:
    is_visual = (IDS >= 270) & (IDS < 300)
    before = IDS.clone()
    for share in (0.0, 0.25, 0.8):
        given_way = (at(share) != IDS)[is_visual].float().mean().item()
        assert given_way == pytest.approx(share, abs=0.05)
    assert torch.equal(IDS, before)
    assert torch.equal(at(0.5, seed=3), at(0.5, seed=3))
    assert not torch.equal(at(0.5, seed=3), at(0.5, seed=4))


@torch.no_grad()
def test_the_loss_is_that_of_the_right_ids_after_the_wrong_ones() -> None:
    model = tiny_decoder()
    ids, weights = torch.arange(265, 295), torch.ones(30)
    read = replace_visual_tokens(ids, VISUAL, 0.5, POOL, np.random.default_rng(0))
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


def test_what_is_read_is_as_long_as_what_is_learned() -> None:
    with pytest.raises(InputError, match="6 ids read do not stand for 7"):
        TrainingSequence(torch.arange(7), torch.ones(7), input_ids=torch.arange(6))
