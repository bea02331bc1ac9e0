"""A one-shot snapshot on its way: values of one instant, what is missing read afterwards. Imports link and below."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..core import clock
from ..core.deadline import Deadline
from ..core.errors import ControlError, OperationError, PvNotConnected
from ..kafka import Delivery
from .codec import PvUri, Reply, Snapshot, SnapshotDone, ValueReply
from .gets_and_puts import Calls
from .link import Link
from .snapshots import OneShot

# The gateway gathers for the whole window, and then sends; so much later the completion is not to be expected any more.
_MARGIN = 2.0
_LONGEST_WINDOW = 3600.0


def take_snapshot(
    calls: Calls, link: Link, uris: Sequence[PvUri], window: float, deadline: Deadline, *, complete: bool
) -> OneShot:
    """Take the values of one instant.

    :param window: seconds.
    :raises ValueError: for a window that is none.
    :raises OperationTimeout: when the gateway does not answer at all; also when there is no time for the window.
    """
    if not 0.0 < window <= _LONGEST_WINDOW:
        raise ValueError(f"the window of a snapshot is a number of seconds above 0, not {window!r}")
    if not uris:
        return OneShot({})
    link.open(deadline)
    values, complaints = _gather(calls, link, uris, window, deadline)
    missing = [uri for uri in uris if uri.text not in values]
    errors: dict[str, ControlError] = {}
    read: set[str] = set()
    if missing and complete:
        # One that is monitored already is left out by the real gateway, and so is one without an update.
        for text, answer in calls.get_many([uri.text for uri in missing], deadline).items():
            if isinstance(answer, ControlError):
                errors[text] = answer
            else:
                values[text] = answer
                read.add(text)
    elif missing:
        errors = {uri.text: PvNotConnected(uri.text, f"no value within the window of {window:g} s") for uri in missing}
    ordered = {uri.text: values[uri.text] for uri in uris if uri.text in values}
    return OneShot(ordered, errors, frozenset(read), tuple(complaints))


def in_background(take: Callable[[], OneShot], handler: Callable[[OneShot | ControlError], None]) -> None:
    """Take a snapshot in a thread of its own, and hand over its result or its error."""

    def run() -> None:
        try:
            result: OneShot | ControlError = take()
        except ControlError as error:
            result = error
        handler(result)

    threading.Thread(target=run, name="k2eg snapshot", daemon=True).start()


def _gather(
    calls: Calls, link: Link, uris: Sequence[PvUri], window: float, deadline: Deadline
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """Collect what the gateway sends until it says that this was all."""
    news: queue.SimpleQueue[Any] = clock.simple_queue()
    texts = tuple(dict.fromkeys(uri.text for uri in uris))
    make = partial(Snapshot, pv_name_list=texts, time_window_msec=max(1, round(window * 1000)))
    wanted: dict[str, list[str]] = {}
    for uri in uris:
        wanted.setdefault(uri.name, []).append(uri.text)
    values: dict[str, Mapping[str, Any]] = {}
    complaints: list[str] = []
    patience = deadline.child(window + _MARGIN)
    remove = deadline.on_cancel(lambda: news.put(None))
    ticket = link.send(make, f"snapshot of {len(texts)} PVs", news)
    finished = False
    try:
        while not finished:
            try:
                got = news.get(timeout=patience.remaining() + 1e-3)
            except queue.Empty:
                break
            deadline.check("snapshot")
            if got is None:
                continue
            _, message, raw = got
            if isinstance(message, SnapshotDone):
                finished = True
            elif isinstance(message, ValueReply):
                calls.types.learn(message.pv, message.tree, raw)
                for text in wanted.get(message.pv, ()):
                    values[text] = message.tree
            elif isinstance(message, Delivery):
                if not message.sent:
                    break
            elif isinstance(message, Reply) and message.error < 0:
                if message.message is None:
                    raise OperationError(message.error, "", ticket.what)
                complaints.append(message.message)
    finally:
        remove()
        link.done(ticket) if finished else link.give_up(ticket, timed_out=not deadline.cancelled)
    if not finished and not values:
        raise link.silence(ticket, patience.seconds)
    return values, complaints
