"""The server under overload: `python -m benchmarks.soak --minutes 10`.

A server process on the loopback interface with nano. First its capacity is measured with as many
clients as it has slots. Then requests arrive at twice that rate in an open loop: a request is sent
at its time whether or not others were answered. The clients are of several kinds:

* images, whole and as streams with partial ones; questions with an image, streamed and whole;
* videos of one second: fetched and deleted, cancelled, or never fetched;
* clients that disconnect, and slow ones that read a few bytes per second;
* bodies that are no JSON, incomplete bodies, unknown fields, invalid images.

At the end these conditions are checked: every accepted request was answered or its client had
disconnected, every rejected one has an error message, there is no response 5xx, the engine holds no
request and no video waits, and the server's memory did not grow. Exits with 1 if one does not hold.
`--json FILE` writes the figures. Needs the extras `serve` and `video`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.clients import KINDS, TIMEOUT, Outcome, read_metrics, unfinished
from benchmarks.serve import load, server
from emu3.bench.machine import describe_machine

SLOTS, QUEUE = 16, 16
MOST_CLIENTS = 400  # at a time; a request for which there is none is not sent, and counted
FLAT = 0.05  # by how much memory may grow after the first quarter
WARM = 0.25  # of the time, which does not count for memory
GAUGES = (
    "emu3_waiting_requests",
    *(f'emu3_running_requests{{kind="{kind}"}}' for kind in ("image", "video", "chat")),
)  # 0 when the engine is idle


@dataclass
class Counts:
    """The outcomes of all requests."""

    outcomes: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    unsent: int = 0
    broken: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, act: Callable[[], tuple[Outcome, str]]) -> None:
        """Run one client and record its outcome."""
        try:
            outcome, reason = act()
        except Exception as error:  # any error is a broken client
            outcome, reason = "broken", f"{type(error).__name__}: {error}"
        with self.lock:
            self.outcomes[kind, outcome] += 1
            if outcome == "broken" and len(self.broken) < 20:
                self.broken.append(f"{kind}: {reason[:200]}")

    def of(self, outcome: Outcome) -> int:
        """The number of requests with an outcome."""
        return sum(n for (_, each), n in self.outcomes.items() if each == outcome)


@dataclass
class Memory:
    """The resident memory of the server in MiB by seconds since the start."""

    process: int
    samples: list[tuple[float, float]] = field(default_factory=list)

    def sample(self, at: float) -> None:
        """Record the current value."""
        for line in Path(f"/proc/{self.process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                self.samples.append((at, int(line.split()[1]) / 1024))

    def growth(self, whole: float) -> float:
        """The maximum of the last quarter relative to that of the second quarter, minus one."""
        quarters = [
            [mib for at, mib in self.samples if low * whole <= at < high * whole]
            for low, high in ((WARM, 0.5), (0.75, 1.01))
        ]
        before, after = (max(quarter, default=0.0) for quarter in quarters)
        return after / before - 1 if before else 0.0


def drive(port: int, rate: float, seconds: float, memory: Memory) -> Counts:
    """Send requests at random times, `rate` per second on average, and wait for all."""
    chance, counts, clients = random.Random(0), Counts(), list[threading.Thread]()
    names, weights = list(KINDS), [kind.weight for kind in KINDS.values()]
    start, due, sampled_at = time.monotonic(), 0.0, -1.0
    while due < seconds:
        due += chance.expovariate(rate)
        while (now := time.monotonic() - start) < due:
            if now - sampled_at >= 1:
                memory.sample(now)
                sampled_at = now
            time.sleep(min(0.2, due - now))
        clients = [client for client in clients if client.is_alive()]
        if len(clients) >= MOST_CLIENTS:
            counts.unsent += 1
            continue
        (name,) = chance.choices(names, weights)
        act = partial(KINDS[name].act, port, chance.randrange(2**31))
        client = threading.Thread(target=counts.count, args=(name, act), daemon=True)
        client.start()
        clients.append(client)
    for client in clients:
        client.join(timeout=TIMEOUT)
    with counts.lock:
        if stuck := sum(client.is_alive() for client in clients):
            counts.broken.append(f"{stuck} clients got no response")
    return counts


def capacity(port: int) -> float:
    """Images per second with as many clients as slots."""
    return float(load(port, SLOTS, 3 * SLOTS)["images_per_minute"]) / 60


def wait_until_idle(port: int) -> tuple[dict[str, float], int]:
    """Metrics and unfinished videos once the server is idle, or after a minute."""
    for _ in range(120):
        samples, videos = read_metrics(port), unfinished(port)
        if not videos and not any(samples[name] for name in GAUGES):
            break
        time.sleep(0.5)
    return samples, videos


def conditions(
    counts: Counts,
    before: dict[str, float],
    after: dict[str, float],
    videos: int,
    growth: float,
) -> dict[str, bool]:
    """Each condition and whether it holds; `videos` are unfinished at the end."""
    new = {name: value - before.get(name, 0.0) for name, value in after.items()}

    def outcomes(outcome: str) -> float:
        """Engine requests by outcome."""
        return sum(
            n
            for name, n in new.items()
            if name.startswith("emu3_requests_total{") and f'outcome="{outcome}"' in name
        )

    def statuses(first: str) -> float:
        """HTTP responses whose status starts with this digit."""
        return sum(n for name, n in new.items() if "_http_requests_total" in name and first in name)

    done = outcomes("completed")
    answered, gone = counts.of("answered"), counts.of("gone")
    return {
        "every client got the expected response": not counts.of("broken") and not counts.broken,
        "no status of 5xx": statuses('status="5') == 0 and outcomes("failed") == 0,
        "every accepted request was completed or its client disconnected": (
            answered <= done and done + outcomes("cancelled") <= answered + gone
        ),
        "the load exceeded the capacity": outcomes("rejected") > 0,
        "every rejected request has a message": counts.of("refused") <= statuses('status="429'),
        "the engine is empty at the end": not any(
            after[name] for name in (*GAUGES, "emu3_kv_cache_tokens")
        ),
        "every video that was not cancelled is completed": videos == 0,
        f"memory flat within {FLAT:.0%}": growth <= FLAT,
    }


def soak(minutes: float, folder: Path) -> dict[str, Any]:
    """One run in an empty folder; returns its figures."""
    jobs = folder / "jobs"
    bounds = ("--slots", str(SLOTS), "--queue", str(QUEUE), "--jobs", str(jobs))
    command = ("emu3", "serve", "--quiet", *bounds, "--port")
    with server(*command) as running:
        per_second = capacity(running.port)
        uses_engine = sum(kind.weight for kind in KINDS.values() if kind.uses_engine)
        rate = 2 * per_second * sum(kind.weight for kind in KINDS.values()) / uses_engine
        memory, before = Memory(running.process), read_metrics(running.port)
        counts = drive(running.port, rate, 60 * minutes, memory)
        after, videos = wait_until_idle(running.port)
        growth = memory.growth(60 * minutes)
    return {
        "machine": describe_machine(torch.device("cpu")),
        "minutes": minutes,
        "capacity_images_per_second": per_second,
        "requests_per_second": rate,
        "outcomes": {f"{kind}: {how}": n for (kind, how), n in sorted(counts.outcomes.items())},
        "unsent": counts.unsent,
        "broken": counts.broken,
        "server": {name: after[name] - before.get(name, 0.0) for name in sorted(after)},
        "memory_mib": memory.samples,
        "memory_growth": growth,
        "conditions": conditions(counts, before, after, videos, growth),
    }


def main() -> None:
    plain = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(args.minutes, Path(folder))
    for name in ("capacity_images_per_second", "requests_per_second", "memory_growth"):
        print(f"{name}: {figures[name]:.3g}")
    for name, count in figures["outcomes"].items():
        print(f"{name}: {count}")
    print(f"unsent: {figures['unsent']}")
    for line in figures["broken"]:
        print(f"broken: {line}")
    for condition, holds in figures["conditions"].items():
        print(f"{'holds' if holds else 'BROKEN'}: {condition}")
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if not all(figures["conditions"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
