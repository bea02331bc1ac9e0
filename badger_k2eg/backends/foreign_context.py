"""Any object with ``get`` and ``put`` as p4p's thread ``Context`` has them, used through these two alone.

This keeps the habit working of testing an environment with a mocked context, and serves a facility's own wrapper of a
context. There is no metadata unless the values carry it, and no monitor: validators poll. Imports no client library.
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

_POLL = 0.1


class ContextBackend:
    """PVs through somebody else's context.

    :param context: has ``get(name_or_names, timeout=, throw=)`` and ``put(name, value, timeout=)``. Its put says no
        with a PermissionError or p4p's RemoteError; after any other error nobody knows. An error that it returns (as
        p4p's does with ``throw=False``) means what it means raised; whatever else a put returns, it is done.
    """

    def __init__(self, context: Any) -> None:
        """Keep the context; it is its owner's to close."""
        self.context = context

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read all in one call of the context, or one by one where it cannot."""
        timeout = _seconds(deadline)
        if len(addresses) > 1:
            try:
                values = self.context.get([a.name for a in addresses], timeout=timeout, throw=False)
            except Exception:  # a mock may know single names only: ask for each
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
        """Write one by one: a batch of p4p's blames every PV for one that is dead."""
        answers = {}
        for address, value in values.items():
            if deadline.expired:
                words = "cancelled" if deadline.cancelled else "the time was over before its turn came"
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
        """Read all: a context has nothing closer to one instant."""
        return self.get_many(addresses, deadline)

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Poll: of a mocked ``monitor`` nothing would come."""
        return _Poll(self, address, callback)

    def suspend(self) -> None:
        """Do nothing: the context is its owner's."""

    def close(self) -> None:
        """Do nothing: the context is its owner's."""


class _Poll:
    """Reads a PV ten times a second, in a thread of its own, until closed."""

    def __init__(self, backend: ContextBackend, address: PvAddress, callback: Callable[[Update], None]) -> None:
        self._stop = clock.event()
        self._thread = threading.Thread(
            target=self._run, args=(backend, address, callback), name=f"poll {address}", daemon=True
        )
        self._thread.start()

    def _run(self, backend: ContextBackend, address: PvAddress, callback: Callable[[Update], None]) -> None:
        while not self._stop.is_set():
            callback(backend.get_many([address], Deadline(3.0))[address])
            self._stop.wait(_POLL)

    def close(self) -> None:
        """Stop polling."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()


def _seconds(deadline: Deadline) -> float | None:
    """Give the seconds left as a context takes them: None for ever."""
    left = deadline.remaining()
    return None if left == float("inf") else left


def _returned(answer: Any) -> BaseException | None:
    """Find the exception that stands in the place of an answer, alone or in a list; None where it is none."""
    parts = answer if isinstance(answer, list | tuple) else [answer]
    return next((part for part in parts if isinstance(part, BaseException)), None)


def _is_p4ps(error: BaseException, name: str) -> bool:
    """Whether it is this error of p4p's, or of a facility's own made after it; by name, as p4p is not imported here."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _unwritten(error: BaseException) -> PutAnswer:
    """Tell a no from all else: an error that comes out of a put does not say whether the put was sent before it."""
    words = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return PutAnswer(Outcome.UNKNOWN, f"timed out; it may have happened ({error})")
    if _is_p4ps(error, "RemoteError") or isinstance(error, PermissionError):
        return PutAnswer(Outcome.REFUSED, words)
    return PutAnswer(Outcome.UNKNOWN, f"{type(error).__name__}: {words}; it may have been sent, and may have happened")


def _unread(address: PvAddress, error: BaseException) -> PvError:
    """Say why there is no reading."""
    words = str(error)
    if isinstance(error, TimeoutError):
        return PvNotConnected(address.text, words if words not in ("", address.name) else "no answer in time")
    if _is_p4ps(error, "Disconnected"):
        return PvNotConnected(address.text, words or "disconnected")
    return PvRefused(address.text, words or type(error).__name__)


def _update(address: PvAddress, value: Any) -> Update:
    """Take what a context gave: an error, a number, a p4p value with its structure, or anything a mock says."""
    if (error := _returned(value)) is not None:
        return _unread(address, error)
    structure = getattr(value, "raw", value)
    if type(structure).__module__.startswith("p4p") and hasattr(structure, "getID"):
        of_type = pv_type(structure.type().aspy("value"), structure.getID())
        return reading_from_tree(structure.todict(None, dict), of_type)
    if hasattr(value, "raw") and not isinstance(value, str | int | float | np.ndarray):
        # The shape of p4p's wrappers, as unit tests imitate it: ``.raw.value``.
        value = getattr(structure, "value", value)
    severity = getattr(value, "severity", None)
    known = isinstance(severity, int) and 0 <= severity < 4
    return Reading(
        value=value,
        type=PvType(Kind.UNKNOWN, array=isinstance(value, np.ndarray | list | tuple)),
        severity=Severity(severity or 0) if known else Severity.NO_ALARM,
    )
