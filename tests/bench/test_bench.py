"""The benchmark counts what it says it counts, in every way of drawing, on the real nano."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from emu3.bench import CASES, Case, Result, print_results, run_all
from emu3.bench.cases import bytes_a_pass, measure
from emu3.bench.sizes import SIZES, published_vocabulary, random_decoder, subject
from emu3.config import DecoderConfig
from emu3.models.precision import BF16, FP32, INT4, INT8, PRECISIONS, Precision

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("way", CASES)
def test_every_way_draws_the_whole_picture(way: str) -> None:
    if CASES[way].dense:
        pytest.importorskip("transformers", reason="needs pip install emu3[hf]")
    result = measure(Case("nano", way, "fp32"))
    assert result.codes == result.of == 64
    passes = {"sequential": 64, "original": 8 * 9 + 3, "batched": 8 * 9 + 3, "slow": 8 * 9 + 3}
    if way == "windows":
        assert 1 < result.passes < 64
    else:
        assert result.passes == passes[way]
    assert result.rate > 0
    assert 0 < result.share < 2
    assert result.peak > result.bytes_a_pass


@pytest.mark.slow
def test_a_case_runs_in_a_process_of_its_own_and_fails_alone() -> None:
    good, bad = run_all(
        [Case("nano", "windows", "int8"), Case("nano", "batched", "int8", seconds=1)]
    )
    assert good.codes == 64
    assert "knows no int8" in bad.failed
    console = Console(width=120, record=True)
    print_results([good, bad], console)
    said = console.export_text()
    assert "ours, windows" in said
    assert "failed:" in said


def test_the_time_is_up() -> None:
    result = measure(Case("nano", "sequential", "fp32", seconds=1e-6))
    assert result.codes < result.of


@pytest.mark.parametrize("to", PRECISIONS, ids=lambda to: to.name)
def test_random_weights_are_held_as_asked(to: Precision) -> None:
    config = DecoderConfig(
        vocab_size=184_622,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    decoder = random_decoder(config, to, CPU)
    logits = decoder(torch.arange(8)[None])
    assert logits.isfinite().all()
    assert logits.std() > 0.05
    assert decoder.dtype == to.dtype


def test_bytes_are_those_of_the_weights_and_the_cache() -> None:
    for to, width in ((FP32, 4), (BF16, 2), (INT8, 1), (INT4, 0.5)):
        what = subject(SIZES["nano"], to, CPU)
        config = what.decoder.config
        kv = config.num_key_value_heads * config.head_dim
        square = config.hidden_size**2
        each = 2 * square + 2 * kv * config.hidden_size
        each += 3 * config.hidden_size * config.intermediate_size
        head = what.document_format.vocabulary.codebook_size * config.hidden_size
        least = width * config.num_hidden_layers * each + min(4, max(1, width)) * head
        assert least <= bytes_a_pass(what) < 1.5 * least


def test_the_published_vocabulary_is_as_published() -> None:
    vocabulary = published_vocabulary()
    assert vocabulary.size == 184_622
    assert (vocabulary.sot, vocabulary.visual_start) == (151_851, 151_854)


def test_shares_are_of_the_bandwidth() -> None:
    result = Result(
        Case("nano", "windows", "fp32"),
        codes=64,
        of=64,
        passes=32,
        rate=128.0,
        peak=0.0,
        bytes_a_pass=1e9,
        bandwidth=128e9,
    )
    assert result.share == 0.5  # 64 passes a second of 1 GB
