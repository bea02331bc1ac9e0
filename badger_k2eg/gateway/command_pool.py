"""Threads for commands: those of one lane run in the order of their arrival, the others at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ..core import clock

# Puts and gets wait for PVs, each in a thread: up to so many dead PVs do not delay other commands.
_THREADS = 128
# Jobs that may wait for a thread; ``submit`` blocks beyond.
_MOST_WAITING = 2_000
# Seconds that a job waits for the one before it in its lane, from that one's start: a put that hangs does not delay the
# next, which may be its repetition.
_TURN = 0.3


class CommandPool:
    """A bounded pool of threads."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="gateway command")
        self._room = threading.BoundedSemaphore(_MOST_WAITING)
        self._lock = threading.Lock()
        # The last job of each lane.
        self._lanes: dict[str, _Turn] = {}
        self._closed = False

    def submit(self, job: Callable[[], None], lane: str | None = None) -> None:
        """Run a job soon; block while too many are waiting.

        :param lane: jobs of the same lane start in the order of their arrival, each when the previous one has ended.
        """
        while not self._room.acquire(timeout=0.1):
            if self._closed:
                return
        turn, before = _Turn(), None
        with self._lock:
            if lane is not None:
                before, self._lanes[lane] = self._lanes.get(lane), turn
        try:
            self._pool.submit(self._run, job, lane, turn, before)
        except RuntimeError:  # the pool was closed
            self._room.release()

    def _run(self, job: Callable[[], None], lane: str | None, turn: _Turn, before: _Turn | None) -> None:
        try:
            if before is not None:
                # The previous job has its thread already: they are assigned in order.
                before.begun.wait()
                before.ended.wait(_TURN)
            turn.begun.set()
            job()
        finally:
            turn.ended.set()
            self._room.release()
            with self._lock:
                if lane is not None and self._lanes.get(lane) is turn:
                    del self._lanes[lane]

    def close(self) -> None:
        """Drop the jobs that have not started."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Turn:
    """A job's turn in its lane."""

    def __init__(self) -> None:
        self.begun = clock.event()
        self.ended = clock.event()
