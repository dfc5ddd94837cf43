"""Memory that a training step frees and takes again: kept by the process, on a CPU under glibc.

glibc gives large blocks back to the system as soon as they are freed. A step frees and takes the
same gigabytes again and again, and each time the system has to clear every page of them. Measured
(`python -m benchmarks.train --case compiled`, two cores, huge pages for everybody): 97 ids a
second, and 77 before this was there, for 0.8 GB more at most. Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """For the rest of the process: never give memory back. False where the allocator has no such
    switch; nothing is changed then.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(name, value) == 1 for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    )
