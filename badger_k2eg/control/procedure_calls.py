"""The calls that a procedure is written with, the same on a ``Control`` and on a Badger interface.

Each takes ``timeout=`` (seconds or a Quantity, -1 for ever) and ``callback=`` (given or None: a Future at once; left
out: it blocks), ends when its task is cancelled or the control closed, and waits for updates, not by polling.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, overload

from ..core.deadline import Deadline, in_seconds
from ..core.futures import ABSENT, Absent, Callback, Future, Time, call
from ..core.model import Reading, SetReport
from .reader import Reader
from .waiting import Condition, wait_until, wait_until_new

logger = logging.getLogger("badger_k2eg")

#: PVs of which a call returns ``{pv: Reading}``; a plain Sequence would take in a str, which is one PV.
Several = list[str] | tuple[str, ...]


class SynchronousCalls:
    """Mixin of the calls of a procedure; the class it is mixed into says how it reads and sets."""

    @property
    def _reader(self) -> Reader:
        """The Reader that every wait uses."""
        raise NotImplementedError

    def _put(self, values: Mapping[str, Any], validators: Mapping[str, Any], **how: Any) -> Any:
        """Set, as ``Control.set`` does."""
        raise NotImplementedError

    def _get_one(self, pv: str, timeout: Time) -> Any:
        """Return the plain value of a PV."""
        raise NotImplementedError

    def _enclosed(self) -> AbstractContextManager[None]:
        """Return the context in which a wait or a read in the background runs."""
        return nullcontext()

    # -- setting ----------------------------------------------------------------------------------------------------

    @overload
    def set_wait(
        self,
        values: Mapping[str, Any] | str,
        value: Any = ...,
        validators: Mapping[str, Any] | None = ...,
        *,
        timeout: Time = ...,
    ) -> SetReport: ...
    @overload
    def set_wait(
        self,
        values: Mapping[str, Any] | str,
        value: Any = ...,
        validators: Mapping[str, Any] | None = ...,
        *,
        timeout: Time = ...,
        callback: Callback | None,
    ) -> Future[SetReport]: ...
    def set_wait(
        self,
        values: Mapping[str, Any] | str,
        value: Any = ABSENT,
        validators: Mapping[str, Any] | None = None,
        *,
        timeout: Time = None,
        callback: Callback | Absent | None = ABSENT,
    ) -> Any:
        """Set PVs, and wait until each record has finished processing.

        :param values: ``{pv: value}``, or one PV with its ``value`` beside it.
        :param timeout: of the call, of an attempt, and of validators without a time of their own; None takes the
            interface's for the last two.
        :returns: a SetReport, or a Future of it.
        :raises SetError: as ``Control.set``; a record that is still busy at the timeout is UNKNOWN.
        """
        wanted = _values(values, value)
        return self._put(wanted, validators or {}, complete=list(wanted), timeout=timeout, callback=callback)

    def set_no_wait(self, values: Mapping[str, Any] | str, value: Any = ABSENT) -> Future[SetReport]:
        """Set PVs in the background, by the same guard and with the same record. A failure is logged.

        :param values: ``{pv: value}``, or one PV with its ``value`` beside it.
        :returns: a Future of the SetReport.
        """
        future: Future[SetReport] = self._put(_values(values, value), {}, callback=_log_failure)
        return future

    @overload
    def execute(self, pv: str, value: Any = ..., *, timeout: Time = ...) -> SetReport: ...
    @overload
    def execute(
        self, pv: str, value: Any = ..., *, timeout: Time = ..., callback: Callback | None
    ) -> Future[SetReport]: ...
    def execute(
        self, pv: str, value: Any = 1, *, timeout: Time = None, callback: Callback | Absent | None = ABSENT
    ) -> Any:
        """Put to a command PV (like ``REC.PROC``), and wait until the command is done. It is never sent twice.

        :param timeout: how long the command may take; None takes the interface's.
        :returns: a SetReport, or a Future of it.
        :raises PutUnknown: when it was sent and no answer came: it may still be in progress.
        """
        return self._put({pv: value}, {}, complete=[pv], commands=[pv], timeout=timeout, callback=callback)

    def execute_no_wait(self, pv: str, value: Any = 1) -> Future[SetReport]:
        """Put to a command PV in the background, without waiting for its end. A failure is logged. Never sent twice."""
        future: Future[SetReport] = self._put({pv: value}, {}, commands=[pv], callback=_log_failure)
        return future

    # -- reading ----------------------------------------------------------------------------------------------------

    def get_no_wait(self, pv: str, callback: Callback | None = None, *, timeout: Time = None) -> Future[Any]:
        """Read a PV in the background.

        :param callback: called with the Future, whose ``result()`` is the value.
        """
        seconds = None if timeout is None else in_seconds(timeout)

        def get() -> Any:
            with self._enclosed():
                return self._get_one(pv, seconds)

        future: Future[Any] = call(get, callback, parent=self._reader.life, name=f"get {pv}")
        return future

    # -- waiting for the machine ------------------------------------------------------------------------------------

    @overload
    def wait_until_new(self, pvs: str, timeout: Time = ...) -> Reading: ...
    @overload
    def wait_until_new(self, pvs: Several, timeout: Time = ...) -> dict[str, Reading]: ...
    @overload
    def wait_until_new(self, pvs: str, timeout: Time = ..., *, callback: Callback | None) -> Future[Reading]: ...
    @overload
    def wait_until_new(
        self, pvs: Several, timeout: Time = ..., *, callback: Callback | None
    ) -> Future[dict[str, Reading]]: ...
    def wait_until_new(
        self, pvs: str | Sequence[str], timeout: Time = None, *, callback: Callback | Absent | None = ABSENT
    ) -> Any:
        """Wait for the first new update of any PV.

        :param pvs: one PV, or several.
        :param timeout: None takes the interface's.
        :returns: its Reading; of several PVs, ``{pv: Reading}`` of the one that has news. Or a Future of that.
        :raises ReadError: when a PV does not answer at all.
        :raises ConditionNotMet: (a TimeoutError) when nothing came in time.
        """
        return self._wait(pvs, timeout, callback, wait_until_new)

    @overload
    def wait_until(self, condition: Condition, pvs: str, timeout: Time = ...) -> Reading: ...
    @overload
    def wait_until(self, condition: Condition, pvs: Several, timeout: Time = ...) -> dict[str, Reading]: ...
    @overload
    def wait_until(
        self, condition: Condition, pvs: str, timeout: Time = ..., *, callback: Callback | None
    ) -> Future[Reading]: ...
    @overload
    def wait_until(
        self, condition: Condition, pvs: Several, timeout: Time = ..., *, callback: Callback | None
    ) -> Future[dict[str, Reading]]: ...
    def wait_until(
        self,
        condition: Condition,
        pvs: str | Sequence[str],
        timeout: Time = None,
        *,
        callback: Callback | Absent | None = ABSENT,
    ) -> Any:
        """Wait until a condition is true; judged at once, and after every update.

        >>> control.wait_until(lambda current: current > 90.0, "BEAM:CURRENT", timeout=60)  # doctest: +SKIP

        :param condition: takes the value of the one PV, or of several ``{pv: value}``; or nothing, where it reads for
            itself. A value is a plain number (text, array) with its ``reading`` beside it.
        :param pvs: one PV, or several: those whose updates make it worth to look again.
        :param timeout: None takes the interface's.
        :returns: the Reading by which it was true, or ``{pv: Reading}``. Or a Future of that.
        :raises ReadError: when a PV does not answer at all.
        :raises ConditionNotMet: (a TimeoutError) with what the PVs read last.
        """
        single = isinstance(pvs, str)
        return self._wait(
            pvs, timeout, callback, lambda reader, names, end: wait_until(reader, condition, names, single, end)
        )

    @overload
    def wait_while(self, condition: Condition, pvs: str, timeout: Time = ...) -> Reading: ...
    @overload
    def wait_while(self, condition: Condition, pvs: Several, timeout: Time = ...) -> dict[str, Reading]: ...
    @overload
    def wait_while(
        self, condition: Condition, pvs: str, timeout: Time = ..., *, callback: Callback | None
    ) -> Future[Reading]: ...
    @overload
    def wait_while(
        self, condition: Condition, pvs: Several, timeout: Time = ..., *, callback: Callback | None
    ) -> Future[dict[str, Reading]]: ...
    def wait_while(
        self,
        condition: Condition,
        pvs: str | Sequence[str],
        timeout: Time = None,
        *,
        callback: Callback | Absent | None = ABSENT,
    ) -> Any:
        """Wait until a condition is no longer true; otherwise as ``wait_until``."""
        single = isinstance(pvs, str)
        return self._wait(
            pvs,
            timeout,
            callback,
            lambda reader, names, end: wait_until(reader, condition, names, single, end, wanted=False),
        )

    def _wait(
        self,
        pvs: str | Sequence[str],
        timeout: Time,
        callback: Callback | Absent | None,
        wait: Callable[[Reader, list[str], Deadline], dict[str, Reading]],
    ) -> Any:
        reader = self._reader
        names = [pvs] if isinstance(pvs, str) else list(pvs)
        seconds = reader.settings.timeout if timeout is None else in_seconds(timeout)

        def work() -> Any:
            with self._enclosed():
                readings = wait(reader, names, Deadline(seconds))
            return readings[names[0]] if isinstance(pvs, str) else readings

        return call(work, callback, parent=reader.life, name="wait")


def _values(values: Mapping[str, Any] | str, value: Any) -> dict[str, Any]:
    if isinstance(values, str):
        if value is ABSENT:
            raise TypeError(f"set {values} to what? give the value beside the PV, or {{pv: value}}")
        return {values: value}
    if value is not ABSENT:
        raise TypeError("give {pv: value}, or one PV and its value, not both")
    return dict(values)


def _log_failure(future: Future[Any]) -> None:
    if future.cancelled():
        logger.warning("a set in the background was cancelled")
    elif (error := future.exception()) is not None:
        logger.warning("a set in the background failed: %s", error)
