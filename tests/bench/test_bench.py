"""The benchmark on nano: counts of codes, passes and bytes for every method."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from emu3.bench import METHODS, Case, Result, print_results, run_all
from emu3.bench.benchmark import bytes_per_pass, find_method, measure
from emu3.bench.models import MODELS, load_model, published_vocabulary, random_decoder
from emu3.config import DecoderConfig
from emu3.models.precision import BF16, FP32, INT4, INT8, PRECISIONS, Precision

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_generates_the_whole_image(method: str) -> None:
    if not METHODS[method].quantized:
        pytest.importorskip("transformers", reason="needs pip install emu3[hf]")
    result = measure(Case("nano", method, "fp32"))
    assert result.codes == result.image_codes == 64
    passes = {"sequential": 64, "original": 8 * 9 + 3, "batched": 8 * 9 + 3, "slow": 8 * 9 + 3}
    if method == "windows":
        assert 1 < result.passes < 64
    else:
        assert result.passes == passes[method]
    assert result.codes_per_second > 0
    assert 0 < result.bandwidth_fraction < 2
    assert result.peak_bytes > result.bytes_per_pass


@pytest.mark.slow
def test_failure_affects_one_case() -> None:
    good, bad = run_all(
        [Case("nano", "windows", "int8"), Case("nano", "batched", "int8", seconds=1)]
    )
    assert good.codes == 64
    assert "int8 is not supported" in bad.error
    console = Console(width=120, record=True)
    print_results([good, bad], console)
    text = console.export_text()
    assert "speculative" in text
    assert "failed:" in text


def test_an_error_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """A console that reads brackets as markup drops the name of a missing extra."""
    error = 'measuring transformers needs transformers: pip install "emu3[hf]"'
    failed = Result(Case("nano", "batched", "fp32"), 0, 0, 0, 0.0, 0.0, 0.0, 0.0, error=error)
    print_results([failed])
    print_results([failed], Console())
    assert capsys.readouterr().out.count(error) == 2


def test_time_limit() -> None:
    result = measure(Case("nano", "sequential", "fp32", seconds=1e-6))
    assert result.codes < result.image_codes


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda each: each.name)
def test_random_weights_have_their_precision(precision: Precision) -> None:
    config = DecoderConfig(
        vocab_size=184_622,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    decoder = random_decoder(config, precision, CPU)
    logits = decoder(torch.arange(8)[None])
    assert logits.isfinite().all()
    assert logits.std() > 0.05
    assert decoder.dtype == precision.dtype


def test_bytes_are_those_of_weights_and_cache() -> None:
    for precision, width in ((FP32, 4), (BF16, 2), (INT8, 1), (INT4, 0.5)):
        model = load_model(MODELS["nano"], precision, CPU)
        config = model.decoder.config
        kv = config.num_key_value_heads * config.head_dim
        square = config.hidden_size**2
        each = 2 * square + 2 * kv * config.hidden_size
        each += 3 * config.hidden_size * config.intermediate_size
        head = model.document_format.vocabulary.codebook_size * config.hidden_size
        least = width * config.num_hidden_layers * each + min(4, max(1, width)) * head
        assert least <= bytes_per_pass(model) < 1.5 * least


def test_published_vocabulary() -> None:
    vocabulary = published_vocabulary()
    assert vocabulary.size == 184_622
    assert (vocabulary.sot, vocabulary.visual_start) == (151_851, 151_854)


def test_bandwidth_fraction() -> None:
    result = Result(
        Case("nano", "windows", "fp32"),
        codes=64,
        image_codes=64,
        passes=32,
        codes_per_second=128.0,
        peak_bytes=0.0,
        bytes_per_pass=1e9,
        bandwidth=128e9,
    )
    assert result.bandwidth_fraction == 0.5  # 64 passes per second of 1 GB


def test_methods_have_aliases() -> None:
    assert find_method("reference") == "slow"
    assert find_method("speculative") == "windows"
    assert find_method("original") == "original"
