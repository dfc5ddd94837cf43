"""The machine: its memory bandwidth, measured, its description, and peak memory."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

BUFFER = 1 << 29  # bytes; far larger than any cache
TRIES = 5


def read_bandwidth(device: torch.device) -> float:
    """Bytes read per second: the best of several sums over a buffer of 512 MiB."""
    buffer = torch.zeros(BUFFER // 4, device=device)
    best = 0.0
    for _ in range(TRIES):
        start = time.perf_counter()
        buffer.sum().item()
        best = max(best, BUFFER / (time.perf_counter() - start))
    return best


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a measurement depends on: processor, cores, threads, versions and GPU."""
    description: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
    return description


def processor() -> str:
    """The name of the processor (on Linux) and the instruction set that PyTorch uses."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if "model name" in key), name)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process in bytes: resident, or allocated on the GPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
