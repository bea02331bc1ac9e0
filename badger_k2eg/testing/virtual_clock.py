"""``VirtualClock``: a test that waits for delays, deadlines and settle times takes no time, and measures them exactly.

Its time stands still while any thread of the process has something to do. When all of them wait, and one waits for a
time to come, it is that time at once; so a thousand seconds of waiting pass in the time in which the work between is
done, on a machine as loaded as may be. Nothing that a thread is about to do is overtaken: on Linux the kernel says of
every thread whether it sleeps, and whether it has run since. Elsewhere it is taken for so when nothing has entered or
left a wait while a thread has slept ten times.

What the clock cannot see is somebody else: a server, a broker, a child process. Under `standstill` a test waits for
those. Threads that a fork leaves behind do not count; a child goes on with a clock of its own, from the same time.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..core import clock, fork

# Real seconds between two looks at threads that are busy.
_LOOK_AGAIN = 0.0005
# Real seconds for the end of our own thread.
_PATIENCE = 5.0
# Where the kernel does not tell of threads: how many real sleeps of how many seconds nothing must have happened.
_PROBES, _PROBE = 10, 0.001

_TASKS = "/proc/self/task"
_COUNTED = b"voluntary_ctxt_switches"


class VirtualClock(clock.Clock):
    """A clock that goes from one due time to the next as soon as all threads wait.

    ::

        with VirtualClock() as virtual:
            control.set(...)      # retries, settles and expires in no time
            virtual.sleep(3600)   # an hour passes, and all that is due in it happens

    It begins with the time of the machine. Two looks at it never give the same time: each takes a nanosecond.
    """

    def __init__(self) -> None:
        """Stand still; nobody uses it yet."""
        self._now = time.monotonic_ns()
        self._epoch = time.time_ns() - self._now
        self._held = 0
        # Of the machine's clock: when this one was given up, and goes on as that does.
        self._ended: int | None = None
        self._installed = contextlib.ExitStack()
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        # Reentrant: a signal handler may ask for the time, or wake somebody, in the midst of anything.
        self._changed = threading.Condition(threading.RLock())
        self._waits: set[_Wait] = set()
        self._passages = itertools.count()
        self._last_passage = 0
        self._driver: threading.Thread | None = None

    def __enter__(self) -> VirtualClock:
        self._installed.enter_context(clock.installed(self))
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- a clock ---------------------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Give its seconds."""
        return self._nanoseconds() * 1e-9

    def time_ns(self) -> int:
        """Give nanoseconds since the Unix epoch, as far ahead of the machine's as this clock is."""
        return self._epoch + self._nanoseconds()

    def _nanoseconds(self) -> int:
        with self._changed:
            self._now += 1
            return self._now if self._ended is None else self._now + time.monotonic_ns() - self._ended

    def sleep(self, seconds: float) -> None:
        """Let so much time pass, and all happen that is due in it."""
        nothing, end = threading.Condition(), self.monotonic() + seconds
        with nothing:
            while (left := end - self.monotonic()) > 0.0:
                self.wait(nothing, left)

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Wait, holding the condition, until it is notified or so much time has passed."""
        if seconds <= 0.0 or self._ended is not None:
            super().wait(condition, max(0.0, seconds))
            return
        with self._changed:
            wait = _Wait(condition, math.inf if seconds == math.inf else self._now + math.ceil(seconds * 1e9))
            self._waits.add(wait)
            self._last_passage = next(self._passages)
            if self._driver is None:
                self._driver = threading.Thread(target=self._drive, name="virtual clock", daemon=True)
                self._driver.start()
            self._changed.notify()
        try:
            condition.wait()
        finally:
            with self._changed:
                self._waits.discard(wait)
                self._last_passage = next(self._passages)

    def event(self) -> threading.Event:
        """Make an event that waits by this clock."""
        return _Event(self)

    def simple_queue(self) -> queue.SimpleQueue[Any]:
        """Make a queue that waits by this clock."""
        return _Queue(self)

    def later(self, seconds: float, action: Callable[[], object]) -> threading.Thread:
        """Do something after a while, in a thread of its own: somebody moves a PV, or presses stop."""

        def run() -> None:
            self.sleep(seconds)
            action()

        thread = threading.Thread(target=run, name="later", daemon=True)
        thread.start()
        return thread

    @contextlib.contextmanager
    def standstill(self) -> Iterator[None]:
        """Let no time pass meanwhile: the test waits for what the clock cannot see, as a child process."""
        with self._changed:
            self._held += 1
        try:
            yield
        finally:
            with self._changed:
                self._held = max(0, self._held - 1)
                self._changed.notify()

    def close(self) -> None:
        """Give it up: the process goes by its machine's clock again, and so does who still waits here. Idempotent."""
        self._installed.close()
        fork.unregister(self)
        with self._changed:
            if self._ended is None:
                self._ended = time.monotonic_ns()
            driver = self._driver
            self._changed.notify()
        if driver is not None:
            driver.join(_PATIENCE)

    # -- how its time goes on ----------------------------------------------------------------------------------------

    def _drive(self) -> None:
        threads = _Threads()
        while self._ended is None:
            with self._changed:
                while self._ended is None and (self._held or all(wait.due == math.inf for wait in self._unwoken())):
                    self._changed.wait()
                passage = self._last_passage
            if not threads.all_sleep(lambda: self._last_passage):
                time.sleep(_LOOK_AGAIN)
                continue
            if self._wake(self._now):  # those whose lock was kept when their time came
                continue
            with self._changed:
                if self._held or passage != self._last_passage or self._ended is not None:
                    continue
                ahead = (wait.due for wait in self._unwoken() if self._now < wait.due < math.inf)
                self._now = int(min(ahead, default=self._now))
            if not self._wake(self._now):
                time.sleep(_LOOK_AGAIN)
        # Who still waits goes on by the machine's clock.
        while self._unwoken():
            self._wake(math.inf)
            time.sleep(_LOOK_AGAIN)

    def _unwoken(self) -> list[_Wait]:
        with self._changed:
            return [wait for wait in self._waits if not wait.woken]

    def _wake(self, until: float) -> bool:
        """Wake those whose time comes until then; says whether there was one who could be woken."""
        late = [wait for wait in self._unwoken() if wait.due <= until]
        # Not with our own lock held: who waits takes that one while it holds its condition.
        for wait in late:
            wait.wake()
        return any(wait.woken for wait in late)

    # -- around a fork -----------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let nothing be half changed in the copy."""
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Go on from the same time; who waited is the parent's."""
        self._held = 0
        self._begin()


class _Wait:
    """One thread that waits for a time to come."""

    def __init__(self, condition: threading.Condition, due: float) -> None:
        self._condition = condition
        #: Nanoseconds; may be infinite.
        self.due = due
        self.woken = False

    def wake(self) -> None:
        """Notify it. Where another thread keeps its lock, and waits with it, it could not go on: later, then."""
        if self._condition.acquire(blocking=False):
            self.woken = True
            self._condition.notify_all()
            self._condition.release()


class _Event(threading.Event):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self._changed = threading.Condition()

    def set(self) -> None:
        super().set()
        with self._changed:
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        end = math.inf if timeout is None else self._clock.monotonic() + timeout
        with self._changed:
            while not self.is_set() and (left := end - self._clock.monotonic()) > 0.0:
                self._clock.wait(self._changed, left)
        return self.is_set()


class _Queue(queue.SimpleQueue[Any]):
    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._changed = threading.Condition()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item)
        with self._changed:
            self._changed.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        end = math.inf if timeout is None else self._clock.monotonic() + timeout
        with self._changed:
            while self.empty() and block and (left := end - self._clock.monotonic()) > 0.0:
                self._clock.wait(self._changed, left)
            return super().get(block=False)


class _Threads:
    """The other threads of this process."""

    def __init__(self) -> None:
        self._own = str(threading.get_native_id())
        self._is_told = os.path.exists(f"{_TASKS}/{self._own}/status")

    def all_sleep(self, passage: Callable[[], int]) -> bool:
        """Whether each of them waits for something.

        :param passage: changes whenever one begins or ends a wait in the clock.
        """
        if self._is_told:
            # Two looks that are alike: in the instant between them none could run.
            return (first := self._look()) is not None and first == self._look()
        before = passage()
        for _ in range(_PROBES):
            time.sleep(_PROBE)
            if passage() != before:
                return False
        return True

    def _look(self) -> dict[str, bytes] | None:
        """Tell how often each has been put to sleep and woken; None when one is not asleep."""
        counts = {}
        for name in os.listdir(_TASKS):
            if name == self._own:
                continue
            try:
                status = _read(f"{_TASKS}/{name}/status")
            except OSError:  # it has just ended
                return None
            if status.partition(b"\nState:\t")[2][:1] != b"S":
                return None
            counts[name] = status.partition(_COUNTED)[2]
        return counts


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
