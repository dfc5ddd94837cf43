"""A stage from prepared data to a finished checkpoint: resumed = never killed, 2 = 1, it opens."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emu3.api import Emu3
from emu3.checkpoints.loading import DeviceConfig, load_checkpoint, write_json
from emu3.data.dataset import (
    FORMAT_VERSION,
    INDEX_FILE,
    TokenDataset,
    request_digest,
    shard_file_name,
)
from emu3.data.loader import PackedLoader
from emu3.data.packing import RowPlan, concat_documents
from emu3.data.samples import Sample
from emu3.data.shards import write_shard
from emu3.data.token_roles import ANSWER, CONTEXT, ROLE_NAMES, TEXT
from emu3.data.tokenization import SampleTokenizer, TokenizedDocument
from emu3.errors import InputError
from emu3.models.transformer import Transformer
from emu3.testing import tiny_checkpoint
from emu3.training import run as staged
from emu3.training.batches import BatchLoader, drop_captions
from emu3.training.decoder import DecoderTrainingConfig
from emu3.training.distributed import DistributedContext
from emu3.training.lm_loss import TrainingSequence, lm_losses
from emu3.training.lora import LoraConfig
from emu3.training.presets import (
    NANO_INSTRUCTION,
    NANO_PRETRAINING,
    NANO_QUALITY,
    PRESETS_BY_NAME,
    Preset,
)
from emu3.training.run import (
    RunOptions,
    WeightedDataset,
    init_checkpoint,
    meta_checkpoint,
    run_preset,
)
from tests.training.toy import logged, same_run, started

TINY = tiny_checkpoint()  # not to be trained
VISUAL = TINY.text_tokenizer.vocabulary.visual
CPU = DeviceConfig(torch.device("cpu"), None)
SETTINGS = RunOptions(bf16=False, report_every=1, save_every=2, seed=3)
SMALL: dict[str, Any] = {"steps": 5, "batch_size": 2, "context_length": 320, "warmup_steps": 1}
STAGE = NANO_PRETRAINING.override(**SMALL, optimizer="adamw", dropout=0.1, caption_dropout=0.3)
TURNS = [("What?", "A fox."), ("Big?", "No.")]


def encoded(kind: str, number: int) -> TokenizedDocument:
    """A text, a picture to draw or one to look at, as the data room writes them."""
    writer = SampleTokenizer(TINY.prompts, TINY.vision_processor)
    codes = torch.from_numpy(np.random.default_rng(number).integers(0, 64, (2, 3)))
    if kind == "text":
        return writer.tokenize(Sample(text="word " * (1 + number % 5)))
    if kind == "draw":
        ids = TINY.prompts.document(f"noise {number}", codes)
        return TokenizedDocument(ids, writer._roles(ids, TEXT))
    ids, said = TINY.prompts.chat_document(codes, TURNS)
    return TokenizedDocument(ids, writer._roles(ids, CONTEXT).masked_fill_(said, ANSWER))


def stored(folder: Path, *kinds: str, each: int = 8) -> TokenDataset:
    """A store of documents of these kinds."""
    facts = SampleTokenizer(TINY.prompts, TINY.vision_processor).fingerprint()
    request = {"model": facts, "sources": list(kinds)}
    documents = [encoded(kind, number) for number in range(each) for kind in kinds]
    folder.mkdir()
    write_shard(folder / shard_file_name(0, 0), request_digest(request), documents, [])
    roles = torch.cat([document.roles for document in documents]).long()
    counts = dict(
        zip(ROLE_NAMES, torch.bincount(roles, minlength=len(ROLE_NAMES)).tolist(), strict=True)
    )
    index = {
        "version": FORMAT_VERSION,
        "request": request,
        "shards": {shard_file_name(0, 0): len(documents)},
    }
    write_json(folder / INDEX_FILE, {**index, "ids": counts})
    return TokenDataset.open(folder, TINY.text_tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[WeightedDataset]:
    folder = tmp_path_factory.mktemp("data")
    return [(stored(folder / "drawn", "draw", "text"), 2.0), (stored(folder / "asked", "look"), 1)]


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory, data: list[WeightedDataset]) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_preset(STAGE, tiny_checkpoint(), data, folder, SETTINGS)
    return folder


def weights_of(run: Path, layout: str = "baai") -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "model" / layout, None, CPU).decoder.state_dict()


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, weight in before.items() if not torch.equal(weight, after[name])}


def dying(after: int) -> Callable[[PackedLoader], RowPlan]:
    """A draw of a row that kills its process after so many."""
    left, draw = iter(range(after)), PackedLoader.next_row

    def until(self: PackedLoader) -> RowPlan:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(self)

    return until


def test_a_compiled_run_has_rows_of_one_length(
    tmp_path: Path, data: list[WeightedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = list[tuple[Transformer, DecoderTrainingConfig]]()

    def note(model: Transformer, run: DecoderTrainingConfig, *_: Any, **__: Any) -> None:
        trained.append((model, run))

    monkeypatch.setattr(staged, "train_decoder", note)
    for compiled in (False, True):
        settings = replace(SETTINGS, compile=compiled)
        run_preset(STAGE, tiny_checkpoint(), data, tmp_path / str(compiled), settings)
    for (model, run), compiled in zip(trained, (False, True), strict=True):
        assert run.pad_to_multiple_of == (STAGE.context_length if compiled else 1)
        assert all(("forward" in vars(block)) == compiled for block in model.model.layers)


@pytest.mark.parametrize("kills", [[3], [4], [5, 3]])
def test_killed_and_resumed_is_never_killed(
    tmp_path: Path, never_killed: Path, data: list[WeightedDataset], kills: list[int]
) -> None:
    """By SIGKILL: before the first checkpoint, right behind it, and twice."""

    def doomed(after: int) -> None:
        PackedLoader.next_row = dying(after)  # type: ignore[method-assign]
        run_preset(STAGE, tiny_checkpoint(), data, tmp_path / "run", SETTINGS)

    for after in kills:
        process = started(doomed, after)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    run_preset(STAGE, tiny_checkpoint(), data, tmp_path / "run", SETTINGS)
    assert same_run(tmp_path / "run", never_killed)
    for layout in ("baai", "transformers"):
        assert not moved(weights_of(never_killed, layout), weights_of(tmp_path / "run", layout))


def test_the_position_of_the_loader_is_what_decides(data: list[WeightedDataset]) -> None:
    """The rows of a step are those of the run, however often it was begun again."""
    whole, halved = (rows(data) for _ in range(2))
    expected = [list(whole(np.random.default_rng(0))) for _ in range(6)]
    for step, wanted in enumerate(expected):
        got = list(halved(np.random.default_rng(step)))
        for one, other in zip(got, wanted, strict=True):
            assert torch.equal(one.token_ids, other.token_ids)
            assert torch.equal(one.loss_weights, other.loss_weights)
        state = halved.state_dict()
        halved = rows(data)
        halved.load_state_dict(state)


def rows(data: Sequence[WeightedDataset], stage: Preset = STAGE) -> BatchLoader:
    stores, shares = zip(*data, strict=True)
    loader = PackedLoader(stores, shares, stage.context_length, seed=3)
    return BatchLoader(loader, stage, TINY.text_tokenizer.vocabulary.sov, seed=3)


def test_a_process_reads_its_own_rows_alone(
    data: list[WeightedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[RowPlan] = []
    whole = PackedLoader.read_row
    monkeypatch.setattr(
        PackedLoader, "read_row", lambda self, row: read.append(row) or whole(self, row)
    )
    stage = STAGE.override(batch_size=5)
    both = [rows(data, stage)(np.random.default_rng(0)) for _ in range(2)]
    assert not read
    shares = [
        DistributedContext(rank, 2, torch.device("cpu")).shard(both[rank]) for rank in range(2)
    ]
    assert [len(share) for share in shares] == [3, 2]
    assert len(read) == 5
    alone = list(rows(data, stage)(np.random.default_rng(0)))
    for rank, share in enumerate(shares):
        for mine, wanted in zip(share, alone[rank::2], strict=True):
            assert torch.equal(mine.token_ids, wanted.token_ids)


def test_a_dropped_caption_is_an_empty_one() -> None:
    parts = [encoded(kind, 1) for kind in ("draw", "text", "look")]
    pack = concat_documents([(part.ids, part.roles) for part in parts])
    rng, sov = np.random.default_rng(0), TINY.text_tokenizer.vocabulary.sov
    got = drop_captions(pack, 1.0, sov, rng)
    codes = torch.from_numpy(np.random.default_rng(1).integers(0, 64, (2, 3)))
    bare = TINY.prompts.document("", codes)
    expected = [bare, parts[1].ids, parts[2].ids]
    assert [part.tolist() for part in got.ids.split(list(got.lengths))] == [
        each.tolist() for each in expected
    ]
    assert len(got.roles) == len(got.ids)
    assert drop_captions(pack, 0.0, sov, rng).lengths == pack.lengths


def test_the_finished_model_opens_draws_and_says_how_it_came_to_be(never_killed: Path) -> None:
    model = Emu3.from_pretrained(never_killed / "model" / "baai", device="cpu")
    (picture,) = model.image("noise", seed=0).images
    assert picture.size == (16, 16)
    one, other = weights_of(never_killed), weights_of(never_killed, "transformers")
    assert not moved(one, other)
    assert len(moved(TINY.decoder.state_dict(), one)) == len(one)  # all have learnt
    card = (never_killed / "model" / "README.md").read_text()
    for said in (
        "| steps | 5 | ours |",
        "| batch size | 2 | ours |",
        "| image areas | 64 to 1,024 | ours |",
        "| loss weights | text 1, vision 0.5, answer 1, context 0 | paper |",
        "* `drawn`: 16 documents",
        "0.6667 of all drawn",
        "One process on",
        "Products in float32",
        "rows in one pass: 1; seed 3.",
        "| ids a second, median |",
    ):
        assert said in card, said


def test_another_request_is_refused_and_a_finished_one_is_done(
    never_killed: Path, data: list[WeightedDataset], tmp_path: Path
) -> None:
    before = (never_killed / "state.pt").read_bytes()
    run_preset(STAGE, tiny_checkpoint(), data, never_killed, replace(SETTINGS, micro_batch_size=2))
    assert (never_killed / "state.pt").read_bytes() == before
    for stage, settings, says in (
        (STAGE.override(steps=6), SETTINGS, "stage steps: it has 5, now 6"),
        (STAGE, replace(SETTINGS, seed=4), "seed: it has 3, now 4"),
        (STAGE, replace(SETTINGS, lora=LoraConfig()), "lora: it has null"),
    ):
        with pytest.raises(InputError, match=says):
            run_preset(stage, tiny_checkpoint(), data, never_killed, settings)
    with pytest.raises(InputError, match=r"data 1 weight: it has 2\.0, now 1\.0"):
        run_preset(STAGE, tiny_checkpoint(), [(data[0][0], 1.0), data[1]], never_killed, SETTINGS)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        run_preset(STAGE, tiny_checkpoint(), data, tmp_path, SETTINGS)


@torch.no_grad()
def by_hand(documents: Sequence[TrainingSequence], learnt: Callable[[int], bool]) -> float:
    """The mean cross-entropy of some targets, each document of a row alone, token by token."""
    model, entropies = TINY.decoder, list[float]()
    for row in documents:
        for ids, weights in zip(
            *(x.split(row.lengths) for x in (row.token_ids, row.loss_weights)), strict=True
        ):
            predicted = model(ids[None])[0].log_softmax(-1)
            for at in range(1, len(ids)):
                if weights[at] > 0:
                    assert learnt(int(ids[at]))
                    entropies.append(-predicted[at - 1, ids[at]].item())
    return sum(entropies) / len(entropies)


def test_instruction_tuning_learns_answers_and_quality_tuning_codes(
    tmp_path: Path, data: list[WeightedDataset]
) -> None:
    answers = {*TINY.text_tokenizer.encode(" A fox. No."), TINY.text_tokenizer.vocabulary.eos}
    for stage, store, learnt in (
        (NANO_INSTRUCTION, data[1], lambda id: id in answers),
        (
            NANO_QUALITY,
            (stored(tmp_path / "drawn", "draw"), 1.0),
            lambda id: VISUAL.start <= id < VISUAL.stop,
        ),
    ):
        batch = list(rows([store], stage.override(**SMALL))(np.random.default_rng(0)))
        assert any(
            ((VISUAL.start <= row.token_ids) & (row.token_ids < VISUAL.stop)).any() for row in batch
        )
        got = lm_losses(TINY.decoder, batch, VISUAL)
        assert got["loss"].item() == pytest.approx(by_hand(batch, learnt), rel=1e-4)
    stage = NANO_INSTRUCTION.override(**SMALL)
    run_preset(stage, tiny_checkpoint(), data[1:], tmp_path / "run", SETTINGS)
    reports = logged(tmp_path / "run")
    assert [report["vision"] for report in reports] == [0.0] * stage.steps
    assert all(report["text"] == report["loss"] > 0 for report in reports)


def test_an_adapter_is_trained_alone_and_merged(
    tmp_path: Path, data: list[WeightedDataset]
) -> None:
    pytest.importorskip("peft", reason='needs pip install "emu3[train]"')
    settings = replace(SETTINGS, lora=LoraConfig(rank=2))
    run_preset(STAGE, tiny_checkpoint(), data, tmp_path / "run", settings)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    before, after = TINY.decoder.state_dict(), weights_of(tmp_path / "run")
    assert set(before) == set(after)
    assert moved(before, after) == {name for name in before if "_proj." in name}
    again = run_preset(STAGE, tiny_checkpoint(), data, tmp_path / "run", settings)  # merged again
    assert not moved(after, weights_of(again.parent))


def test_new_weights_take_shape_and_tokenizers(tmp_path: Path, data: list[WeightedDataset]) -> None:
    checkpoint = tiny_checkpoint()
    checkpoint.save(tmp_path / "tiny")
    one, other = (init_checkpoint(tmp_path / "tiny", None, seed) for seed in (1, 1))
    assert one.decoder.config == checkpoint.decoder.config
    assert not moved(one.decoder.state_dict(), other.decoder.state_dict())
    assert "lm_head.weight" in moved(one.decoder.state_dict(), checkpoint.decoder.state_dict())
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(
        one.vision_processor.vision.encode(pixels),
        checkpoint.vision_processor.vision.encode(pixels),
    )


BAD: list[tuple[dict[str, Any], str]] = [
    ({"context_length": 513}, "positions for 512"),
    ({"context_length": 1}, "at least 2"),
    ({"batch_size": 0}, "0 rows a step"),
    ({"learning_rate": 0.0}, "above 0"),
    ({"steps": 0}, "at least 1"),
    ({"optimizer": "sgd"}, "'muon' or 'adamw'"),
]


@pytest.mark.parametrize(("values", "says"), BAD)
def test_what_cannot_be_is_refused(
    tmp_path: Path, data: list[WeightedDataset], values: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        run_preset(STAGE.override(**values), tiny_checkpoint(), data, tmp_path / "run", SETTINGS)
    assert not list(tmp_path.iterdir())


def test_data_that_teaches_nothing_is_refused(tmp_path: Path, data: list[WeightedDataset]) -> None:
    stage = NANO_INSTRUCTION.override(**SMALL)
    with pytest.raises(InputError, match=r"drawn: nothing to learn in .* answer ids"):
        run_preset(stage, tiny_checkpoint(), data, tmp_path / "run", SETTINGS)
    with pytest.raises(InputError, match="no data"):
        run_preset(STAGE, tiny_checkpoint(), [], tmp_path / "run", SETTINGS)


def test_what_does_not_fit_is_told(tmp_path: Path, data: list[WeightedDataset]) -> None:
    """A picture that is longer than the context is left out, never cut."""
    short = min(data[1][0].document_length(number) for number in range(len(data[1][0]))) - 1
    both, said = [(stored(tmp_path / "mixed", "draw", "look"), 1.0)], list[str]()
    stage = STAGE.override(context_length=short)
    run_preset(stage, tiny_checkpoint(), both, tmp_path / "run", SETTINGS, say=said.append)
    (line,) = said
    assert line.startswith("left out: 8 documents")
    assert line in (tmp_path / "run" / "model" / "README.md").read_text()


def test_who_does_not_read_the_model_knows_its_shape(tmp_path: Path) -> None:
    TINY.save(tmp_path / "tiny")
    shape = meta_checkpoint(tmp_path / "tiny", None)
    assert {weight.device.type for weight in shape.decoder.parameters()} == {"meta"}
    assert shape.decoder.config == TINY.decoder.config
    assert shape.text_tokenizer.vocabulary == TINY.text_tokenizer.vocabulary


def test_each_process_needs_a_row(tmp_path: Path, data: list[WeightedDataset]) -> None:
    two = DistributedContext(0, 2, torch.device("cpu"))
    with pytest.raises(InputError, match="each needs one"):
        run_preset(
            STAGE.override(batch_size=1), tiny_checkpoint(), data, tmp_path / "run", SETTINGS, two
        )
    assert not list(tmp_path.iterdir())


def test_a_changed_number_is_ours() -> None:
    for stage in PRESETS_BY_NAME.values():
        assert stage.override(steps=stage.steps, context_length=stage.context_length) == stage
        other = stage.override(learning_rate=stage.learning_rate / 2)
        assert other.source("learning_rate") == "ours"
        assert other.source("loss_weights") == stage.source("loss_weights")
    with pytest.raises(InputError, match="no fields"):
        STAGE.override(rows=2)
