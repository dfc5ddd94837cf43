"""Token loss by role."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from emu3.checkpoints.loading import Checkpoint
from emu3.data.dataset import TokenDataset
from emu3.data.discovery import find_sources
from emu3.data.prepare import prepare_dataset
from emu3.data.token_roles import ROLE_NAMES
from emu3.data.workers import TokenizerConfig
from emu3.errors import InputError
from emu3.evaluation import evaluate_token_loss
from emu3.evaluation.token_loss import token_losses
from emu3.testing import tiny_checkpoint, tiny_decoder


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> TokenDataset:
    """A text, an image with its caption, an image with a question, and a text that is too long."""
    folder = tmp_path_factory.mktemp("data")
    checkpoint.save(folder / "model")
    Image.radial_gradient("L").resize((16, 16)).convert("RGB").save(folder / "a.png")
    samples = [
        {"text": "some text"},
        {"image": "a.png", "text": "a ball"},
        {"image": "a.png", "turns": [{"question": "What?", "answer": "a ball"}]},
        {"text": "x" * 600},
    ]
    lines = "\n".join(json.dumps(each) for each in samples)
    (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
    sources = find_sources([folder / "samples.jsonl"])
    prepare_dataset(sources, folder / "tokens", TokenizerConfig(str(folder / "model")))
    return TokenDataset.open(folder / "tokens", checkpoint.text_tokenizer)


@torch.no_grad()
def test_losses_equal_those_of_single_documents(
    checkpoint: Checkpoint, dataset: TokenDataset
) -> None:
    report = evaluate_token_loss(checkpoint.decoder, dataset)
    assert (report.documents, report.too_long) == (3, 1)
    assert set(report.roles) == {"text", "vision", "answer"}
    expected: dict[str, list[float]] = {name: [] for name in ROLE_NAMES}
    for number in range(3):
        document = dataset[number]
        logits = checkpoint.decoder(document.ids[None])[0]
        losses = F.cross_entropy(logits[:-1], document.ids[1:], reduction="none")
        for loss, role in zip(losses.tolist(), document.roles[1:].tolist(), strict=True):
            expected[ROLE_NAMES[role]].append(loss)
    for name, found in report.roles.items():
        assert found.tokens == len(expected[name])
        assert found.loss == pytest.approx(sum(expected[name]) / found.tokens, rel=1e-5)
        assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert report.roles["vision"].tokens == dataset.id_counts["vision"]


def test_limit_selects_first_documents(checkpoint: Checkpoint, dataset: TokenDataset) -> None:
    report = evaluate_token_loss(checkpoint.decoder, dataset, limit=1)
    assert report.documents == 1
    assert set(report.roles) == {"text"}


@torch.no_grad()
def test_padding_does_not_change_losses() -> None:
    decoder, rng = tiny_decoder(), torch.Generator().manual_seed(0)
    short, long = (torch.randint(256, (n,), generator=rng) for n in (5, 40))
    together = token_losses(decoder, [short, long])
    torch.testing.assert_close(together[0, :4], token_losses(decoder, [short])[0])


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_refused(
    checkpoint: Checkpoint, dataset: TokenDataset, limit: int
) -> None:
    with pytest.raises(InputError, match="at least 1"):
        evaluate_token_loss(checkpoint.decoder, dataset, limit)


def test_documents_longer_than_context_are_refused(dataset: TokenDataset) -> None:
    decoder = tiny_decoder(max_position_embeddings=4)
    with pytest.raises(InputError, match="context of 4 tokens"):
        evaluate_token_loss(decoder, dataset)


def test_empty_data_set_is_refused(checkpoint: Checkpoint, dataset: TokenDataset) -> None:
    empty = replace(dataset, shards=[], shard_roles=[], first_documents=[0])
    with pytest.raises(InputError, match="no documents"):
        evaluate_token_loss(checkpoint.decoder, empty)


def test_report_is_a_table_and_json(checkpoint: Checkpoint, dataset: TokenDataset) -> None:
    report = evaluate_token_loss(checkpoint.decoder, dataset)
    assert report.table().row_count == 3
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
