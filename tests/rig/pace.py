"""How slow the machine is just now: upper limits of times in tests are multiples of it; load alone fails none."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

_SPIN = 0.01
"""Seconds of computing that are watched."""

_PRESSURE = Path("/proc/pressure/cpu")
_since = (0.0, 0.0)


def begin() -> None:
    """Begin with a test: what other processes do is counted from here on."""
    global _since
    _since = (time.monotonic(), _seconds_of_want())


def pace() -> float:
    """Say how many times longer things take than on an idle machine, in this test and right now: 1.0 is at rest.

    It is what a little computing takes now, by the clock and by its processor time; or how many processes there are to
    a processor, if some of them had to wait for one since the test began.
    """
    began, used = time.perf_counter(), time.thread_time()
    while (computed := time.thread_time() - used) < _SPIN:
        pass
    now = (time.perf_counter() - began) / computed
    at, want = _since
    waited = min(1.0, (_seconds_of_want() - want) / (time.monotonic() - at)) if _PRESSURE.exists() else 1.0
    return max(1.0, now, waited * os.getloadavg()[0] / (os.cpu_count() or 1))


def _seconds_of_want() -> float:
    """Say how long so far there was a process that wanted a processor and had none; Linux alone counts this."""
    try:
        return int(re.findall(r"some .*total=(\d+)", _PRESSURE.read_text())[0]) / 1e6
    except (OSError, IndexError):
        return 0.0
