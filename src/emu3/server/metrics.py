"""Prometheus metrics: HTTP requests, engine requests by kind and outcome, the engine's state."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from emu3.inference.async_engine import AsyncEngine
from emu3.inference.events import (
    ChatResult,
    Event,
    FinalEvent,
    ImageResult,
    PartialImage,
    PartialText,
    RequestCancelled,
    RequestFailed,
    RequestStarted,
    TokenizeResult,
    VideoFrames,
    VideoResult,
)
from emu3.inference.requests import (
    ChatRequest,
    ImageRequest,
    Request,
    TokenizeRequest,
    VideoRequest,
)

KINDS: dict[type[Request], str] = {
    ImageRequest: "image",
    VideoRequest: "video",
    ChatRequest: "chat",
    TokenizeRequest: "tokenize",
}
RESULTS = ImageResult | VideoResult | ChatResult | TokenizeResult
OUTPUTS = PartialImage | PartialText | VideoFrames | RESULTS
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, engine: AsyncEngine) -> None:
        disable_created_metrics()  # a time stamp per counter, which doubles the number of series
        self.registry = CollectorRegistry()
        self.http_requests = Counter(
            "emu3_http_requests",
            "HTTP requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.http_seconds = Histogram(
            "emu3_http_request_seconds",
            "Seconds from an HTTP request to the end of its response.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.requests = Counter(
            "emu3_requests",
            "Engine requests by kind and outcome: completed, failed, cancelled, or rejected "
            "because the queue was full.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.latency = self._request_histogram(
            "emu3_request_latency_seconds", "Seconds from submission to the result."
        )
        self.first_output = self._request_histogram(
            "emu3_time_to_first_output_seconds",
            "Seconds from submission to the first partial image, text or frames.",
        )
        self.queue = self._request_histogram(
            "emu3_queue_time_seconds",
            "Seconds from submission until the request leaves the queue.",
        )
        self.registry.register(EngineCollector(engine))

    def _request_histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(name, help_text, ["kind"], buckets=SECONDS, registry=self.registry)

    def submitted(self, request: Request) -> RequestMetrics:
        """Start the clock of an engine request."""
        return RequestMetrics(self, KINDS[type(request)])

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RequestMetrics:
    """Measures one engine request: `on_event` is called with each of its events."""

    def __init__(self, metrics: Metrics, kind: str) -> None:
        self._metrics, self._kind, self._start = metrics, kind, time.monotonic()
        self._silent = True

    def on_event(self, event: Event) -> None:
        """Observe an event of the request."""
        seconds = time.monotonic() - self._start
        if isinstance(event, RequestStarted):
            self._metrics.queue.labels(self._kind).observe(event.time - self._start)
        if self._silent and isinstance(event, OUTPUTS):
            self._silent = False
            self._metrics.first_output.labels(self._kind).observe(seconds)
        if isinstance(event, FinalEvent):
            self._metrics.latency.labels(self._kind).observe(seconds)
            self._count(_outcome(event))

    def rejected(self) -> None:
        """Count a request that found the queue full."""
        self._count("rejected")

    def _count(self, outcome: str) -> None:
        self._metrics.requests.labels(self._kind, outcome).inc()


class EngineCollector(Collector):
    """Reads the engine's statistics whenever metrics are collected."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def describe(self) -> list[Metric]:
        """Return nothing: the names need no check when the collector is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the engine's gauges and counters."""
        stats = self._engine.stats()
        yield GaugeMetricFamily(
            "emu3_waiting_requests", "Requests in the queue.", value=stats.waiting
        )
        running = GaugeMetricFamily(
            "emu3_running_requests", "Requests that the engine works on.", labels=["kind"]
        )
        running.add_metric(["image"], stats.running_images)
        running.add_metric(["video"], stats.running_videos)
        running.add_metric(["chat"], stats.running_chats)
        yield running
        yield GaugeMetricFamily(
            "emu3_kv_cache_tokens", "KV-cache tokens reserved.", value=stats.kv_cache_tokens
        )
        yield GaugeMetricFamily(
            "emu3_max_kv_cache_tokens",
            "KV-cache tokens available.",
            value=stats.max_kv_cache_tokens,
        )
        yield CounterMetricFamily("emu3_engine_steps", "Steps of the engine.", value=stats.steps)
        yield CounterMetricFamily(
            "emu3_generated_codes", "Visual codes generated.", value=stats.generated_codes
        )
        yield CounterMetricFamily(
            "emu3_generated_tokens", "Text tokens generated.", value=stats.generated_tokens
        )


def _outcome(event: FinalEvent) -> str:
    if isinstance(event, RequestFailed):
        return "failed"
    return "cancelled" if isinstance(event, RequestCancelled) else "completed"
