"""The side of a contestant: blocks of updates on request, one line of JSON each.

Only the standard library is used, because one contestant runs in an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP = 5


def peak_memory() -> float | None:
    """Largest resident memory of this process so far, in MB; ``None`` where it is not told."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1024


def resident_memory() -> float | None:
    """Resident memory of this process now, in MB; ``None`` where the system has no such file."""
    told = Path("/proc/self/statm")
    if not told.exists():
        return None
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def page_faults() -> int | None:
    """Pages that the system had to map in without reading a disk, so far."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def serve(update: Callable[[], Any], versions: dict[str, str]) -> None:
    """Run blocks of updates: a number comes in on a line, what the block cost goes out."""
    for _ in range(WARM_UP):
        update()
    print(json.dumps({"versions": versions}), flush=True)
    for line in sys.stdin:
        count = int(line)
        faults, wall, processor = page_faults(), time.perf_counter(), time.process_time()
        for _ in range(count):
            update()
        cost: dict[str, Any] = {
            "cpu": (time.process_time() - processor) / count,
            "wall": (time.perf_counter() - wall) / count,
            "peak_mb": peak_memory(),
        }
        now = page_faults()
        cost["faults"] = None if now is None or faults is None else (now - faults) / count
        print(json.dumps(cost), flush=True)
