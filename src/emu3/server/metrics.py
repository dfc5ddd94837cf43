"""Numbers for Prometheus, in its text format (version 0.0.4)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from emu3.inference.events import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NOW = (
    "waiting",
    "running_images",
    "running_videos",
    "running_chats",
    "kv_cache_tokens",
    "max_kv_cache_tokens",
)
SINCE = (
    "steps",
    "generated_codes",
    "generated_tokens",
    "finished_images",
    "finished_videos",
    "finished_chats",
    "failed",
    "cancelled",
    "refused",
)


@dataclass
class Metrics:
    """Counts of HTTP requests, by route and status."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one request that was answered."""
        self.requests[route, status] += 1
        self.seconds[route] += seconds  # type: ignore[assignment]

    def text(self, stats: EngineStats) -> str:
        """Everything, the engine's numbers too."""
        lines = ["# TYPE emu3_http_requests_total counter"]
        for (route, status), count in sorted(self.requests.items()):
            labels = f'route="{route}",status="{status}"'
            lines.append(f"emu3_http_requests_total{{{labels}}} {count}")
        lines.append("# TYPE emu3_http_seconds_total counter")
        for route, seconds in sorted(self.seconds.items()):
            lines.append(f'emu3_http_seconds_total{{route="{route}"}} {seconds:.6f}')
        for names, kind, end in ((NOW, "gauge", ""), (SINCE, "counter", "_total")):
            for name in names:
                full = f"emu3_engine_{name}{end}"
                lines += [f"# TYPE {full} {kind}", f"{full} {getattr(stats, name)}"]
        return "\n".join(lines) + "\n"
