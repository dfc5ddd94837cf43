"""The server under load: `python -m benchmarks.serve`.

One run on one machine with nano: guided images of 8x8 codes, every request a stream with one
partial image, sent to a server process on the loopback interface:

* `emu3 serve` with 1, 4, 16 and 64 clients, each of which sends its next request when it has its
  image; one client is sequential requests;
* `wrapper`: a plain FastAPI application around transformers' Emu3 with the same weights, generating
  by the original recipe under a lock, 1 and 16 clients. It returns ids without decoding them to
  pixels, which is in its favour, and has no partial images.

Clients are threads of this process and share the machine with the server. `--json FILE` writes the
figures. Needs the extras `serve` and `reference`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from emu3.bench.machine import describe_machine
from recipes.nano.emoji_world import OBJECTS, STYLES, with_article

HOST = "127.0.0.1"
PATH = "/v1/images/generations"
CLIENTS = {1: 16, 4: 32, 16: 96, 64: 192}  # clients to requests of all together
WRAPPED = {1: 4, 16: 16}


@dataclass(frozen=True)
class Answered:
    """Seconds from a request to its first event and to its last."""

    first: float
    whole: float


def prompt(number: int) -> str:
    """A prompt of Emoji World by number."""
    thing, style = OBJECTS[37 * number % len(OBJECTS)], STYLES[number % len(STYLES)]
    return f"{with_article(thing)}, {style} style"


def ask(port: int, number: int) -> Answered:
    """One request, read to the last event."""
    body = {"prompt": prompt(number), "seed": number, "stream": True, "partial_images": 1}
    connection = http.client.HTTPConnection(HOST, port, timeout=600)
    start, first = time.perf_counter(), 0.0
    connection.request("POST", PATH, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"status {answer.status}: {answer.read()[:200]!r}")
    while line := answer.readline():
        if line.strip() and not first:
            first = time.perf_counter() - start
    connection.close()
    return Answered(first, time.perf_counter() - start)


def load(port: int, clients: int, requests: int) -> dict[str, Any]:
    """The latencies of several clients that share a number of requests."""
    numbers, answered, lock = iter(range(requests)), list[Answered](), threading.Lock()

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            mine = ask(port, number)
            with lock:
                answered.append(mine)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if len(answered) != requests:
        raise SystemExit(f"{requests - len(answered)} of {requests} requests were not answered")
    whole = [each.whole for each in answered]
    return {
        "clients": clients,
        "requests": requests,
        "images_per_minute": 60 * requests / seconds,
        "p50_s": median(whole),
        "p95_s": quantiles(whole, n=20, method="inclusive")[-1],
        "first_event_p50_s": median(each.first for each in answered),
    }


@dataclass(frozen=True)
class Running:
    """The port and process id of a server."""

    port: int
    process: int


@contextmanager
def server(*command: str) -> Iterator[Running]:
    """A server process on a free port, ready for requests; stopped at the end."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", *command, str(port)], stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                socket.create_connection((HOST, port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)}: did not start") from None
                time.sleep(0.2)
        ask(port, 0)  # what is made once is not measured
        yield Running(port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wrap(port: int) -> None:
    """Run the plain FastAPI wrapper until SIGTERM."""
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    from emu3.bench import transformers_baseline
    from emu3.bench.models import BenchmarkModel
    from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
    from emu3.inference.sampling import SamplingParams
    from emu3.models.precision import FP32

    checkpoint = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    defaults, prompts = checkpoint.defaults, checkpoint.prompts
    size = (8, 8)

    def subject(words: str) -> BenchmarkModel:
        rows = [prompts.image(words, size), prompts.image("", size)]
        return BenchmarkModel(checkpoint.decoder, prompts.document_format, rows, size)

    model, lock = transformers_baseline.convert_model(subject("")), threading.Lock()
    sampling = SamplingParams(defaults.top_k, 1.0, defaults.temperature)
    application = FastAPI()

    def draw(request: dict[str, Any]) -> PlainTextResponse:
        num_ids = 0

        def on_token() -> bool:
            nonlocal num_ids
            num_ids += 1
            return False

        with lock:
            torch.manual_seed(request["seed"])
            model_prompt = subject(request["prompt"])
            transformers_baseline.generate_unbatched(
                model, model_prompt, sampling, defaults.guidance_scale, on_token
            )
        return PlainTextResponse(f"{num_ids} ids\n")

    application.post(PATH)(draw)
    uvicorn.run(application, host=HOST, port=port, log_level="error")


def main() -> None:
    plain = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--wrap", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.wrap is not None:
        wrap(args.wrap)
        return
    figures: dict[str, Any] = {"machine": describe_machine(torch.device("cpu"))}
    cases = {
        "emu3 serve": (("emu3", "serve", "--slots", "64", "--port"), CLIENTS),
        "wrapper": (("benchmarks.serve", "--wrap"), WRAPPED),
    }
    for name, (command, clients) in cases.items():
        with server(*command) as running:
            figures[name] = [load(running.port, *case) for case in clients.items()]
        for line in figures[name]:
            values = ", ".join(f"{key} {value:.3g}" for key, value in line.items())
            print(f"{name}: {values}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
