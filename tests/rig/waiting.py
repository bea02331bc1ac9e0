"""Waiting in tests for what another thread, process or machine does: asked again and again, with patience.

Between two questions a moment passes by the test's own clock, so that a virtual one goes no further than to the next.
The patience is by the machine's clock, whatever the test goes by.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from badger_k2eg.core import clock

PATIENCE = 30.0
"""Seconds until a test gives up. No measure of anything: what takes so long on a busy machine does not come at all."""

_STEP = 0.005
_TRUE = object()


def eventually(
    ask: Callable[[], Any],
    wanted: Any = _TRUE,
    seconds: float = PATIENCE,
    *,
    good: Callable[[Any], Any] | None = None,
    what: str = "",
) -> Any:
    """Ask until the answer is the wanted one, is `good`, or, with neither given, is true; give that answer.

    `what` says in the message of a failure what was waited for.
    """
    end = time.monotonic() + seconds
    while not _fits(answer := ask(), wanted, good):
        if time.monotonic() > end:
            other = "" if wanted is _TRUE else f", not {wanted!r}"
            raise AssertionError(f"{what + ': ' if what else ''}still {answer!r}{other}, after {seconds} s")
        clock.sleep(_STEP)
    return answer


def _fits(answer: Any, wanted: Any, good: Callable[[Any], Any] | None) -> bool:
    if good is not None:
        return bool(good(answer))
    return bool(answer) if wanted is _TRUE else bool(answer == wanted)
