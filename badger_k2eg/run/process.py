"""The one run of this process: how it begins, and how it ends whatever happens.

A signal only marks the run and cancels its calls. The outermost frame (a call of this package, see ``inside``) ends it
on its way out, with no lock held. Where there is no frame, a thread that waits for that ends it, or the exit of the
process. Then the previous signal handler is called. A forked child begins without a run.
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
from . import lost_runs, settings, status_panel
from .manifest import described
from .recorder import own_journal
from .run import Reason, Run

logger = logging.getLogger("badger_k2eg")

_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
#: Seconds beyond the time for the restore after which a frame that does not end is no longer waited for.
_PATIENCE = 5.0
#: Badger's window stops its child by an event, and 0.1 s later by SIGTERM: a child that saw the event waits for that.
_WINDOW_PATIENCE = 0.3
#: The run ends before what multiprocessing itself ends.
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
        #: Of the present run, or of the next one: a call that begins a run is already subject to it.
        self.deadline = Deadline.alone()
        self.frames = 0
        self.lock = threading.RLock()
        #: Whether a run was announced: then it keeps its locks until its end, and nothing is set after it was stopped.
        self.declared = False
        #: Why nothing may be set until a run is announced again.
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
    """Return the run of this process; None where none goes on."""
    return _here.run


# -- begin ------------------------------------------------------------------------------------------------------------


def declare() -> None:
    """Announce a run, which the next set begins. A run that goes on ends here."""
    if _here.run is not None:
        end(Reason.SUCCESS, "another run begins")
    _here.declared, _here.over = True, None


def begin(
    manifest: Mapping[str, Any] | None = None,
    policies: Mapping[str, str] | None = None,
    *,
    signals: bool = True,
) -> Run:
    """Begin a run now; it is recorded from its first set on. A run that goes on ends here.

    :param manifest: describes the run: environment, interface, options.
    :param policies: in place of the settings ``on_cancelled`` and ``on_exception``.
    :param signals: whether SIGTERM and Ctrl-C are to stop it; False where the caller handles them.
    """
    declare()
    return _open(manifest or {}, policies or {}, signals=signals)


@contextlib.contextmanager
def running(manifest: Mapping[str, Any] | None = None, policies: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Begin a run, and end it with the context: stopped, failed or a success, by the way in which that is left.

    :param manifest: as for ``begin``.
    :param policies: as for ``begin``.
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
    """Return the run that a set belongs to; the first set begins one, as ``begin`` does.

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
    """Make the run of this process, and see to its end."""
    with _here.lock:
        journal = own_journal()
        options = settings.load().model_copy(update=dict(policies))
        run = Run(journal, described(manifest), options, _here.deadline, holds=_here.declared)
        run.on_begin.append(lost_runs.look)
        run.on_begin.append(lambda run: status_panel.serve(run, stop))
        run.on_end.append(_forget)
        _here.run = run
        _watch_exit()
        _start_warden(run)
        if signals and not _install_handlers():
            words = "not in the main thread: a signal ends the process, and the run is lost"
            run.on_begin.append(lambda run: run.recorder.event("no signals", words))
    return run


# -- frames -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def inside(*, ends: bool = True) -> Iterator[None]:
    """Enclose a call of this package: a run that is stopped cancels it. The outermost one ends that run on its way out.

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
    """Let the run cancel what is done inside."""
    run, outer = _here.run, scope()
    if run is not None and run.is_closing:
        # The end has a deadline of its own.
        yield
    elif outer is None:
        with under(_here.deadline):
            yield
    elif outer.deadline is _here.deadline:
        yield
    else:
        # A task in the background: the run cancels it as its own ``cancel`` would.
        remove = _here.deadline.on_cancel(outer.deadline.cancel)
        try:
            yield
        finally:
            remove()


def _left(run: Run, error: BaseException | None) -> None:
    """End the run where the outermost frame is left by a stop, and keep the error where it is left by one."""
    if run.reason is None:
        if isinstance(error, KeyboardInterrupt):
            run.stop("Ctrl-C")
        else:
            run.failure = error
    if run.reason is not None:
        end(run.reason, run.message)


# -- the end ----------------------------------------------------------------------------------------------------------


def end(reason: Reason = Reason.SUCCESS, message: str = "") -> None:
    """End the run of this process, if there is one; then deliver the signal that came meanwhile."""
    run = _here.run
    if run is None:
        return
    run.end(reason, message)
    _deliver()


def forget() -> None:
    """End the run and forget it: for tests, which must not depend on each other."""
    end(Reason.SUCCESS, "the test ended")
    _here.declared, _here.over = False, None


def _forget(run: Run) -> None:
    """Make room for the next run."""
    with _here.lock:
        if _here.run is not run:
            return
        _here.run = None
        _here.deadline = Deadline.alone()
        if run.holds and run.reason is Reason.STOPPED:
            _here.over = f"run {run.id} was stopped ({run.message}); begin a new one (reset_interface)"
        if _here.wake >= 0:
            os.close(_here.wake)
            _here.wake = -1
    if threading.current_thread() is threading.main_thread() and not _here.signals:
        _put_back_handlers()


def _at_exit() -> None:
    """End the run as the process exits."""
    if (run := _here.run) is None:
        return
    # In a child of multiprocessing, what the target raised is on its way through here.
    error = sys.exc_info()[1] or getattr(sys, "last_value", None) or run.failure
    if run.holds and multiprocessing.parent_process() is not None:
        with contextlib.suppress(CallCancelled):
            futures.sleep(_WINDOW_PATIENCE, run.deadline)
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
    """Have the exit of the process end the run."""
    if _here.exit_watched_by == os.getpid():
        return
    _here.exit_watched_by = os.getpid()
    # A child of multiprocessing runs only its own finalizers, every other process only those of atexit.
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, _at_exit, exitpriority=_EXIT_PRIORITY)
    else:
        atexit.register(_at_exit)


# -- signals ----------------------------------------------------------------------------------------------------------


def _install_handlers() -> bool:
    """Handle SIGTERM and Ctrl-C; return whether that was possible."""
    if threading.current_thread() is not threading.main_thread():
        return False
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        # An ignored signal stays ignored (a job in the background of a shell); Python cannot restore a None.
        if handler not in (signal.SIG_IGN, None, _on_signal):
            _here.previous[number] = handler
            signal.signal(number, _on_signal)
    return True


def _put_back_handlers() -> None:
    """Restore the previous handlers; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in list(_here.previous.items()):
        # A handler that was installed since stays.
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, handler)
        del _here.previous[number]


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Stop the run; the previous handler is called at once where no frame is in its way, else after the end."""
    run, previous = _here.run, _here.previous.get(number, signal.SIG_DFL)
    if run is None or run.ended.is_set():
        _here.signals.append(number)
        _deliver()
        return
    run.stop(_SIGNALS[signal.Signals(number)])
    if _here.frames == 0 and callable(previous):
        _wake_warden()
        previous(number, frame)
        return
    _here.signals.append(number)
    _wake_warden()


def _deliver() -> None:
    """Call the previous handler for signals that came, once the run has ended."""
    if _here.run is not None and not _here.run.ended.is_set():
        return
    try:
        # In one step: of two threads that come here at once, the other one must not send it a second time, when the
        # previous handler is in place.
        number = _here.signals.pop()
    except IndexError:
        return
    _here.signals.clear()
    if threading.current_thread() is not threading.main_thread():
        # Python runs the handler in the main thread, which comes here again.
        os.kill(os.getpid(), number)
        return
    previous = _here.previous.get(number, signal.SIG_DFL)
    _put_back_handlers()
    if callable(previous):
        previous(number, None)
    elif previous == signal.SIG_DFL:
        os.kill(os.getpid(), number)


# -- where there is no frame ------------------------------------------------------------------------------------------


def stop(message: str) -> None:
    """Stop the run from any thread; it ends where a signal would end it."""
    if (run := _here.run) is not None:
        run.stop(message)
        _wake_warden()


def _start_warden(run: Run) -> None:
    """Start the thread that ends a stopped run."""
    reader, _here.wake = os.pipe()
    threading.Thread(target=_guard_end, args=(run, reader), name=f"run {run.id}", daemon=True).start()


def _wake_warden() -> None:
    """Wake that thread; safe in a signal handler."""
    if _here.wake >= 0:
        with contextlib.suppress(OSError):
            os.write(_here.wake, b"!")


def _guard_end(run: Run, reader: int) -> None:
    """Wait until the run is stopped, and end it where no frame does."""
    try:
        if not os.read(reader, 1):
            return
    finally:
        os.close(reader)
    # A frame ends it on its way out; but a call that does not return is not waited for for ever.
    bound = run.settings.restore_timeout + _PATIENCE
    if _here.frames == 0 or not run.ended.wait(bound):
        run.end(run.reason or Reason.STOPPED, run.message)
        _deliver()
