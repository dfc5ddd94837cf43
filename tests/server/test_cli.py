"""`emu3 serve` as a process: its messages, its shutdown on SIGTERM, and its options."""

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
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def get(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with request.urlopen(request.Request(url, data, headers), timeout=30) as response:
        return dict(json.loads(response.read()))


@contextmanager
def server_process(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
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
def test_sigterm_finishes_running_requests(tiny: Path) -> None:
    pytest.importorskip("uvicorn")
    response: dict[str, Any] = {}
    with server_process("--model", tiny) as (url, started):
        body = {"prompt": "x", "size": "56x56", "n": 4}
        client = threading.Thread(
            target=lambda: response.update(get(f"{url}/v1/images/generations", body))
        )
        client.start()
        while 'emu3_running_requests{kind="image"} 4.0' not in metrics(url):
            time.sleep(0.002)
        started.send_signal(signal.SIGTERM)
        client.join()
        assert started.wait(60) == 0
        assert started.stderr is not None
        stderr = started.stderr.read()
    assert len(response["data"]) == 4
    assert f"serving tiny on {url}" in stderr
    assert "Traceback" not in stderr
    assert '"route": "/v1/images/generations"' in stderr


def metrics(url: str) -> str:
    with request.urlopen(f"{url}/metrics", timeout=30) as response:
        return str(response.read().decode())


def test_a_missing_package_is_named_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = CliRunner().invoke(build(), ["serve", "--model", "/nowhere"])
    assert done.exit_code == 2
    assert 'emu3[serve]"' in done.output


def test_invalid_options() -> None:
    for options in (["--port", "0"], ["--queue", "0"], ["--timeout", "-1"]):
        assert CliRunner().invoke(build(), ["serve", *options]).exit_code == 2


def test_the_former_name_of_remote_images_is_accepted() -> None:
    result = CliRunner().invoke(build(), ["serve", "--remote-pictures", "--port", "0"])
    assert "--port" in result.output
    assert "--remote-pictures" not in result.output


def test_help_does_not_import_pytorch() -> None:
    show_help = (
        "from emu3.cli.app import build; build()(['serve', '--help'], standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {show_help}; sys.exit('torch' in sys.modules)"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Examples" in done.stdout


def test_the_served_name_is_not_a_path(tmp_path: Path) -> None:
    assert served_name(str(tmp_path)) == tmp_path.name
    assert served_name("BAAI/Emu3-Gen") == "BAAI/Emu3-Gen"
