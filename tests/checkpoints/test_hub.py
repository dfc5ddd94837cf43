"""Resolution of model names, requests to the hub, and one-line error messages.

The hub is a local test server: see `fake_hub.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

import emu3
from emu3.checkpoints.hub import BAAI_VISION_TOKENIZER, find_model, find_vision_tokenizer
from emu3.errors import InputError
from tests.baai_hub import DECODER, GEN, SHARDS, TOGETHER, VISION, WEIGHTS, as_json
from tests.fake_hub import Asked, FakeHub


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refused(name: str) -> str:
    with pytest.raises(InputError) as raised:
        find_model(name)
    message = str(raised.value)
    assert "\n" not in message
    assert name.split("@")[0] in message
    return message


def last_path_parts(requests: list[Asked]) -> list[str]:
    """The last path component of each request."""
    return [one.path.split("/")[-1] for one in requests]


def with_small_files_only(folder: Path) -> Path:
    """Check that a folder has the small files and no weights; returns it."""
    assert (folder / "config.json").exists()
    assert not list(folder.glob("*.safetensors"))
    return folder


def make_vision_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


def make_model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "generation_config.json").write_text("{}")
    return folder


def test_nano_is_part_of_the_package() -> None:
    assert find_model("nano") == Path(emu3.__file__).parent / "nano"


def test_folder_resolves_to_itself(tmp_path: Path, hub: FakeHub) -> None:
    assert find_model(tmp_path) == tmp_path
    assert find_model(str(tmp_path)) == tmp_path
    assert not hub.asked


def test_folder_takes_precedence_over_hub_id(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BAAI" / "Emu3-Gen").mkdir(parents=True)
    assert find_model("BAAI/Emu3-Gen") == Path("BAAI/Emu3-Gen")
    assert not hub.asked


INVALID_NAMES = ["nanoo", "/no/such/folder", "a/b/c", "../x/y", "a b/c", "https://host/name"]
INVALID_REVISIONS = ["a/b@", "a/b@/etc", "a/b@../../c", "a/b@x/../y", "a/b@v 1", "nano@v1"]


@pytest.mark.parametrize("name", [*INVALID_NAMES, *INVALID_REVISIONS, Path("some/path")])
def test_invalid_names_raise_without_a_request(
    name: str | Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such model") as raised:
        find_model(name)
    assert "hub id" in str(raised.value)
    assert not hub.asked


def test_named_vision_tokenizer_comes_first(tmp_path: Path) -> None:
    model = make_model_folder(tmp_path / "model")
    make_vision_folder(model / "vision_tokenizer")
    make_vision_folder(tmp_path / "beside")
    named = make_vision_folder(tmp_path / "elsewhere" / "vision")
    assert find_vision_tokenizer(model, named, model) == named
    assert find_vision_tokenizer(model, str(named), str(model)) == named


def test_vision_tokenizer_in_subfolder(tmp_path: Path, hub: FakeHub) -> None:
    model = make_model_folder(tmp_path / "model")
    inside = make_vision_folder(model / "vision_tokenizer")
    make_vision_folder(tmp_path / "beside")
    assert find_vision_tokenizer(model, None, model) == inside
    assert find_vision_tokenizer(model, None, "BAAI/Emu3-Gen") == inside
    assert not hub.asked


def test_single_vision_tokenizer_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoders beside it do not count as vision tokenizers, even with preprocessor files."""
    model = make_model_folder(tmp_path / "model")
    beside = make_vision_folder(tmp_path / "Emu3-VisionTokenizer")
    other = make_model_folder(tmp_path / "Emu3-Chat")
    (other / "preprocessor_config.json").write_text("{}")
    assert find_vision_tokenizer(model, None, model) == beside
    monkeypatch.chdir(model)
    assert find_vision_tokenizer(Path("."), None, ".").samefile(beside)


def test_two_vision_tokenizers_beside_raise(tmp_path: Path) -> None:
    model = make_model_folder(tmp_path / "model")
    make_vision_folder(tmp_path / "one")
    make_vision_folder(tmp_path / "two")
    with pytest.raises(InputError, match="found beside it: one, two"):
        find_vision_tokenizer(model, None, model)


def test_missing_vision_tokenizer_raises(tmp_path: Path) -> None:
    model = make_model_folder(tmp_path / "model")
    with pytest.raises(InputError, match=r"--vision.*found beside it: none"):
        find_vision_tokenizer(model, None, model)


def test_folder_with_both_networks(tmp_path: Path) -> None:
    both = make_model_folder(tmp_path / "Emu3-Gen-hf")
    (both / "config.json").write_text('{"model_type": "emu3"}')
    make_vision_folder(tmp_path / "beside")
    assert find_vision_tokenizer(both, None, both) == both
    assert find_vision_tokenizer(both, None, str(both), weights=False) == both


def test_hub_id_downloads_small_files_first(hub: FakeHub) -> None:
    folder = find_model(GEN)
    assert {path.name for path in folder.iterdir()} == DECODER.keys() - {"README.md"}
    assert [(folder / name).read_bytes() for name in SHARDS] == list(WEIGHTS.values())
    assert last_path_parts(hub.fetched(""))[-3:] == SHARDS
    assert not hub.fetched("README.md")


def test_second_call_only_checks_the_revision(hub: FakeHub) -> None:
    folder = find_model(GEN)
    hub.asked.clear()
    assert find_model(GEN) == folder
    assert [one.path for one in hub.asked] == [f"/api/models/{GEN}/revision/main"]


def test_offline_mode_uses_the_cache(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(GEN)
    vision = find_vision_tokenizer(folder, None, GEN)
    hub.asked.clear()
    go_offline(monkeypatch)
    assert find_model(GEN) == folder
    assert find_vision_tokenizer(folder, None, GEN) == vision
    assert not hub.asked


def test_unreachable_hub_uses_the_cache(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(GEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # no server listens there
    assert find_model(GEN) == folder


def test_weights_false_downloads_no_weights(hub: FakeHub) -> None:
    folder = with_small_files_only(find_model(GEN, weights=False))
    with_small_files_only(find_vision_tokenizer(folder, None, GEN, weights=False))
    assert not hub.fetched(".safetensors")
    assert find_model(GEN) == folder
    assert len(hub.fetched(".safetensors")) == len(SHARDS)


def test_new_commit_is_downloaded(hub: FakeHub) -> None:
    old = find_model(GEN)
    hub.add(GEN, {**DECODER, SHARDS[0]: b"better"})
    hub.asked.clear()
    new = find_model(GEN)
    assert new != old
    assert (new / SHARDS[0]).read_bytes() == b"better"
    assert last_path_parts(hub.fetched(".safetensors")) == SHARDS[:1]


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", "commit"])
def test_revision(revision: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    config = as_json({"model_type": "Emu3", "made": "before"})
    commit = hub.add(GEN, {**DECODER, "config.json": config}, "v1", "refs/pr/1")
    name = f"{GEN}@{commit if revision == 'commit' else revision}"
    folder = find_model(name)
    assert folder.name == commit
    assert (folder / "config.json").read_bytes() == config
    assert find_model(GEN) != folder
    go_offline(monkeypatch)
    assert find_model(name) == folder


def test_vision_tokenizer_at_a_revision(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.add(BAAI_VISION_TOKENIZER, VISION, "v1")
    model = make_model_folder(tmp_path / "model")
    assert find_vision_tokenizer(model, f"{BAAI_VISION_TOKENIZER}@v1", model).name == commit


def test_hub_model_uses_the_hub_vision_tokenizer(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(GEN, DECODER, "v1")
    make_vision_folder(tmp_path / "beside")
    folder = find_vision_tokenizer(make_model_folder(tmp_path / "model"), None, f"{GEN}@v1")
    assert {path.name for path in folder.iterdir()} == VISION.keys()


def test_repository_with_both_networks_is_downloaded_once(hub: FakeHub) -> None:
    hub.add("BAAI/Emu3-Gen-hf", TOGETHER)
    folder = with_small_files_only(find_model("BAAI/Emu3-Gen-hf", weights=False))
    assert find_vision_tokenizer(folder, None, "BAAI/Emu3-Gen-hf") == folder
    assert {path.name for path in folder.iterdir()} == TOGETHER.keys()
    assert find_model("BAAI/Emu3-Gen-hf") == folder
    assert len(hub.fetched(".safetensors")) == 1
    assert not [one for one in hub.asked if BAAI_VISION_TOKENIZER in one.path]


def test_other_models_are_refused_before_their_weights(hub: FakeHub) -> None:
    hub.add("meta/llama", {"config.json": as_json({"model_type": "llama"}), **WEIGHTS})
    hub.add("some/notes", {"README.md": b"notes", "notes.json": b"[]"})
    hub.add("some/list", {"config.json": b"[]"})
    assert "is not an Emu3 model: its config.json has model_type 'llama'" in refused("meta/llama")
    assert "no config.json" in refused("some/notes")
    with pytest.raises(InputError, match="expected a JSON object"):
        find_model("some/list")
    assert "is only a vision tokenizer" in refused(BAAI_VISION_TOKENIZER)
    with pytest.raises(InputError, match="is a decoder, not a vision tokenizer"):
        find_vision_tokenizer(Path("model"), GEN, "model")
    assert not hub.fetched(".safetensors")


def test_repository_without_safetensors(hub: FakeHub) -> None:
    hub.add("some/emu3", {"config.json": DECODER["config.json"], "pytorch_model.bin": b"pickle"})
    assert "has no model.safetensors" in refused("some/emu3")


def test_gated_repository(hub: FakeHub) -> None:
    hub.repos[GEN].gated = True
    assert f"accept its licence on {hub.url}/{GEN}, then run: hf auth login" in refused(GEN)


@pytest.mark.usefixtures("hub")
def test_unknown_repository_and_revision() -> None:
    assert "no such model: 'BAAI/Emu4'" in refused("BAAI/Emu4")
    assert "has no revision 'v9'" in refused(f"{GEN}@v9")
    assert "nor a valid hub id" in refused("x/..")
    assert "nor a valid hub id" in refused("a--b/c")


def test_offline_without_cached_copy(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "127.0.0.1:9 cannot be reached" in refused(GEN)
    go_offline(monkeypatch)
    assert "HF_HUB_OFFLINE is set; run the command once online" in refused(GEN)
    assert "at revision 'v1'" in refused(f"{GEN}@v1")
    with pytest.raises(InputError, match="no such model"):
        emu3.Emu3.from_pretrained(GEN)
    assert not hub.asked


def test_offline_with_partial_copy(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(GEN)
    for name in SHARDS[1:]:
        (folder / name).unlink()
    go_offline(monkeypatch)
    message = refused(GEN)
    assert f"{SHARDS[1]}, {SHARDS[2]} missing" in message
    assert "HF_HUB_OFFLINE is set; run the command online to resume the download" in message
