"""What a validator gets as ``context``: reads and puts in the words of p4p's thread ``Context``, on every backend.

Partials written for p4p run unchanged; a put passes the same guard as every other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.backend import Subscription, Update
from ..core.deadline import Deadline
from ..core.errors import PvError
from ..core.model import Reading
from .reader import Reader


class _Annotated:
    """A value with its reading beside it."""

    reading: Reading

    @property
    def value(self) -> Any:
        """The value alone, of builtin Python types."""
        return self.reading.plain

    @property
    def severity(self) -> int:
        """EPICS alarm severity, 0 to 3."""
        return int(self.reading.severity)

    @property
    def timestamp(self) -> float | None:
        """The record's time, seconds since the Unix epoch."""
        return self.reading.timestamp


class AnnotatedFloat(_Annotated, float):
    """A float with its reading beside it."""


class AnnotatedInt(_Annotated, int):
    """An int with its reading beside it."""


class AnnotatedStr(_Annotated, str):
    """A text with its reading beside it."""


class AnnotatedArray(_Annotated, np.ndarray[Any, Any]):
    """An array with its reading beside it."""


def annotated(reading: Reading) -> Any:
    """Return the value of a reading as a plain number (text, array) that has the reading as an attribute."""
    value = reading.value
    if isinstance(value, bool | int):
        dressed: Any = AnnotatedInt(value)
    elif isinstance(value, float):
        dressed = AnnotatedFloat(value)
    elif isinstance(value, str):
        dressed = AnnotatedStr(value)
    elif isinstance(value, np.ndarray):
        dressed = value.view(AnnotatedArray)
    else:
        return value
    dressed.reading = reading
    return dressed


class ValidatorContext:
    """Reads, puts and monitors for validators, by the same ways as their interface."""

    def __init__(self, reader: Reader, put: Callable[..., object], deadline: Deadline | None = None) -> None:
        """Take the ways to read and to put.

        :param put: as ``Control.set``: with its guard, its retries, its record.
        :param deadline: of the call that this context serves: once it is over, nothing more is read or sent.
        """
        self._reader = reader
        self._put = put
        self._deadline = deadline or Deadline()

    def under(self, deadline: Deadline) -> ValidatorContext:
        """Return the same context for the time of one call."""
        return ValidatorContext(self._reader, self._put, deadline)

    def get(
        self, name: str | Sequence[str], request: object = None, timeout: float | None = None, throw: bool = True
    ) -> Any:
        """Read one PV, or several.

        :param name: one name, or a list of names: the answer has the same form.
        :param request: accepted and not used; the whole structure is always asked for.
        :param timeout: seconds; None takes the interface's.
        :param throw: False gives an exception in the place of a value instead of raising it.
        :raises PvError: (TimeoutError, PermissionError, ...) for the first that cannot be read.
        """
        single = isinstance(name, str)
        names = [name] if isinstance(name, str) else list(name)
        seconds = self._reader.settings.timeout if timeout is None else timeout
        updates = self._reader.updates(names, self._deadline.child(seconds))
        # By name: one that is asked for twice is answered twice.
        answers = [updates[each] for each in names]
        values = [annotated(answer) if isinstance(answer, Reading) else answer for answer in answers]
        if throw:
            for value in values:
                if isinstance(value, PvError):
                    raise value
        return values[0] if single else values

    def put(
        self,
        name: str | Sequence[str],
        values: Any,
        request: object = None,
        timeout: float | None = None,
        throw: bool = True,
        process: str | None = None,
        wait: bool | None = None,
        get: bool = True,
    ) -> Any:
        """Set one PV, or several, by the one write path: guard, retries and record as for every set.

        :param timeout: seconds for each; None takes the interface's.
        :param wait: wait until the record has finished processing.
        :returns: None, or with ``throw=False`` the exception in its place.
        """
        names = [name] if isinstance(name, str) else list(name)
        given = [values] if isinstance(name, str) else list(values)
        answers: list[Exception | None] = []
        for one, value in zip(names, given, strict=True):
            try:
                complete = [one] if wait else ()
                self._put({one: value}, deadline=self._deadline, timeout=timeout, complete=complete)
                answers.append(None)
            except Exception as error:
                if throw:
                    raise
                answers.append(error)
        return answers[0] if isinstance(name, str) else answers

    def monitor(
        self,
        name: str,
        cb: Callable[[Any], None],
        request: object = None,
        notify_disconnect: bool = False,
        queue: object = None,
    ) -> Subscription:
        """Call back with every value; with ``notify_disconnect``, with an exception when it is gone."""

        def deliver(update: Update) -> None:
            if isinstance(update, Reading):
                cb(annotated(update))
            elif notify_disconnect:
                cb(update)

        return self._reader.monitor(name, deliver)
