"""`prepare_dataset`: interruption, workers and invalid samples do not change its output."""

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
from emu3.data.prepare import PrepareResult, prepare_dataset
from emu3.data.tokenization import SampleTokenizer
from emu3.data.workers import TokenizerConfig
from emu3.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def file_contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run(
    samples: Path,
    folder: Path,
    tokenizer_config: TokenizerConfig,
    num_workers: int = 1,
    samples_per_slice: int = 8,
) -> PrepareResult:
    return prepare_dataset(
        find_sources([samples], samples_per_slice=samples_per_slice),
        folder,
        tokenizer_config,
        num_workers,
    )


@pytest.fixture(scope="module")
def complete(
    samples: Path, tokenizer_config: TokenizerConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The data set of an uninterrupted run; tests must not write to it."""
    folder = tmp_path_factory.mktemp("datasets") / "complete"
    assert run(samples, folder, tokenizer_config).samples == 36
    return folder


def test_documents_follow_the_order_of_samples(
    samples: Path, complete: Path, tokenizer: SampleTokenizer
) -> None:
    dataset = TokenDataset.open(complete, tokenizer.prompts.tokenizer)
    (source,) = find_sources([samples], samples_per_slice=10**6)
    number = 0
    for found in source.samples(0):
        try:
            document = tokenizer.tokenize(found.read())
        except InputError:
            continue
        assert dataset[number].ids.tolist() == document.ids.tolist()
        assert dataset[number].roles.tolist() == document.roles.tolist()
        number += 1
    assert number == len(dataset) == 36
    assert sum(dataset.id_counts.values()) == int(dataset.lengths.sum())


def test_invalid_samples_are_listed_and_counted(samples: Path, complete: Path) -> None:
    lines = [json.loads(line) for line in (complete / "skipped.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [f"line {4 * n}" for n in range(1, 13)]
    assert {line["source"] for line in lines} == {samples.as_posix()}
    assert "lost.png: no such file" in lines[0]["reason"]
    assert "unknown key 'caption'" in lines[1]["reason"]
    assert json.loads((complete / "index.json").read_text())["skipped"] == 12


@pytest.mark.slow
def test_number_of_workers_does_not_matter(
    samples: Path, complete: Path, tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    run(samples, tmp_path / "data", tokenizer_config, num_workers=2)
    assert file_contents(tmp_path / "data") == file_contents(complete)


def test_progress_reports_every_slice_once(
    samples: Path, tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    sources, reported = find_sources([samples], samples_per_slice=8), list[int]()
    count = sum(source.num_slices for source in sources)
    prepare_dataset(sources, tmp_path / "data", tokenizer_config, on_slices=reported.append)
    assert reported == [0] + [1] * count
    next((tmp_path / "data").glob("0*.safetensors")).unlink()
    reported.clear()
    prepare_dataset(sources, tmp_path / "data", tokenizer_config, on_slices=reported.append)
    assert reported == [count - 1, 1]


@pytest.mark.slow
def test_killed_run_is_resumed(
    samples: Path, complete: Path, tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    command = [sys.executable, "-m", "emu3", "prepare", str(samples), "-o", str(folder), "-q"]
    options = f"--model {tokenizer_config.name} --device cpu --slice 8 --workers 1".split()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *options], env=environment)
    while not list(folder.glob("0*.safetensors")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("0*.safetensors")}
    assert 1 <= len(kept) < 6
    with pytest.raises(InputError, match="not complete"):
        TokenDataset.open(folder)
    (folder / ".00000-000003.1.part.safetensors").write_bytes(
        b"half"
    )  # left by a kill while writing
    run(samples, folder, tokenizer_config)
    assert file_contents(folder) == file_contents(complete)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
def test_workers_exit_with_a_killed_parent(
    samples: Path, tokenizer_config: TokenizerConfig, tmp_path: Path
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
        assert parent.stdout.read() == b""  # closed only when the child has exited too
    assert child != parent.pid


def test_finished_dataset_is_unchanged(
    samples: Path, complete: Path, tokenizer_config: TokenizerConfig
) -> None:
    before = file_contents(complete)
    result = run(samples, complete, tokenizer_config)
    assert file_contents(complete) == before
    assert result.samples == 36
    assert result.skipped == 12


def test_another_request_raises_with_the_differences(
    samples: Path, complete: Path, tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    before = file_contents(complete)
    with pytest.raises(InputError, match="sources 1 per_slice: 8 before, 9 now"):
        run(samples, complete, tokenizer_config, samples_per_slice=9)
    with pytest.raises(InputError, match="model codebook: "):
        run(samples, complete, TokenizerConfig("nano", device="cpu"))
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match="sources: 1 before, 2 now"):
        prepare_dataset(
            find_sources([samples, more], samples_per_slice=8), complete, tokenizer_config
        )
    assert file_contents(complete) == before


def test_folder_with_other_files_raises(
    samples: Path, tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        run(samples, tmp_path, tokenizer_config)
    with pytest.raises(InputError, match="is a file"):
        run(samples, tmp_path / "mine.txt", tokenizer_config)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_corrupt_shard_is_written_again(
    samples: Path, complete: Path, tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    run(samples, tmp_path / "data", tokenizer_config)
    path = tmp_path / "data" / "00000-000002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    run(samples, tmp_path / "data", tokenizer_config)
    assert file_contents(tmp_path / "data") == file_contents(complete)


def test_truncated_tar_gives_its_intact_samples(
    tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            member = tarfile.TarInfo(f"{number}.txt")
            member.size = 2000
            tar.addfile(member, io.BytesIO(b"word " * 400))
    path.write_bytes(path.read_bytes()[: 2 * 2560 + 1000])
    result = prepare_dataset(find_sources([path]), tmp_path / "data", tokenizer_config)
    assert (result.samples, result.skipped) == (1, 1)
    (line,) = (tmp_path / "data" / "skipped.jsonl").read_text().splitlines()
    assert "truncated" in json.loads(line)["reason"]
