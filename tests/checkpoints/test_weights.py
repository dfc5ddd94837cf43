"""Loading and saving weights: strict, exact, with errors that name the file or tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emu3.checkpoints.loading import load_text_tokenizer, save_decoder, save_vision_tokenizer
from emu3.checkpoints.safetensors_io import INDEX_FILE, SINGLE_FILE
from emu3.checkpoints.weights import load_decoder, load_vision_tokenizer, save_weights
from emu3.config import PreprocessorConfig
from emu3.errors import InputError
from emu3.models.precision import BF16, FP32, Precision
from emu3.processing.vision_processor import VisionProcessor
from emu3.testing import byte_tokenizer, tiny_decoder, tiny_vision

CPU = torch.device("cpu")
NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether names, order, dtypes and values are equal."""
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name])
        for name in first
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A decoder saved as one file."""
    save_decoder(tiny_decoder(), byte_tokenizer(), tmp_path)
    return tmp_path


@pytest.fixture
def shards(folder: Path) -> Path:
    """The same decoder saved as shards."""
    save_weights(tiny_decoder(), folder, shard_bytes=30_000)
    assert not (folder / SINGLE_FILE).exists()
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    return folder


def rewrite(path: Path, **changes: Tensor | None) -> None:
    tensors = {**load_file(path), **changes}
    save_file({name: t for name, t in tensors.items() if t is not None}, path)


@pytest.mark.parametrize("to", [FP32, BF16])
@pytest.mark.parametrize("shard_bytes", [5 * 10**9, 30_000])
def test_decoder_round_trip(tmp_path: Path, to: Precision, shard_bytes: int) -> None:
    dtype = to.dtype
    model = tiny_decoder().to(dtype)
    save_decoder(model, byte_tokenizer(), tmp_path)
    save_weights(model, tmp_path, shard_bytes)
    read = load_decoder(tmp_path, to, CPU)
    assert same(read, model)
    assert read.config == model.config
    assert not read.training
    config_json = json.loads((tmp_path / "config.json").read_text())
    assert config_json["torch_dtype"] == str(dtype).removeprefix("torch.")
    text, config = load_text_tokenizer(tmp_path)
    assert (text.ranks, config) == (byte_tokenizer().ranks, model.config)


def test_vision_tokenizer_round_trip(tmp_path: Path) -> None:
    """Batch counters of its norms stay integers."""
    model = tiny_vision(temporal_downsample_factor=2)
    preprocessor = PreprocessorConfig(min_pixels=64, max_pixels=256, spatial_factor=4)
    save_vision_tokenizer(VisionProcessor(model, preprocessor), tmp_path)
    read = load_vision_tokenizer(tmp_path, CPU)
    assert same(read, model)
    assert read.config == model.config
    again = PreprocessorConfig.from_file(tmp_path / "preprocessor_config.json")
    bounds = {"min_pixels": 64, "max_pixels": 256}
    assert again.to_dict() == {**preprocessor.to_dict(), "size": bounds}
    assert any(not t.is_floating_point() for t in read.state_dict().values())


def test_saved_files_are_byte_identical(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    second = tmp_path_factory.mktemp("second")
    save_decoder(load_decoder(folder, FP32, CPU), byte_tokenizer(), second)
    for path in folder.iterdir():
        assert (second / path.name).read_bytes() == path.read_bytes()


def test_load_in_bf16(folder: Path) -> None:
    half = load_decoder(folder, BF16, CPU)
    assert same(half, tiny_decoder().to(torch.bfloat16))
    assert half.dtype == torch.bfloat16


def test_published_folders_load(reference: Path) -> None:
    decoder = load_decoder(reference / "Emu3-Gen-tiny", FP32, CPU)
    vision = load_vision_tokenizer(reference / "Emu3-VisionTokenizer-tiny", CPU)
    for model in (decoder, vision):
        assert all(t.device == CPU for t in model.state_dict().values())


def assert_refused(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as raised:
        load_decoder(folder, FP32, CPU)
    assert all(word in str(raised.value) for word in (str(folder), *words)), raised.value


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_truncated_file_is_named(folder: Path, kept: float) -> None:
    whole = (folder / SINGLE_FILE).read_bytes()
    end = int(len(whole) * kept) if isinstance(kept, float) else kept
    (folder / SINGLE_FILE).write_bytes(whole[:end])
    assert_refused(folder, SINGLE_FILE, "truncated")


def test_wrong_shape_is_named(folder: Path) -> None:
    rewrite(folder / SINGLE_FILE, **{NORM: torch.ones(31)})
    assert_refused(folder, NORM, "[31]", "[32]")


def test_missing_tensor_is_named(folder: Path) -> None:
    rewrite(folder / SINGLE_FILE, **{NORM: None})
    assert_refused(folder, NORM, "missing")


def test_long_list_of_missing_tensors_is_abbreviated(folder: Path) -> None:
    save_file({NORM: torch.ones(32)}, folder / SINGLE_FILE)
    names = sorted(tiny_decoder().state_dict())
    assert_refused(folder, *names[:3], f"and {len(names) - 4} more")


def test_unexpected_tensor_is_named(folder: Path) -> None:
    rewrite(folder / SINGLE_FILE, **{"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})
    assert_refused(folder, "q_proj.bias", "unexpected tensor")


def test_config_of_another_size_raises(folder: Path) -> None:
    config_json = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config_json, "intermediate_size": 47}))
    assert_refused(folder, "mlp", "47")
    (folder / "config.json").write_text(json.dumps({**config_json, "num_hidden_layers": 1}))
    assert_refused(folder, "model.layers.1.")


def test_folder_without_weights(folder: Path) -> None:
    (folder / SINGLE_FILE).unlink()
    assert_refused(folder, SINGLE_FILE, INDEX_FILE)


def test_missing_shard_is_named(shards: Path) -> None:
    lost = sorted(shards.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert_refused(shards, lost.name, "no such file")


def test_truncated_shard_is_named(shards: Path) -> None:
    broken = sorted(shards.glob("model-*.safetensors"))[1]
    broken.write_bytes(broken.read_bytes()[:-10])
    assert_refused(shards, broken.name, "truncated")


def reindex(folder: Path, **changes: str | None) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    places = {**index["weight_map"], **changes}
    index["weight_map"] = {name: file for name, file in places.items() if file is not None}
    (folder / INDEX_FILE).write_text(json.dumps(index))


def test_index_that_differs_from_the_shards_raises(shards: Path) -> None:
    reindex(shards, **{NORM: None})
    assert_refused(shards, NORM, "differ from the index")
    other = json.loads((shards / INDEX_FILE).read_text())["weight_map"][HEAD]
    reindex(shards, **{NORM: other})
    assert_refused(shards, NORM)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}']
)
def test_invalid_index_is_named(shards: Path, content: str) -> None:
    (shards / INDEX_FILE).write_text(content)
    assert_refused(shards, INDEX_FILE)


def test_saving_again_removes_old_shards(shards: Path) -> None:
    save_weights(tiny_decoder(seed=1), shards)
    assert [path.name for path in shards.glob("*.safetensors*")] == [SINGLE_FILE]
    assert same(load_decoder(shards, FP32, CPU), tiny_decoder(seed=1))
