"""How often an interface may set: ``Pacer`` holds puts back, and ``Failures`` stops them after failed evaluations.

An evaluation begins with a set, and goes on with what its thread reads, until the thread's next set; what a thread asks
for in the background is its own. It has failed when its set or one of its reads has, however many of them. They are in
the order in which they began: a good one ends the row of those before it, and not of those that began later.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..core import clock, fork, futures
from ..core.deadline import Deadline
from ..core.futures import asker
from ..core.settings import Settings


class Pacer:
    """Limits the rate of puts: a minimum interval for each PV, a maximum per second for all."""

    def __init__(self, settings: Settings) -> None:
        """Take both limits from the settings."""
        self._interval = settings.put_interval
        self._rate = settings.put_rate
        self._last: dict[str, float] = {}
        self._recent: deque[float] = deque()
        self._lock = fork.Lock()

    @property
    def one_by_one(self) -> bool:
        """Whether a batch must be sent one by one, because all at once would exceed the rate."""
        return self._rate is not None

    def wait(self, names: Iterable[str], deadline: Deadline) -> None:
        """Wait until these may be sent, and count them as sent.

        :raises CallCancelled: when the deadline is cancelled meanwhile.
        """
        while (pause := self._claim(list(names))) > 0.0:
            futures.sleep(pause, deadline)
            if deadline.expired:
                return

    def _claim(self, names: list[str]) -> float:
        if not self._interval and self._rate is None:
            return 0.0
        with self._lock:
            now = clock.monotonic()
            due = [self._last[name] + self._interval for name in names if name in self._last]
            if self._rate is not None:
                while self._recent and self._recent[0] <= now - 1.0:
                    self._recent.popleft()
                if self._rate < 1.0 and self._last:
                    due.append(max(self._last.values()) + 1.0 / self._rate)
                elif len(self._recent) + len(names) > max(1.0, self._rate):
                    due.append(self._recent[0] + 1.0)
            if (pause := max(due, default=now) - now) > 0.0:
                return pause
            for name in names:
                self._last[name] = now
                self._recent.append(now)
            return 0.0


@dataclass(slots=True, eq=False)
class _Evaluation:
    number: int
    #: How many of its sets are under way: those of a validator are within another one.
    sets: int = 0


class Failures:
    """The failed evaluations in a row. Safe to use from many threads."""

    def __init__(self, most: int | None) -> None:
        """Take the number at which setting pauses; None never pauses."""
        self._most = most
        self._lock = fork.Lock()
        self._begun = 0
        self._latest: dict[threading.Thread, _Evaluation] = {}
        self.reset()

    def reset(self) -> None:
        """Start counting again; what has begun by now no longer counts."""
        with self._lock:
            # The newest good one, and the failed ones since; all by their numbers.
            self._good = self._begun
            self._failed: set[int] = set()

    @contextmanager
    def counted(self) -> Iterator[str | None]:
        """Enclose a set, which begins an evaluation or belongs to one; an exception makes the evaluation fail.

        :returns: on entry, why nothing may be set, when too many have failed.
        """
        with self._lock:
            evaluation = self._latest.get(asker())
            if evaluation is None or not evaluation.sets:
                evaluation = self._begin()
            if evaluation is not None:
                evaluation.sets += 1
            count = len(self._failed)
        if evaluation is None:
            yield f"paused after {count} failed evaluations in a row (option max_failures); see to it, then reset"
            return
        try:
            yield None
        except BaseException:
            self._has_failed(evaluation)
            raise
        finally:
            with self._lock:
                evaluation.sets -= 1

    def _begin(self) -> _Evaluation | None:
        for thread, evaluation in list(self._latest.items()):
            if thread is asker() or not (thread.is_alive() or evaluation.sets):
                del self._latest[thread]
                if evaluation.number not in self._failed:
                    self._good = max(self._good, evaluation.number)
        self._failed = {number for number in self._failed if number > self._good}
        if self._most is not None and len(self._failed) >= self._most:
            return None
        self._begun += 1
        self._latest[asker()] = evaluation = _Evaluation(self._begun)
        return evaluation

    def failed(self) -> None:
        """Mark the evaluation of this thread as failed, if it is in one."""
        self._has_failed(self._latest.get(asker()))

    def _has_failed(self, evaluation: _Evaluation | None) -> None:
        with self._lock:
            if evaluation is not None and evaluation.number > self._good:
                self._failed.add(evaluation.number)
