"""A backend over any object with ``get`` and ``put`` like p4p's thread ``Context``; nothing else of it is used.

It supports the habit of testing an environment with a mocked context, and a facility's own wrapper of a context. There
is no metadata unless the values carry it, and monitors poll. Imports no client library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..core import clock
from ..core.backend import Subscription, Update
from ..core.deadline import Deadline
from ..core.errors import PvError, PvNotConnected, PvRefused
from ..core.model import Fields, Kind, Outcome, PutAnswer, PvAddress, PvType, Reading, Severity
from .normative_types import pv_type, reading_from_tree

# Seconds between two reads, and for one of them.
_POLL, _PATIENCE = 0.1, 3.0


class ContextBackend:
    """PVs through a context of the caller.

    :param context: has ``get(name_or_names, timeout=, throw=)`` and ``put(name, value, timeout=)``. A put that is
        refused raises PermissionError or p4p's RemoteError; after any other error its outcome is unknown. A returned
        error (as with p4p's ``throw=False``) counts as raised; any other result of a put means that it was done.
    """

    def __init__(self, context: Any) -> None:
        """Keep the context, which its owner closes."""
        self.context = context

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs in one call of the context, or one by one if it does not support that."""
        timeout = _seconds(deadline)
        if len(addresses) > 1:
            try:
                values = self.context.get([a.name for a in addresses], timeout=timeout, throw=False)
            except Exception:  # a mock may support single names only
                values = None
            if isinstance(values, list | tuple) and len(values) == len(addresses):
                return {a: _update(a, v) for a, v in zip(addresses, values, strict=True)}
        return {address: self._get(address, _seconds(deadline)) for address in addresses}

    def _get(self, address: PvAddress, timeout: float | None) -> Update:
        try:
            return _update(address, self.context.get(address.name, timeout=timeout))
        except Exception as error:  # whatever a foreign context raises is about this PV
            return _unread(address, error)

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write PVs one by one: a batch call of p4p blames every PV for one that is dead."""
        answers = {}
        for address, value in values.items():
            if deadline.expired:
                words = "cancelled" if deadline.cancelled else "the time was up before its turn came"
                answers[address] = PutAnswer(Outcome.NOT_SENT, words)
                continue
            options: dict[str, Any] = {"wait": True} if address in wait else {}
            plain_value = dict(value) if isinstance(value, Fields) else value
            try:
                failure = _returned(self.context.put(address.name, plain_value, timeout=_seconds(deadline), **options))
            except Exception as error:  # whatever a foreign context raises is about this PV
                failure = error
            answers[address] = PutAnswer(Outcome.APPLIED) if failure is None else _unwritten(failure)
        return answers

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs: a context has nothing closer to one instant."""
        return self.get_many(addresses, deadline)

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Poll: a mocked ``monitor`` would report nothing."""
        return _Poll(lambda: self.get_many([address], Deadline(_PATIENCE))[address], callback, f"poll {address}")

    def suspend(self) -> None:
        """Do nothing: the context belongs to its owner."""

    def close(self) -> None:
        """Do nothing: the context belongs to its owner."""


class _Poll:
    """Reads a PV ten times a second, in a thread of its own, until closed."""

    def __init__(self, read: Callable[[], Update], callback: Callable[[Update], None], name: str) -> None:
        self._stop = clock.event()
        self._thread = threading.Thread(target=self._run, args=(read, callback), name=name, daemon=True)
        self._thread.start()

    def _run(self, read: Callable[[], Update], callback: Callable[[Update], None]) -> None:
        while not self._stop.is_set():
            callback(read())
            self._stop.wait(_POLL)

    def close(self) -> None:
        """Stop polling."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()


def _seconds(deadline: Deadline) -> float | None:
    """Return the seconds left in the form of a context: None for ever."""
    left = deadline.remaining()
    return None if left == float("inf") else left


def _returned(answer: Any) -> BaseException | None:
    """Return the exception that was returned in place of an answer, alone or in a list, if there is one."""
    parts = answer if isinstance(answer, list | tuple) else [answer]
    return next((part for part in parts if isinstance(part, BaseException)), None)


def _is_p4ps(error: BaseException, name: str) -> bool:
    """Whether it is p4p's error of this name, or a facility's namesake of it; p4p is not imported here."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _unwritten(error: BaseException) -> PutAnswer:
    """Return the outcome of a failed put: unless it is a refusal, the put may have been sent before the error."""
    words = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return PutAnswer(Outcome.UNKNOWN, f"timed out; it may have happened ({error})")
    if _is_p4ps(error, "RemoteError") or isinstance(error, PermissionError):
        return PutAnswer(Outcome.REFUSED, words)
    return PutAnswer(Outcome.UNKNOWN, f"{type(error).__name__}: {words}; it may have been sent, and may have happened")


def _unread(address: PvAddress, error: BaseException) -> PvError:
    """Translate the error of a get."""
    words = str(error)
    if isinstance(error, TimeoutError):
        return PvNotConnected(address.text, words if words not in ("", address.name) else "no answer in time")
    if _is_p4ps(error, "Disconnected"):
        return PvNotConnected(address.text, words or "disconnected")
    return PvRefused(address.text, words or type(error).__name__)


def _update(address: PvAddress, value: Any) -> Update:
    """Translate a result of a context: an error, a number, a p4p value with its structure, or any value of a mock."""
    if (error := _returned(value)) is not None:
        return _unread(address, error)
    structure = getattr(value, "raw", value)
    if type(structure).__module__.startswith("p4p") and hasattr(structure, "getID"):
        of_type = pv_type(structure.type().aspy("value"), structure.getID())
        return reading_from_tree(structure.todict(None, dict), of_type)
    if hasattr(value, "raw") and not isinstance(value, str | int | float | np.ndarray):
        # The shape of p4p's wrappers, which unit tests imitate: ``.raw.value``.
        value = getattr(structure, "value", value)
    severity = getattr(value, "severity", None)
    known = isinstance(severity, int) and 0 <= severity < 4
    return Reading(
        value=value,
        type=PvType(Kind.UNKNOWN, array=isinstance(value, np.ndarray | list | tuple)),
        severity=Severity(severity or 0) if known else Severity.NO_ALARM,
    )
