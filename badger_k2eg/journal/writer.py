"""``Writer``: appends lines to the newest segment. Many writers, in many processes, can work at once.

A line or a batch is one unbuffered append under a lock between processes. The number of a line follows from the line
before it in the file, so there is no counter to lose: the next writer finds it at the end of the newest segment. Row k
of a segment is always line ``first + k``.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import filelock

from .. import __version__
from ..core import clock, fork
from ..core.errors import JournalWriteError
from ..core.owner import this_owner
from ..core.records import SCHEMA, BadLine, NewerSchema, Record, RecordKind, from_line, to_line
from . import segments
from .segments import Segment
from .settings import JournalSettings, network_file_system

logger = logging.getLogger("badger_k2eg")

LOCK_FILE = "journal.lock"
#: Seconds to wait for another writing process; after a failure the next call does not wait.
_PATIENCE = 5.0
_POLL = 0.0005
#: Seconds by which the clock may go back before a line records it.
_CLOCK_STEP = 1.0

_warned: set[Path] = set()


class Writer:
    """Appends to the journal in one directory. Safe to use from many threads; a forked child opens its own files.

    :param clock: returns nanoseconds since the Unix epoch.
    """

    def __init__(self, directory: Path, settings: JournalSettings, *, clock: Callable[[], int] = clock.time_ns) -> None:
        """Remember the directory; nothing is created before the first write."""
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._lock = fork.Lock()
        self._lost = 0
        self._reset()
        fork.register(self)

    def _reset(self) -> None:
        self._handle: int | None = None
        self._segment = Segment(1, self._directory, 0.0)
        self._size = 0
        self._next = 1
        self._last_ns = 0
        self._patience = _PATIENCE
        self._origin = this_owner()
        self._file_lock: filelock.BaseFileLock | None = None

    # -- fork -----------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Do nothing: the lock, registered before, waits until no thread is inside."""

    def after_fork_in_parent(self) -> None:
        """Do nothing: nothing was closed."""

    def after_fork_in_child(self) -> None:
        """Close the parent's handle; the lines that the parent lost are for it to report."""
        self._release()
        self._lost = 0
        self._reset()

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, records: Sequence[Record], *, required: bool = False, sync: bool = False) -> range:
        """Append lines; see ``Journal.write``."""
        if not records:
            return range(0)
        with self._lock:
            try:
                return self._append(records, sync)
            except (OSError, NotImplementedError, NewerSchema) as error:
                reason = f"the journal in {self._directory} cannot be written: {_words(error)}"
                if required or self._settings.on_error == "raise":
                    raise JournalWriteError(reason) from None
                if not self._lost:
                    logger.warning("%s; the work goes on, and its lines are lost until it can be written", reason)
                self._lost += len(records)
                return range(0)

    def close(self) -> None:
        """Close the segment; the next write opens it again."""
        with self._lock:
            self._release()

    def seal(self) -> list[Segment]:
        """Close the newest segment and begin another.

        :returns: all closed segments.
        :raises JournalWriteError: when the journal cannot be written.
        """
        with self._lock:
            try:
                with self._alone():
                    self._position()
                    self._rotate()
                    return segments.listed(self._directory)[:-1]
            except (OSError, NotImplementedError, NewerSchema) as error:
                raise JournalWriteError(
                    f"the journal in {self._directory} cannot be written: {_words(error)}"
                ) from None

    def _append(self, records: Sequence[Record], sync: bool) -> range:
        with self._alone():
            self._position()
            own = self._notes()
            if self._is_full():
                self._rotate()
            first = self._next + len(own)
            self._put([*own, *records], sync)
        if self._lost:
            logger.warning("the journal in %s can be written again; %d lines were lost", self._directory, self._lost)
            self._lost = 0
        return range(first, first + len(records))

    def _notes(self) -> list[Record]:
        """Return lines about what happened since the last write: lost lines, a clock that went back."""
        notes = []
        if self._lost:
            words = f"{self._lost} lines of this process were lost: they could not be written"
            notes.append(Record(kind=RecordKind.LOST, data={"lines": self._lost}, message=words))
        back = (self._last_ns - self._clock()) * 1e-9
        if back > _CLOCK_STEP:
            notes.append(
                Record(kind=RecordKind.EVENT, name="clock", duration=back, message=f"the clock went back by {back:g} s")
            )
        return notes

    def _put(self, records: Sequence[Record], sync: bool, closing: bytes = b"") -> None:
        """Number the records, and write all of them at once, or none.

        :param closing: what completes a torn line before them.
        """
        assert self._handle is not None  # noqa: S101 - _position opened it
        now = self._last_ns = self._clock()
        text = closing + b"".join(
            to_line(
                replace(
                    record,
                    line=number,
                    time_ns=record.time_ns or now,
                    host=record.host or self._origin.host,
                    user=record.user or self._origin.user,
                    process=record.process or self._origin.pid,
                )
            )
            for number, record in enumerate(records, self._next)
        )
        try:
            left = memoryview(text)
            while left:
                left = left[os.write(self._handle, left) :]
            if sync:
                os.fsync(self._handle)
        except BaseException:
            # All or nothing; if even this fails, the next writer finds a torn line.
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
            raise
        # In this order: after an interrupt in between, the size is wrong, and the next write looks for the end again.
        self._next += len(records)
        self._size += len(text)

    # -- where to write -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock between processes."""
        if self._file_lock is None or not self._directory.is_dir():
            self._prepare()
        assert self._file_lock is not None  # noqa: S101 - made by _prepare
        try:
            self._file_lock.acquire(timeout=self._patience, poll_interval=_POLL)
        except filelock.Timeout:
            self._patience = _POLL
            raise OSError("another process has held its lock for seconds") from None
        try:
            self._patience = _PATIENCE
            yield
        finally:
            self._file_lock.release()

    def _prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        kind = network_file_system(self._directory)
        if kind is not None and self._directory not in _warned:
            _warned.add(self._directory)
            logger.warning("the journal in %s is on %s: its locks must work between hosts", self._directory, kind)
        self._file_lock = filelock.FileLock(
            self._directory / LOCK_FILE, mode=self._mode(), thread_local=False, is_singleton=False
        )

    def _mode(self) -> int:
        """Return the permissions of new files: those of the directory."""
        return self._directory.stat().st_mode & 0o666 | 0o600

    def _position(self) -> None:
        """Go to the end of the newest segment, whatever other processes did; close a line that one left torn."""
        if self._handle is not None:
            status = os.fstat(self._handle)
            if status.st_nlink and status.st_size == self._size:
                return
            self._release()
        found = segments.listed(self._directory)
        if not found:
            self._begin(self._next)
            return
        own = self._next
        try:
            self._stand_at_end_of(found[-1])
        except BaseException:
            # The position is unknown: the next call looks again.
            self._release()
            self._next = own
            raise

    def _stand_at_end_of(self, segment: Segment) -> None:
        self._segment = segment
        self._handle = os.open(segment.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._handle).st_size
        tail = segments.tail_of(self._handle, self._size)
        own, self._next = self._next, tail.next_line(segment.first)
        if tail.torn:
            self._mend(tail.torn)
        if own > self._next or (tail.last is not None and tail.last.kind is RecordKind.SEGMENT_END):
            # Its writer was killed before it made the next one; or lines were removed, and no number is used twice.
            self._begin(max(own, self._next))

    def _mend(self, torn: int) -> None:
        """Complete the line in which another process died, and record that; it keeps its number."""
        assert self._handle is not None  # noqa: S101 - opened before
        fragment = os.pread(self._handle, torn, self._size - torn)
        line, self._next = self._next, self._next + 1
        try:
            whole = from_line(fragment).intact  # all but its newline had been written
        except BadLine:
            whole = False
        words = f"line {line} is torn: its writer died after {torn} bytes of it"
        mark = Record(kind=RecordKind.TORN, message=words, data={"bytes": torn})
        self._put([] if whole else [mark], False, closing=b"\n")

    # -- segments -------------------------------------------------------------------------------------------------

    def _is_full(self) -> bool:
        age = self._clock() * 1e-9 - self._segment.begun
        return self._size >= self._settings.segment_size or age >= self._settings.segment_age > 0.0

    def _rotate(self) -> None:
        self._put([Record(kind=RecordKind.SEGMENT_END)], True)
        self._begin(self._next)
        self._retire()

    def _begin(self, first: int) -> None:
        """Create a segment, with its first line."""
        now = self._clock()
        path = self._directory / segments.name_of(first, now)
        self._release()
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._mode())
        with contextlib.suppress(PermissionError):
            os.fchmod(handle, self._mode())
        self._handle, self._size, self._next = handle, os.fstat(handle).st_size, first
        self._segment = Segment(first, path, now * 1e-9)
        about = {"schema": SCHEMA, "package": __version__}
        self._put([Record(kind=RecordKind.SEGMENT_BEGIN, data=about)], False)
        with contextlib.suppress(OSError):  # not every file system lets a directory be flushed
            directory = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _retire(self) -> None:
        """Remove closed segments that are too old, and the oldest ones if all together are too large."""
        kept = 0
        for segment in reversed(segments.listed(self._directory)[:-1]):
            with contextlib.suppress(OSError):  # another process may have removed it
                status = segment.path.stat()
                kept += status.st_size
                days = (self._clock() * 1e-9 - status.st_mtime) / 86400.0
                too_old = self._settings.keep_days is not None and days > self._settings.keep_days
                if too_old or (self._settings.keep_size is not None and kept > self._settings.keep_size):
                    segment.path.unlink()
                    logger.info("journal: removed %s, by journal_keep_days or journal_keep_size", segment.path)

    def _release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):
                os.close(handle)


def _words(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, NewerSchema):
        return f"a newer version of badger-k2eg wrote it ({error})"
    return "its file system does not support locks"
