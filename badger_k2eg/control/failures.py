"""``Failures``: after so many failed evaluations in a row, nothing more is set. Part of the room ``control``.

An evaluation begins with a set, and goes on with what its thread reads, until the thread's next set; what a thread asks
for in the background is its own. It has failed when its set or one of its reads has, however many of them. They are in
the order in which they began: a good one ends the row of those before it, and not of those that began later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..core import fork
from ..core.futures import asker


@dataclass(slots=True, eq=False)
class _Evaluation:
    number: int
    #: How many of its sets are under way: those of a validator are within another one.
    sets: int = 0


class Failures:
    """Counts failed evaluations in a row. Safe to use from many threads."""

    def __init__(self, most: int | None) -> None:
        """Take the number from which on setting pauses; None never pauses."""
        self._most = most
        self._lock = fork.Lock()
        self._begun = 0
        self._latest: dict[threading.Thread, _Evaluation] = {}
        self.reset()

    def reset(self) -> None:
        """Begin to count anew; what has begun by now does not count any more."""
        with self._lock:
            # The newest good one, and the failed ones since; all by their numbers.
            self._good = self._begun
            self._failed: set[int] = set()

    @contextmanager
    def counted(self) -> Iterator[str | None]:
        """Enclose a set; it begins an evaluation, or is a part of one. An exception makes that a failed one.

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
