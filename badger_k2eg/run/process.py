"""The one run of this process: how it begins, and how it ends whatever happens.

A signal only marks the run and cancels its calls. The outermost frame of ours ends it on its way out, with no lock
held. Where no frame of ours is there, a thread that waits for just that does, or the exit of the process. Then the
previous handler has its turn. A forked child begins with nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from ..core import fork, futures
from ..core.deadline import Deadline, scope, under
from ..core.errors import CallCancelled, SettingsError
from . import lost_runs as orphans
from . import settings as options
from . import status_panel as panel
from .manifest import described
from .recorder import own_journal
from .run import Reason, Run

logger = logging.getLogger("badger_k2eg")

_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
#: Seconds more than a restore may take until a call of ours that does not end is waited for no longer.
_PATIENCE = 5.0
#: Badger's window stops its child by an event, and 0.1 s later by SIGTERM: who has seen the event waits for that.
_WINDOWS_PATIENCE = 0.3
#: Ends before what multiprocessing itself ends.
_EXIT_PRIORITY = 100


class _Process:
    """The state of the process. There is one instance, on which every function below works."""

    def __init__(self) -> None:
        self.reset()
        self.previous: dict[int, Any] = {}
        self.exit_watched_by = 0
        fork.register(self)

    def reset(self) -> None:
        self.run: Run | None = None
        #: Of the present run, or of the next one: a call that opens a run stands under it already.
        self.deadline = Deadline.alone()
        self.frames = 0
        self.lock = threading.RLock()
        #: Whether somebody has said that a run begins: then it keeps its locks, and a stopped one stays stopped.
        self.declared = False
        #: Why nothing may be set until somebody begins anew.
        self.over: str | None = None
        self.signals: list[int] = []
        self.wake = -1

    def before_fork(self) -> None:
        self.lock.acquire()

    def after_fork_in_parent(self) -> None:
        self.lock.release()

    def after_fork_in_child(self) -> None:
        self.reset()
        _put_back_handlers()


_here = _Process()


def current() -> Run | None:
    """Give the run of this process; None where none goes on."""
    return _here.run


# -- begin ------------------------------------------------------------------------------------------------------------


def declare() -> None:
    """Say that a run is about to begin: the next set opens it. One that goes on ends here."""
    if _here.run is not None:
        end(Reason.SUCCESS, "another run begins")
    _here.declared, _here.over = True, None


def begin(
    manifest: Mapping[str, Any] | None = None,
    policies: Mapping[str, str] | None = None,
    *,
    signals: bool = True,
) -> Run:
    """Open a run now; it is on disk from its first set on. One that goes on ends.

    :param manifest: what it is a run of.
    :param policies: in place of the settings ``on_cancelled`` and ``on_exception``.
    :param signals: whether SIGTERM and Ctrl-C are to stop it; False where the caller sees to that.
    """
    declare()
    return _open(manifest or {}, policies or {}, signals=signals)


@contextlib.contextmanager
def running(manifest: Mapping[str, Any] | None = None, policies: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Enclose a run: it ends where this ends, by the reason that follows from how.

    :param manifest: what it is a run of.
    :param policies: as ``begin``.
    """
    run = begin(manifest, policies)
    try:
        with inside(ends=False):
            yield run
    except BaseException as error:
        run.failure = error
        is_stop = isinstance(error, KeyboardInterrupt | CallCancelled)
        run.end(Reason.STOPPED if is_stop else Reason.FAILED, "interrupted" if is_stop else "")
        _deliver()
        raise
    end(run.reason or Reason.SUCCESS, run.message)


def for_set(manifest: Callable[[], Mapping[str, Any]], policies: Mapping[str, str]) -> tuple[Run | None, str | None]:
    """Give the run that a set belongs to; the first one opens it, as ``begin``.

    :returns: the run, or why nothing may be set.
    """
    with _here.lock:
        if _here.over is not None:
            return None, _here.over
        if _here.run is not None:
            return _here.run, None
        try:
            return _open(manifest(), policies, signals=True), None
        except SettingsError as error:
            return None, str(error)


def _open(manifest: Mapping[str, Any], policies: Mapping[str, str], *, signals: bool) -> Run:
    with _here.lock:
        journal = own_journal()
        settings = options.load().model_copy(update=dict(policies))
        run = Run(journal, described(manifest), settings, _here.deadline, holds=_here.declared)
        run.on_begin.append(orphans.look)
        run.on_begin.append(lambda run: panel.serve(run, stop))
        run.on_end.append(_forget)
        _here.run = run
        _watch_exit()
        _start_warden(run)
        if signals and not _install_handlers():
            run.on_begin.append(
                lambda run: run.recorder.event("no signals", "not in the main thread: a signal ends it without a word")
            )
    return run


# -- frames of ours ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def inside(*, ends: bool = True) -> Iterator[None]:
    """Enclose a call of ours: a stopped run cancels it. The outermost one ends a stopped run on its way out.

    :param ends: False for a caller that ends the run itself.
    """
    with _here.lock:
        _here.frames += 1
    if _here.run is None and _here.previous and not _here.signals:
        # The last run was ended by another thread, which may not do this.
        _put_back_handlers()
    error: BaseException | None = None
    try:
        with _under_run():
            yield
    except BaseException as problem:
        error = problem
        raise
    finally:
        with _here.lock:
            _here.frames -= 1
            is_last = _here.frames == 0
        if ends and is_last and (run := _here.run) is not None and not run.is_closing:
            _left(run, error)


@contextlib.contextmanager
def _under_run() -> Iterator[None]:
    run, outer = _here.run, scope()
    if run is not None and run.is_closing:
        # What belongs to the end has a deadline of its own.
        yield
    elif outer is None:
        with under(_here.deadline):
            yield
    elif outer.deadline is _here.deadline:
        yield
    else:
        # A task in the background: the run cancels it as its own cancel would.
        remove = _here.deadline.on_cancel(outer.deadline.cancel)
        try:
            yield
        finally:
            remove()


def _left(run: Run, error: BaseException | None) -> None:
    """The outermost frame of ours is left."""
    if run.reason is None:
        if isinstance(error, KeyboardInterrupt):
            run.stop("Ctrl-C")
        else:
            run.failure = error
    if run.reason is not None:
        end(run.reason, run.message)


# -- the end ----------------------------------------------------------------------------------------------------------


def end(reason: Reason = Reason.SUCCESS, message: str = "") -> None:
    """End the run of this process, if there is one; and let the signal that came have its turn."""
    run = _here.run
    if run is None:
        return
    run.end(reason, message)
    _deliver()


def forget() -> None:
    """End the run, and know nothing of it any more; for tests, of which one must not follow from the other."""
    end(Reason.SUCCESS, "the test ended")
    _here.declared, _here.over = False, None


def _forget(run: Run) -> None:
    with _here.lock:
        if _here.run is not run:
            return
        _here.run = None
        _here.deadline = Deadline.alone()
        if run.holds and run.reason is Reason.STOPPED:
            _here.over = f"run {run.id} was stopped ({run.message}); begin anew (reset_interface)"
        if _here.wake >= 0:
            os.close(_here.wake)
            _here.wake = -1
    if threading.current_thread() is threading.main_thread() and not _here.signals:
        _put_back_handlers()


def _at_exit() -> None:
    """The process ends, and with it the run."""
    if (run := _here.run) is None:
        return
    # In a child of multiprocessing, what the target raised is on its way through here.
    error = sys.exc_info()[1] or getattr(sys, "last_value", None) or run.failure
    if run.holds and multiprocessing.parent_process() is not None:
        with contextlib.suppress(CallCancelled):
            futures.sleep(_WINDOWS_PATIENCE, run.deadline)
    if run.reason is not None:
        end(run.reason, run.message)
    elif isinstance(error, KeyboardInterrupt | CallCancelled):
        end(Reason.STOPPED, "interrupted")
    elif error is not None and not (isinstance(error, SystemExit) and not error.code):
        run.failure = run.failure or error
        end(Reason.FAILED, "the process ended with an error")
    else:
        end(Reason.SUCCESS, "the process ended")


def _watch_exit() -> None:
    if _here.exit_watched_by == os.getpid():
        return
    _here.exit_watched_by = os.getpid()
    # A child of multiprocessing knows only the one, every other process the other.
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, _at_exit, exitpriority=_EXIT_PRIORITY)
    else:
        atexit.register(_at_exit)


# -- signals ----------------------------------------------------------------------------------------------------------


def _install_handlers() -> bool:
    """Take SIGTERM and Ctrl-C; says whether that was possible."""
    if threading.current_thread() is not threading.main_thread():
        return False
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        # What is ignored stays so (a job in the background of a shell); None is not Python's to put back.
        if handler not in (signal.SIG_IGN, None, _on_signal):
            _here.previous[number] = handler
            signal.signal(number, _on_signal)
    return True


def _put_back_handlers() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in list(_here.previous.items()):
        # Somebody may have put one on top of ours meanwhile: theirs stays.
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, handler)
        del _here.previous[number]


def _on_signal(number: int, frame: FrameType | None) -> None:
    run, previous = _here.run, _here.previous.get(number, signal.SIG_DFL)
    if run is None or run.ended.is_set():
        _here.signals.append(number)
        _deliver()
        return
    run.stop(_SIGNALS[signal.Signals(number)])
    if _here.frames == 0 and callable(previous):
        # No frame of ours is in its way.
        _wake_warden()
        previous(number, frame)
        return
    _here.signals.append(number)
    _wake_warden()


def _deliver() -> None:
    """Give signals that came to whoever had them before, once the run has ended."""
    if not _here.signals or (_here.run is not None and not _here.run.ended.is_set()):
        return
    number = _here.signals[0]
    if threading.current_thread() is not threading.main_thread():
        # Python runs the handler in the main thread, which comes here again.
        os.kill(os.getpid(), number)
        return
    _here.signals.clear()
    previous = _here.previous.get(number, signal.SIG_DFL)
    _put_back_handlers()
    if callable(previous):
        previous(number, None)
    elif previous == signal.SIG_DFL:
        os.kill(os.getpid(), number)


# -- where no frame of ours is there ----------------------------------------------------------------------------------


def stop(message: str) -> None:
    """Stop the run from any thread; it ends where a signal would end it."""
    if (run := _here.run) is not None:
        run.stop(message)
        _wake_warden()


def _start_warden(run: Run) -> None:
    reader, _here.wake = os.pipe()
    threading.Thread(target=_guard_end, args=(run, reader), name=f"run {run.id}", daemon=True).start()


def _wake_warden() -> None:
    if _here.wake >= 0:
        with contextlib.suppress(OSError):
            os.write(_here.wake, b"!")


def _guard_end(run: Run, reader: int) -> None:
    """Wait until the run is stopped; end it where nobody else does."""
    try:
        if not os.read(reader, 1):
            return
    finally:
        os.close(reader)
    # A frame of ours ends it on its way out; a call that does not end is not waited for for ever.
    bound = run.settings.restore_timeout + _PATIENCE
    if _here.frames == 0 or not run.ended.wait(bound):
        run.end(run.reason or Reason.STOPPED, run.message)
        _deliver()
