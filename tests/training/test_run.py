"""Running a preset from prepared data to a finished checkpoint, and exact resume."""

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
from emu3.training import run
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
from tests.training.toy_run import flatten, logged, same_checkpoint, saved_state, start_process

TINY = tiny_checkpoint()  # not to be trained
VISUAL = TINY.text_tokenizer.vocabulary.visual
CPU = DeviceConfig(torch.device("cpu"), None)
OPTIONS = RunOptions(bf16=False, report_every=1, save_every=2, seed=3)
SMALL: dict[str, Any] = {"steps": 5, "batch_size": 2, "context_length": 320, "warmup_steps": 1}
PRESET = NANO_PRETRAINING.override(**SMALL, optimizer="adamw", dropout=0.1, caption_dropout=0.3)
TURNS = [("What?", "A fox."), ("Big?", "No.")]


def encode_document(kind: str, number: int) -> TokenizedDocument:
    """A document of text, image generation or image understanding, as `emu3 prepare` does."""
    writer = SampleTokenizer(TINY.prompts, TINY.vision_processor)
    codes = torch.from_numpy(np.random.default_rng(number).integers(0, 64, (2, 3)))
    if kind == "text":
        return writer.tokenize(Sample(text="word " * (1 + number % 5)))
    if kind == "draw":
        ids = TINY.prompts.document(f"noise {number}", codes)
        return TokenizedDocument(ids, writer._roles(ids, TEXT))
    ids, answered = TINY.prompts.chat_document(codes, TURNS)
    return TokenizedDocument(ids, writer._roles(ids, CONTEXT).masked_fill_(answered, ANSWER))


def dataset(folder: Path, *kinds: str, each: int = 8) -> TokenDataset:
    """A data set of documents of these kinds."""
    facts = SampleTokenizer(TINY.prompts, TINY.vision_processor).fingerprint()
    request = {"model": facts, "sources": list(kinds)}
    documents = [encode_document(kind, number) for number in range(each) for kind in kinds]
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
    return [
        (dataset(folder / "images", "draw", "text"), 2.0),
        (dataset(folder / "asked", "look"), 1),
    ]


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory, data: list[WeightedDataset]) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_preset(PRESET, tiny_checkpoint(), data, folder, OPTIONS)
    return folder


def weights_of(run: Path, layout: str = "baai") -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "model" / layout, None, CPU).decoder.state_dict()


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, weight in before.items() if not torch.equal(weight, after[name])}


def kill_after(after: int) -> Callable[[PackedLoader], RowPlan]:
    """A `next_row` that kills its process after some rows."""
    left, draw = iter(range(after)), PackedLoader.next_row

    def until(self: PackedLoader) -> RowPlan:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(self)

    return until


@pytest.mark.slow
def test_compiled_run_pads_to_the_context(
    tmp_path: Path, data: list[WeightedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = list[tuple[Transformer, DecoderTrainingConfig]]()

    def record(model: Transformer, config: DecoderTrainingConfig, *_: Any, **__: Any) -> None:
        trained.append((model, config))

    monkeypatch.setattr(run, "train_decoder", record)
    for compiled in (False, True):
        options = replace(OPTIONS, compile=compiled)
        run_preset(PRESET, tiny_checkpoint(), data, tmp_path / str(compiled), options)
    for (model, config), compiled in zip(trained, (False, True), strict=True):
        assert config.pad_to_multiple_of == (PRESET.context_length if compiled else 1)
        assert all(("forward" in vars(block)) == compiled for block in model.model.layers)


@pytest.mark.parametrize("kills", [[3], [4], [5, 3]])
def test_killed_and_resumed_equals_never_killed(
    tmp_path: Path, never_killed: Path, data: list[WeightedDataset], kills: list[int]
) -> None:
    """By SIGKILL: before the first checkpoint, right after it, and twice."""

    def doomed(after: int) -> None:
        PackedLoader.next_row = kill_after(after)  # type: ignore[method-assign]
        run_preset(PRESET, tiny_checkpoint(), data, tmp_path / "run", OPTIONS)

    for after in kills:
        process = start_process(doomed, after)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    run_preset(PRESET, tiny_checkpoint(), data, tmp_path / "run", OPTIONS)
    assert same_checkpoint(tmp_path / "run", never_killed)
    for layout in ("baai", "transformers"):
        assert not changed(weights_of(never_killed, layout), weights_of(tmp_path / "run", layout))


def test_batches_depend_on_the_position_only(data: list[WeightedDataset]) -> None:
    """The batch of a step is the same however often the run was resumed."""
    whole, halved = (batch_loader(data) for _ in range(2))
    expected = [list(whole(np.random.default_rng(0))) for _ in range(6)]
    for step, wanted in enumerate(expected):
        got = list(halved(np.random.default_rng(step)))
        for one, other in zip(got, wanted, strict=True):
            assert torch.equal(one.token_ids, other.token_ids)
            assert torch.equal(one.loss_weights, other.loss_weights)
        state = halved.state_dict()
        halved = batch_loader(data)
        halved.load_state_dict(state)


def batch_loader(data: Sequence[WeightedDataset], preset: Preset = PRESET) -> BatchLoader:
    stores, shares = zip(*data, strict=True)
    loader = PackedLoader(stores, shares, preset.context_length, seed=3)
    return BatchLoader(loader, preset, TINY.text_tokenizer.vocabulary.sov, seed=3)


def test_each_rank_reads_its_own_rows_only(
    data: list[WeightedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[RowPlan] = []
    whole = PackedLoader.read_row
    monkeypatch.setattr(
        PackedLoader, "read_row", lambda self, row: read.append(row) or whole(self, row)
    )
    preset = PRESET.override(batch_size=5)
    both = [batch_loader(data, preset)(np.random.default_rng(0)) for _ in range(2)]
    assert not read
    shares = [
        DistributedContext(rank, 2, torch.device("cpu")).shard(both[rank]) for rank in range(2)
    ]
    assert [len(share) for share in shares] == [3, 2]
    assert len(read) == 5
    alone = list(batch_loader(data, preset)(np.random.default_rng(0)))
    for rank, share in enumerate(shares):
        for mine, wanted in zip(share, alone[rank::2], strict=True):
            assert torch.equal(mine.token_ids, wanted.token_ids)


def test_dropped_caption_equals_an_empty_one() -> None:
    parts = [encode_document(kind, 1) for kind in ("draw", "text", "look")]
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


def test_finished_model_loads_generates_and_has_a_model_card(never_killed: Path) -> None:
    model = Emu3.from_pretrained(never_killed / "model" / "baai", device="cpu")
    (image,) = model.image("noise", seed=0).images
    assert image.size == (16, 16)
    one, other = weights_of(never_killed), weights_of(never_killed, "transformers")
    assert not changed(one, other)
    assert len(changed(TINY.decoder.state_dict(), one)) == len(one)  # all were trained
    model_card = (never_killed / "model" / "README.md").read_text()
    for expected in (
        "| steps | 5 | ours |",
        "| batch size | 2 | ours |",
        "| image areas | 64 to 1,024 | ours |",
        "| loss weights | text 1, vision 0.5, answer 1, context 0 | paper |",
        "* `images`: 16 documents",
        "share of the mixture 0.6667",
        "1 process on",
        "Matrix products in float32",
        "micro-batch size 1; seed 3.",
        "| tokens a second, median |",
    ):
        assert expected in model_card, expected


def test_other_settings_are_refused_and_a_finished_run_is_not_repeated(
    never_killed: Path, data: list[WeightedDataset], tmp_path: Path
) -> None:
    before = flatten(saved_state(never_killed))
    run_preset(PRESET, tiny_checkpoint(), data, never_killed, replace(OPTIONS, micro_batch_size=2))
    assert flatten(saved_state(never_killed)) == before
    for preset, options, message in (
        (PRESET.override(steps=6), OPTIONS, "preset steps: 5 in the run, 6 given"),
        (PRESET, replace(OPTIONS, seed=4), "seed: 3 in the run, 4 given"),
        (PRESET, replace(OPTIONS, lora=LoraConfig()), "lora: null in the run"),
    ):
        with pytest.raises(InputError, match=message):
            run_preset(preset, tiny_checkpoint(), data, never_killed, options)
    with pytest.raises(InputError, match=r"data 1 weight: 2\.0 in the run, 1\.0 given"):
        run_preset(PRESET, tiny_checkpoint(), [(data[0][0], 1.0), data[1]], never_killed, OPTIONS)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        run_preset(PRESET, tiny_checkpoint(), data, tmp_path, OPTIONS)


@torch.no_grad()
def by_hand(documents: Sequence[TrainingSequence], trained_on: Callable[[int], bool]) -> float:
    """The mean cross-entropy of the targets, each document of a sequence alone, token by token."""
    model, entropies = TINY.decoder, list[float]()
    for row in documents:
        for ids, weights in zip(
            *(x.split(row.lengths) for x in (row.token_ids, row.loss_weights)), strict=True
        ):
            predicted = model(ids[None])[0].log_softmax(-1)
            for at in range(1, len(ids)):
                if weights[at] > 0:
                    assert trained_on(int(ids[at]))
                    entropies.append(-predicted[at - 1, ids[at]].item())
    return sum(entropies) / len(entropies)


def test_instruction_tuning_trains_on_answers_and_quality_tuning_on_visual_tokens(
    tmp_path: Path, data: list[WeightedDataset]
) -> None:
    answers = {*TINY.text_tokenizer.encode(" A fox. No."), TINY.text_tokenizer.vocabulary.eos}
    for preset, store, trained_on in (
        (NANO_INSTRUCTION, data[1], lambda id: id in answers),
        (
            NANO_QUALITY,
            (dataset(tmp_path / "images", "draw"), 1.0),
            lambda id: VISUAL.start <= id < VISUAL.stop,
        ),
    ):
        batch = list(batch_loader([store], preset.override(**SMALL))(np.random.default_rng(0)))
        assert any(
            ((VISUAL.start <= row.token_ids) & (row.token_ids < VISUAL.stop)).any() for row in batch
        )
        got = lm_losses(TINY.decoder, batch, VISUAL)
        assert got["loss"].item() == pytest.approx(by_hand(batch, trained_on), rel=1e-4)
    preset = NANO_INSTRUCTION.override(**SMALL)
    run_preset(preset, tiny_checkpoint(), data[1:], tmp_path / "run", OPTIONS)
    reports = logged(tmp_path / "run")
    assert [report["vision_loss"] for report in reports] == [0.0] * preset.steps
    assert all(report["text_loss"] == report["loss"] > 0 for report in reports)


def test_only_the_adapter_is_trained_and_merged(
    tmp_path: Path, data: list[WeightedDataset]
) -> None:
    pytest.importorskip("peft", reason='needs pip install "emu3[train]"')
    options = replace(OPTIONS, lora=LoraConfig(rank=2))
    run_preset(PRESET, tiny_checkpoint(), data, tmp_path / "run", options)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    before, after = TINY.decoder.state_dict(), weights_of(tmp_path / "run")
    assert set(before) == set(after)
    assert changed(before, after) == {name for name in before if "_proj." in name}
    again = run_preset(PRESET, tiny_checkpoint(), data, tmp_path / "run", options)  # exports again
    assert not changed(after, weights_of(again.parent))


def test_init_checkpoint_has_config_and_tokenizers_of_the_model(
    tmp_path: Path, data: list[WeightedDataset]
) -> None:
    checkpoint = tiny_checkpoint()
    checkpoint.save(tmp_path / "tiny")
    one, other = (init_checkpoint(tmp_path / "tiny", None, seed) for seed in (1, 1))
    assert one.decoder.config == checkpoint.decoder.config
    assert not changed(one.decoder.state_dict(), other.decoder.state_dict())
    assert "lm_head.weight" in changed(one.decoder.state_dict(), checkpoint.decoder.state_dict())
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(
        one.vision_processor.vision.encode(pixels),
        checkpoint.vision_processor.vision.encode(pixels),
    )


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"context_length": 513}, "positions for 512"),
    ({"context_length": 1}, "at least 2"),
    ({"batch_size": 0}, "0 rows a step"),
    ({"learning_rate": 0.0}, "above 0"),
    ({"steps": 0}, "at least 1"),
    ({"optimizer": "sgd"}, "'muon' or 'adamw'"),
]


@pytest.mark.parametrize(("values", "message"), INVALID)
def test_invalid_settings_are_refused(
    tmp_path: Path, data: list[WeightedDataset], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_preset(PRESET.override(**values), tiny_checkpoint(), data, tmp_path / "run", OPTIONS)
    assert not list(tmp_path.iterdir())


def test_data_without_trained_tokens_is_refused(
    tmp_path: Path, data: list[WeightedDataset]
) -> None:
    preset = NANO_INSTRUCTION.override(**SMALL)
    with pytest.raises(InputError, match=r"images: has no answer tokens"):
        run_preset(preset, tiny_checkpoint(), data, tmp_path / "run", OPTIONS)
    with pytest.raises(InputError, match="no data"):
        run_preset(PRESET, tiny_checkpoint(), [], tmp_path / "run", OPTIONS)


def test_documents_longer_than_the_context_are_reported(
    tmp_path: Path, data: list[WeightedDataset]
) -> None:
    """A document with an image is left out, never split."""
    short = min(data[1][0].document_length(number) for number in range(len(data[1][0]))) - 1
    both, notices = [(dataset(tmp_path / "mixed", "draw", "look"), 1.0)], list[str]()
    preset = PRESET.override(context_length=short)
    run_preset(preset, tiny_checkpoint(), both, tmp_path / "run", OPTIONS, on_notice=notices.append)
    (line,) = notices
    assert line.startswith("8 documents left out")
    assert line in (tmp_path / "run" / "model" / "README.md").read_text()


def test_meta_checkpoint_has_config_and_tokenizers(tmp_path: Path) -> None:
    TINY.save(tmp_path / "tiny")
    shape = meta_checkpoint(tmp_path / "tiny", None)
    assert {weight.device.type for weight in shape.decoder.parameters()} == {"meta"}
    assert shape.decoder.config == TINY.decoder.config
    assert shape.text_tokenizer.vocabulary == TINY.text_tokenizer.vocabulary


def test_each_process_needs_a_sequence(tmp_path: Path, data: list[WeightedDataset]) -> None:
    two = DistributedContext(0, 2, torch.device("cpu"))
    with pytest.raises(InputError, match="each needs at least one"):
        run_preset(
            PRESET.override(batch_size=1), tiny_checkpoint(), data, tmp_path / "run", OPTIONS, two
        )
    assert not list(tmp_path.iterdir())


def test_changed_fields_are_ours() -> None:
    for preset in PRESETS_BY_NAME.values():
        assert preset.override(steps=preset.steps, context_length=preset.context_length) == preset
        other = preset.override(learning_rate=preset.learning_rate / 2)
        assert other.source("learning_rate") == "ours"
        assert other.source("loss_weights") == preset.source("loss_weights")
    with pytest.raises(InputError, match="no fields"):
        PRESET.override(rows=2)
