"""However often it is stopped and whoever does it, the same request makes the same files."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from emu3.data.dataset import TokenDataset
from emu3.data.discovery import find_sources
from emu3.data.prepare import PrepareResult, prepare
from emu3.data.tokenization import SampleTokenizer
from emu3.data.workers import TokenizerConfig
from emu3.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run(
    samples: Path, folder: Path, model: TokenizerConfig, workers: int = 1, per_slice: int = 8
) -> PrepareResult:
    return prepare(find_sources([samples], per_slice=per_slice), folder, model, workers)


@pytest.fixture(scope="module")
def whole(samples: Path, model: TokenizerConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nothing stopped; not to be written to."""
    folder = tmp_path_factory.mktemp("stores") / "whole"
    assert run(samples, folder, model).samples == 36
    return folder


def test_documents_are_those_of_the_samples_in_their_order(
    samples: Path, whole: Path, writer: SampleTokenizer
) -> None:
    store = TokenDataset.open(whole, writer.prompts.tokenizer)
    (source,) = find_sources([samples], per_slice=10**6)
    number = 0
    for found in source.samples(0):
        try:
            document = writer.tokenize(found.read())
        except InputError:
            continue
        assert store[number].ids.tolist() == document.ids.tolist()
        assert store[number].roles.tolist() == document.roles.tolist()
        number += 1
    assert number == len(store) == 36
    assert sum(store.id_counts.values()) == int(store.lengths.sum())


def test_bad_samples_are_told_and_counted(samples: Path, whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "skipped.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [f"line {4 * n}" for n in range(1, 13)]
    assert {line["source"] for line in lines} == {samples.as_posix()}
    assert "lost.png: no such file" in lines[0]["reason"]
    assert "unknown key 'caption'" in lines[1]["reason"]
    assert json.loads((whole / "index.json").read_text())["skipped"] == 12


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(
    samples: Path, whole: Path, model: TokenizerConfig, tmp_path: Path
) -> None:
    run(samples, tmp_path / "store", model, workers=2)
    assert files(tmp_path / "store") == files(whole)


def test_every_slice_is_told_once(samples: Path, model: TokenizerConfig, tmp_path: Path) -> None:
    sources, told = find_sources([samples], per_slice=8), list[int]()
    count = sum(source.num_slices for source in sources)
    prepare(sources, tmp_path / "store", model, on_slices=told.append)
    assert told == [0] + [1] * count
    next((tmp_path / "store").glob("0*.safetensors")).unlink()
    told.clear()
    prepare(sources, tmp_path / "store", model, on_slices=told.append)
    assert told == [count - 1, 1]


def test_killed_and_run_again_is_never_killed(
    samples: Path, whole: Path, model: TokenizerConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    command = [sys.executable, "-m", "emu3", "prepare", str(samples), "-o", str(folder), "-q"]
    options = ["--model", model.name, "--device", "cpu", "--slice", "8", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *options], env=environment)
    while not list(folder.glob("0*.safetensors")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("0*.safetensors")}
    assert 1 <= len(kept) < 6
    with pytest.raises(InputError, match="not finished"):
        TokenDataset.open(folder)
    (folder / ".00000-000003.1.part.safetensors").write_bytes(b"half")  # of a kill while writing
    run(samples, folder, model)
    assert files(folder) == files(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(
    samples: Path, model: TokenizerConfig, tmp_path: Path
) -> None:
    code = (
        "import multiprocessing, os, threading\n"
        "from emu3.data.workers import _exit_with_parent\n"
        "def child():\n"
        "    threading.Thread(target=_exit_with_parent, daemon=True).start()\n"
        "    print(os.getpid(), flush=True)\n"
        "    threading.Event().wait()\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=child)\n"
        "    process.start()\n"
        "    process.join()\n"
    )
    (tmp_path / "parent.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        assert parent.stdout.read() == b""  # closed only when the child has ended, too
    assert child != parent.pid


def test_a_finished_store_is_left_as_it_is(
    samples: Path, whole: Path, model: TokenizerConfig
) -> None:
    before = files(whole)
    counts = run(samples, whole, model)
    assert files(whole) == before
    assert counts.samples == 36
    assert counts.skipped == 12


def test_another_request_is_refused_with_what_differs(
    samples: Path, whole: Path, model: TokenizerConfig, tmp_path: Path
) -> None:
    before = files(whole)
    with pytest.raises(InputError, match="sources 1 per_slice: it has 8, now 9"):
        run(samples, whole, model, per_slice=9)
    with pytest.raises(InputError, match="model codebook: it has"):
        run(samples, whole, TokenizerConfig("nano", device="cpu"))
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match="sources: it has 1, now 2"):
        prepare(find_sources([samples, more], per_slice=8), whole, model)
    assert files(whole) == before


def test_a_folder_of_something_else_is_refused(
    samples: Path, model: TokenizerConfig, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        run(samples, tmp_path, model)
    with pytest.raises(InputError, match="is a file"):
        run(samples, tmp_path / "mine.txt", model)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_shard_that_is_broken_is_made_again(
    samples: Path, whole: Path, model: TokenizerConfig, tmp_path: Path
) -> None:
    run(samples, tmp_path / "store", model)
    path = tmp_path / "store" / "00000-000002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    run(samples, tmp_path / "store", model)
    assert files(tmp_path / "store") == files(whole)


def test_a_tar_cut_short_gives_what_it_has(model: TokenizerConfig, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            member = tarfile.TarInfo(f"{number}.txt")
            member.size = 2000
            tar.addfile(member, io.BytesIO(b"word " * 400))
    path.write_bytes(path.read_bytes()[: 2 * 2560 + 1000])
    counts = prepare(find_sources([path]), tmp_path / "store", model)
    assert (counts.samples, counts.skipped) == (1, 1)
    (line,) = (tmp_path / "store" / "skipped.jsonl").read_text().splitlines()
    assert "cut short" in json.loads(line)["reason"]
