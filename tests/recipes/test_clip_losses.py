"""What clips cost, group by group, is what training counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emu3.processing.document_format import VideoCodes
from emu3.processing.prompts import PromptTemplates
from emu3.testing import byte_tokenizer
from emu3.training.decoder import fresh
from emu3.training.lm_loss import Document, losses
from recipes import clip_losses
from recipes.clip_codes import CodesOfClips
from recipes.nano.emoji_world import MOTIONS, Icons
from recipes.nano_decoder import config_for
from tests.recipes.test_nano_decoder import Flat

TEXT = byte_tokenizer(2048)


def test_groups_together_cost_what_training_counts() -> None:
    codes = torch.from_numpy(np.random.default_rng(0).integers(2048, size=(3, 8, 8)))
    ids = PromptTemplates.from_tokenizer(TEXT).document("a fox moving up", VideoCodes(codes, 8, 12))
    decoder, visual = fresh(config_for(TEXT), seed=0).eval(), TEXT.vocabulary.visual
    found = clip_losses.by_group(decoder, ids, 3, visual)
    with torch.no_grad():
        counted = losses(decoder, [Document(ids, torch.ones(len(ids)))], visual)["vision"]
    assert found.shape == (3,)
    assert found.mean() == pytest.approx(float(counted), rel=1e-5)


def test_every_motion_is_measured(icons: Icons) -> None:
    decoder = fresh(config_for(TEXT), seed=0).eval()
    found = clip_losses.measure(
        decoder, PromptTemplates.from_tokenizer(TEXT), CodesOfClips(Flat(), icons), each=1
    )
    assert list(found) == list(MOTIONS)
    assert all(each.shape == (clip_losses.GROUPS,) for each in found.values())
