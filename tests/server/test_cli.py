"""`emu3 serve` as a process: it says where it is, drains on SIGTERM, and names what is missing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib import request

import pytest
from typer.testing import CliRunner

from emu3.cli.app import build
from emu3.cli.serve import served_name
from emu3.testing import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint().save(folder)
    return folder


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def get(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    asked = request.Request(url, data, {"Content-Type": "application/json"})
    with request.urlopen(asked, timeout=30) as answer:
        return dict(json.loads(answer.read()))


@contextmanager
def process(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    port = free_port()
    command = [sys.executable, "-m", "emu3", "serve", "--port", str(port), *map(str, options)]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as started:
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                try:
                    get(f"{url}/ready")
                    break
                except OSError:
                    assert started.poll() is None
                    time.sleep(0.05)
            yield url, started
        finally:
            if started.poll() is None:
                started.kill()


@pytest.mark.slow
def test_sigterm_lets_those_at_work_finish(tiny: Path) -> None:
    pytest.importorskip("uvicorn")
    got: dict[str, Any] = {}
    with process("--model", tiny) as (url, started):
        body = {"prompt": "x", "size": "56x56", "n": 4}
        asking = threading.Thread(
            target=lambda: got.update(get(f"{url}/v1/images/generations", body))
        )
        asking.start()
        while "emu3_engine_running_images 4" not in metrics(url):
            time.sleep(0.002)
        started.send_signal(signal.SIGTERM)
        asking.join()
        assert started.wait(60) == 0
        assert started.stderr is not None
        said = started.stderr.read()
    assert len(got["data"]) == 4
    assert f"serving tiny on {url}" in said
    assert "Traceback" not in said
    assert '"route": "/v1/images/generations"' in said


def metrics(url: str) -> str:
    with request.urlopen(f"{url}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def test_a_missing_package_is_named_before_a_model_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = CliRunner().invoke(build(), ["serve", "--model", "/nowhere"])
    assert done.exit_code == 2
    assert 'emu3[serve]"' in done.output


def test_bad_options_are_refused() -> None:
    for options in (["--port", "0"], ["--queue", "0"], ["--timeout", "-1"]):
        assert CliRunner().invoke(build(), ["serve", *options]).exit_code == 2


def test_help_shows_examples_without_pytorch() -> None:
    asks = "from emu3.cli.app import build; build()(['serve', '--help'], standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {asks}; sys.exit('torch' in sys.modules)"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Examples" in done.stdout


def test_clients_do_not_learn_of_folders(tmp_path: Path) -> None:
    assert served_name(str(tmp_path)) == tmp_path.name
    assert served_name("BAAI/Emu3-Gen") == "BAAI/Emu3-Gen"
