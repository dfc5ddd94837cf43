"""From a name to a folder: which rules apply, what is asked of the hub, one line when it fails.

The hub is a server on this machine that speaks as the real one does: see `fake_hub.py`.
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


def names(requests: list[Asked]) -> list[str]:
    """The last words of what was asked for."""
    return [one.path.split("/")[-1] for one in requests]


def small(folder: Path) -> Path:
    """The folder, which must hold the small files and no weights."""
    assert (folder / "config.json").exists()
    assert not list(folder.glob("*.safetensors"))
    return folder


def vision_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


def model_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "generation_config.json").write_text("{}")
    return folder


def test_nano_is_inside_the_package() -> None:
    assert find_model("nano") == Path(emu3.__file__).parent / "nano"


def test_a_folder_is_itself(tmp_path: Path, hub: FakeHub) -> None:
    assert find_model(tmp_path) == tmp_path
    assert find_model(str(tmp_path)) == tmp_path
    assert not hub.asked


def test_a_folder_comes_before_a_hub_id(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BAAI" / "Emu3-Gen").mkdir(parents=True)
    assert find_model("BAAI/Emu3-Gen") == Path("BAAI/Emu3-Gen")
    assert not hub.asked


NO_MODELS = ["nanoo", "/no/such/folder", "a/b/c", "../x/y", "a b/c", "https://host/name"]
NO_REVISIONS = ["a/b@", "a/b@/etc", "a/b@../../c", "a/b@x/../y", "a/b@v 1", "nano@v1"]


@pytest.mark.parametrize("name", [*NO_MODELS, *NO_REVISIONS, Path("some/path")])
def test_anything_else_is_refused_unasked(
    name: str | Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such model") as raised:
        find_model(name)
    assert "hub id" in str(raised.value)
    assert not hub.asked


def test_the_named_vision_tokenizer_comes_first(tmp_path: Path) -> None:
    model = model_at(tmp_path / "model")
    vision_at(model / "vision_tokenizer")
    vision_at(tmp_path / "beside")
    named = vision_at(tmp_path / "elsewhere" / "vision")
    assert find_vision_tokenizer(model, named, model) == named
    assert find_vision_tokenizer(model, str(named), str(model)) == named


def test_then_the_one_inside(tmp_path: Path, hub: FakeHub) -> None:
    model = model_at(tmp_path / "model")
    inside = vision_at(model / "vision_tokenizer")
    vision_at(tmp_path / "beside")
    assert find_vision_tokenizer(model, None, model) == inside
    assert find_vision_tokenizer(model, None, "BAAI/Emu3-Gen") == inside
    assert not hub.asked


def test_then_the_only_one_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other decoders beside, even with preprocessor files, are no vision tokenizers."""
    model = model_at(tmp_path / "model")
    beside = vision_at(tmp_path / "Emu3-VisionTokenizer")
    other = model_at(tmp_path / "Emu3-Chat")
    (other / "preprocessor_config.json").write_text("{}")
    assert find_vision_tokenizer(model, None, model) == beside
    monkeypatch.chdir(model)
    assert find_vision_tokenizer(Path("."), None, ".").samefile(beside)


def test_two_beside_must_be_told_apart(tmp_path: Path) -> None:
    model = model_at(tmp_path / "model")
    vision_at(tmp_path / "one")
    vision_at(tmp_path / "two")
    with pytest.raises(InputError, match="found beside it: one, two"):
        find_vision_tokenizer(model, None, model)


def test_none_beside_must_be_named(tmp_path: Path) -> None:
    model = model_at(tmp_path / "model")
    with pytest.raises(InputError, match=r"--vision.*found beside it: none"):
        find_vision_tokenizer(model, None, model)


def test_a_folder_that_holds_both_needs_no_other(tmp_path: Path) -> None:
    both = model_at(tmp_path / "Emu3-Gen-hf")
    (both / "config.json").write_text('{"model_type": "emu3"}')
    vision_at(tmp_path / "beside")
    assert find_vision_tokenizer(both, None, both) == both
    assert find_vision_tokenizer(both, None, str(both), weights=False) == both


def test_a_hub_id_is_fetched_small_files_first(hub: FakeHub) -> None:
    folder = find_model(GEN)
    assert {path.name for path in folder.iterdir()} == DECODER.keys() - {"README.md"}
    assert [(folder / name).read_bytes() for name in SHARDS] == list(WEIGHTS.values())
    assert names(hub.fetched(""))[-3:] == SHARDS
    assert not hub.fetched("README.md")


def test_the_second_time_only_asks_whether_there_is_something_new(hub: FakeHub) -> None:
    folder = find_model(GEN)
    hub.asked.clear()
    assert find_model(GEN) == folder
    assert [one.path for one in hub.asked] == [f"/api/models/{GEN}/revision/main"]


def test_offline_the_cache_answers(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(GEN)
    vision = find_vision_tokenizer(folder, None, GEN)
    hub.asked.clear()
    go_offline(monkeypatch)
    assert find_model(GEN) == folder
    assert find_vision_tokenizer(folder, None, GEN) == vision
    assert not hub.asked


def test_without_a_network_the_cache_answers_too(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = find_model(GEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert find_model(GEN) == folder


def test_without_weights_none_are_fetched(hub: FakeHub) -> None:
    folder = small(find_model(GEN, weights=False))
    small(find_vision_tokenizer(folder, None, GEN, weights=False))
    assert not hub.fetched(".safetensors")
    assert find_model(GEN) == folder
    assert len(hub.fetched(".safetensors")) == len(SHARDS)


def test_a_new_commit_is_noticed(hub: FakeHub) -> None:
    old = find_model(GEN)
    hub.add(GEN, {**DECODER, SHARDS[0]: b"better"})
    hub.asked.clear()
    new = find_model(GEN)
    assert new != old
    assert (new / SHARDS[0]).read_bytes() == b"better"
    assert names(hub.fetched(".safetensors")) == SHARDS[:1]


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", "commit"])
def test_a_revision(revision: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    config = as_json({"model_type": "Emu3", "made": "before"})
    commit = hub.add(GEN, {**DECODER, "config.json": config}, "v1", "refs/pr/1")
    name = f"{GEN}@{commit if revision == 'commit' else revision}"
    folder = find_model(name)
    assert folder.name == commit
    assert (folder / "config.json").read_bytes() == config
    assert find_model(GEN) != folder
    go_offline(monkeypatch)
    assert find_model(name) == folder


def test_a_vision_tokenizer_at_a_revision(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.add(BAAI_VISION_TOKENIZER, VISION, "v1")
    model = model_at(tmp_path / "model")
    assert find_vision_tokenizer(model, f"{BAAI_VISION_TOKENIZER}@v1", model).name == commit


def test_a_model_of_the_hub_goes_with_that_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(GEN, DECODER, "v1")
    vision_at(tmp_path / "beside")
    folder = find_vision_tokenizer(model_at(tmp_path / "model"), None, f"{GEN}@v1")
    assert {path.name for path in folder.iterdir()} == VISION.keys()


def test_a_repository_that_holds_both_is_fetched_once(hub: FakeHub) -> None:
    hub.add("BAAI/Emu3-Gen-hf", TOGETHER)
    folder = small(find_model("BAAI/Emu3-Gen-hf", weights=False))
    assert find_vision_tokenizer(folder, None, "BAAI/Emu3-Gen-hf") == folder
    assert {path.name for path in folder.iterdir()} == TOGETHER.keys()
    assert find_model("BAAI/Emu3-Gen-hf") == folder
    assert len(hub.fetched(".safetensors")) == 1
    assert not [one for one in hub.asked if BAAI_VISION_TOKENIZER in one.path]


def test_what_is_no_emu3_is_refused_before_its_weights(hub: FakeHub) -> None:
    hub.add("meta/llama", {"config.json": as_json({"model_type": "llama"}), **WEIGHTS})
    hub.add("some/notes", {"README.md": b"notes", "notes.json": b"[]"})
    hub.add("some/list", {"config.json": b"[]"})
    assert "is no Emu3: its config.json describes a 'llama'" in refused("meta/llama")
    assert "no config.json" in refused("some/notes")
    with pytest.raises(InputError, match="expected a JSON object"):
        find_model("some/list")
    assert "is a vision tokenizer" in refused(BAAI_VISION_TOKENIZER)
    with pytest.raises(InputError, match="is a decoder and no vision tokenizer"):
        find_vision_tokenizer(Path("model"), GEN, "model")
    assert not hub.fetched(".safetensors")


def test_weights_in_another_format(hub: FakeHub) -> None:
    hub.add("some/emu3", {"config.json": DECODER["config.json"], "pytorch_model.bin": b"pickle"})
    assert "holds no model.safetensors" in refused("some/emu3")


def test_a_gated_repository(hub: FakeHub) -> None:
    hub.repos[GEN].gated = True
    assert f"accept its licence on {hub.url}/{GEN}, then run: hf auth login" in refused(GEN)


@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have() -> None:
    assert "no such model: 'BAAI/Emu4'" in refused("BAAI/Emu4")
    assert "has no revision 'v9'" in refused(f"{GEN}@v9")
    assert "no hub id" in refused("x/..")
    assert "no hub id" in refused("a--b/c")


def test_offline_without_a_copy(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "127.0.0.1:9 is not reached" in refused(GEN)
    go_offline(monkeypatch)
    assert "HF_HUB_OFFLINE is set; run it once online" in refused(GEN)
    assert "at revision 'v1'" in refused(f"{GEN}@v1")
    with pytest.raises(InputError, match="no such model"):
        emu3.Emu3.from_pretrained(GEN)
    assert not hub.asked


def test_offline_with_half_a_copy(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(GEN)
    for name in SHARDS[1:]:
        (folder / name).unlink()
    go_offline(monkeypatch)
    said = refused(GEN)
    assert f"{SHARDS[1]}, {SHARDS[2]} missing" in said
    assert "HF_HUB_OFFLINE is set; run it once online, and the download goes on" in said
