"""From a name to a folder: which rules apply, and one line when none does."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

import emu3
from emu3.errors import InputError
from emu3.hub import BAAI_VISION, WANTED, find_model, find_vision


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was asked of the hub, which answers with a folder of that name."""
    asked: list[str] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        assert allow_patterns == WANTED
        asked.append(name)
        return str(tmp_path / "hub" / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    # The library reads both when it is imported, which has happened long ago.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))


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


def test_a_folder_is_itself(tmp_path: Path, fetched: list[str]) -> None:
    assert find_model(tmp_path) == tmp_path
    assert find_model(str(tmp_path)) == tmp_path
    assert not fetched


def test_a_folder_comes_before_a_hub_id(
    tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BAAI" / "Emu3-Gen").mkdir(parents=True)
    assert find_model("BAAI/Emu3-Gen") == Path("BAAI/Emu3-Gen")
    assert not fetched


def test_a_hub_id_is_fetched(tmp_path: Path, fetched: list[str]) -> None:
    assert find_model("BAAI/Emu3-Gen") == tmp_path / "hub/BAAI/Emu3-Gen"
    assert fetched == ["BAAI/Emu3-Gen"]


NO_MODELS = ["nanoo", "/no/such/folder", "a/b/c", "../x/y", "a b/c", "https://host/name"]


@pytest.mark.parametrize("name", [*NO_MODELS, Path("some/path")])
def test_anything_else_is_refused_unasked(
    name: str | Path, fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such model") as raised:
        find_model(name)
    assert "hub id" in str(raised.value)
    assert not fetched


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["BAAI/Emu3-Gen", "x/..", "a--b/c"])
def test_without_a_network_a_hub_id_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match="no such model") as raised:
        find_model(name)
    message = str(raised.value)
    assert name in message
    assert "\n" not in message


def test_the_named_vision_tokenizer_comes_first(tmp_path: Path) -> None:
    model = model_at(tmp_path / "model")
    vision_at(model / "vision_tokenizer")
    vision_at(tmp_path / "beside")
    named = vision_at(tmp_path / "elsewhere" / "vision")
    assert find_vision(model, named, model) == named
    assert find_vision(model, str(named), str(model)) == named


def test_then_the_one_inside(tmp_path: Path, fetched: list[str]) -> None:
    model = model_at(tmp_path / "model")
    inside = vision_at(model / "vision_tokenizer")
    vision_at(tmp_path / "beside")
    assert find_vision(model, None, model) == inside
    assert find_vision(model, None, "BAAI/Emu3-Gen") == inside
    assert not fetched


def test_then_the_only_one_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other decoders beside, even with preprocessor files, are no vision tokenizers."""
    model = model_at(tmp_path / "model")
    beside = vision_at(tmp_path / "Emu3-VisionTokenizer")
    other = model_at(tmp_path / "Emu3-Chat")
    (other / "preprocessor_config.json").write_text("{}")
    assert find_vision(model, None, model) == beside
    monkeypatch.chdir(model)
    assert find_vision(Path("."), None, ".").samefile(beside)


def test_two_beside_must_be_told_apart(tmp_path: Path) -> None:
    model = model_at(tmp_path / "model")
    vision_at(tmp_path / "one")
    vision_at(tmp_path / "two")
    with pytest.raises(InputError, match="found beside it: one, two"):
        find_vision(model, None, model)


def test_none_beside_must_be_named(tmp_path: Path) -> None:
    model = model_at(tmp_path / "model")
    with pytest.raises(InputError, match=r"--vision.*found beside it: none"):
        find_vision(model, None, model)


def test_a_model_of_the_hub_goes_with_that_of_the_hub(tmp_path: Path, fetched: list[str]) -> None:
    model = model_at(tmp_path / "hub" / "model")
    vision_at(tmp_path / "hub" / "beside")
    assert find_vision(model, None, "BAAI/Emu3-Gen") == tmp_path / "hub" / BAAI_VISION
    assert fetched == [BAAI_VISION]


@pytest.mark.usefixtures("offline")
def test_a_whole_model_that_is_not_there_is_one_line() -> None:
    with pytest.raises(InputError, match="no such model") as raised:
        emu3.Emu3.from_pretrained("BAAI/Emu3-Gen")
    assert "\n" not in str(raised.value)
