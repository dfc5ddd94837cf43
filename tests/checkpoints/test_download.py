"""Interrupted downloads are resumed, and failures give one-line messages."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from emu3.checkpoints.hub import find_model
from emu3.errors import InputError
from tests.baai_hub import CHUNK, GEN, SHARDS, WEIGHTS
from tests.fake_hub import FakeHub, digest

ROOT = Path(__file__).resolve().parents[2]


def test_broken_connection_is_resumed(hub: FakeHub) -> None:
    hub.broken = 1
    folder = find_model(GEN)
    assert (folder / SHARDS[0]).read_bytes() == WEIGHTS[SHARDS[0]]
    assert [one.range for one in hub.fetched(SHARDS[0])] == [None, "bytes=2000000-"]


def partial_file(cache: Path) -> Path:
    """The partial file of an interrupted download of the first shard."""
    etag = digest(SHARDS[0], WEIGHTS[SHARDS[0]])
    return cache / f"models--{GEN.replace('/', '--')}" / "blobs" / f"{etag}.incomplete"


def test_resumed_file_with_wrong_hash_is_deleted(hub: FakeHub, tmp_path: Path) -> None:
    find_model(GEN, weights=False)
    part = partial_file(tmp_path / "cache")
    part.write_bytes(b"?" * 1000)
    with pytest.raises(
        InputError, match="failed its SHA-256 check and was deleted; run the command again"
    ):
        find_model(GEN)
    assert not part.exists()
    assert (find_model(GEN) / SHARDS[0]).read_bytes() == WEIGHTS[SHARDS[0]]


@pytest.mark.usefixtures("hub")
def test_full_disk_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(InputError, match="No space left on device; set HF_HOME"):
        find_model(GEN)


FIND = f"""
import sys
from emu3.checkpoints.hub import find_model
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}
print(find_model(sys.argv[1]))
"""
TIMEOUT = 300  # seconds; a process that imports PyTorch on a busy machine
BAR = re.compile(r"[1-9]\d?%.*\[\d\d:\d\d<\d\d:\d\d, .*B/s\]")  # done [spent<left, rate]


def start_process(hub: FakeHub, home: Path, stderr: int, **more: str) -> subprocess.Popen[str]:
    """Run find_model in a process of its own, configured by environment variables."""
    environment_overrides = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "PYTHONPATH": str(ROOT / "src"),
    }
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))
    }
    return subprocess.Popen(
        [sys.executable, "-c", FIND, GEN],
        env={
            **environment,
            "OMP_NUM_THREADS": "1",
            "TERM": "xterm",
            **environment_overrides,
            **more,
        },
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.timeout(3 * TIMEOUT)
def test_killed_download_is_resumed(hub: FakeHub, tmp_path: Path) -> None:
    """First on a terminal, with a progress bar; then into a pipe, without; then offline."""
    hub.stalls = True
    our_end, child_end = pty.openpty()
    termios.tcsetwinsize(child_end, (24, 100))
    first = start_process(hub, tmp_path, child_end)
    os.close(child_end)
    try:
        assert hub.stalled.wait(TIMEOUT)
        terminal_output = ""
        while not BAR.search(terminal_output):
            terminal_output += os.read(our_end, 4096).decode(errors="replace")
    finally:
        first.kill()
        first.communicate()
    os.close(our_end)
    hub.closing.set()
    hub.stalls = False
    hub.asked.clear()

    second = start_process(hub, tmp_path, subprocess.PIPE)
    output, errors = second.communicate(timeout=TIMEOUT)
    assert (second.returncode, errors) == (0, "")
    folder = Path(output.strip())
    assert [(folder / name).read_bytes() for name in SHARDS] == list(WEIGHTS.values())
    (resumed,) = hub.fetched(SHARDS[0])
    assert resumed.range is not None
    assert int(resumed.range.removeprefix("bytes=").removesuffix("-")) > 0
    assert not hub.fetched(".json")
    hub.asked.clear()

    third = start_process(hub, tmp_path, subprocess.PIPE, HF_HUB_OFFLINE="1")
    assert third.communicate(timeout=TIMEOUT) == (output, "")
    assert not hub.asked
