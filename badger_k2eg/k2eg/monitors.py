"""Reliable monitors over K2EG: the current value first, updates in order, and the last one never lost.

The gateway alone guarantees none of this: it answers "activated" for a PV that nobody serves, reports no disconnect,
may omit the last value of a burst, and ends a monitor silently. So the command is repeated for each PV that has been
quiet for a moment: the gateway then publishes the present value again, on the same topic as the updates. If nothing
comes, that is news too. Imports requests and the modules below.

Threads::

    "k2eg replies"    the link's: finds the PV of an event, drops repetitions, fills mailboxes
    "k2eg monitors"   calls the callbacks, one after another
    "k2eg upkeep"     listens to topics, sends commands, notices silence
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..core import clock, fork
from ..core.deadline import Deadline
from ..core.errors import ControlError, KafkaError, OperationError, OperationTimeout, PvError, PvNotConnected
from ..core.mailbox import Dispatcher, Mailbox
from .codec import Message, MonitorEvent, MultiMonitor, PvUri, Reply, monitor_share, monitor_topic
from .requests import Link, Ticket

logger = logging.getLogger(__name__)

#: An update: the PV's tree with the bytes of its record, or why there is no value.
Event = tuple[Mapping[str, Any], bytes] | PvError

# Seconds after the last update until the present value is requested; then again at the longer period, which is below
# any sensible expiry of monitors at a gateway.
_QUIET, _REFRESH = 1.0, 4.0
# Seconds for a PV to be published after the gateway's reply, and for that reply: the gateway creates the topics first.
_PATIENCE, _REPLY_PATIENCE = 3.0, 10.0
# Seconds between two attempts to reach broker or gateway.
_RETRY = 0.5
# PVs of one command.
_MOST = 200
_STARTING = -2
_JOIN = 5.0


class K2egSubscription(Mailbox[Event]):
    """One subscription to a PV's monitor.

    :ivar pv: the PV's name.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        pv: str,
        callback: Callable[[Event], None],
        depth: int,
        on_close: Callable[[K2egSubscription], None],
    ) -> None:
        """Begin without a value."""
        super().__init__(dispatcher, callback, depth, pv, on_close)
        self.pv = pv


@dataclass(slots=True, eq=False)
class _Pv:
    """A monitored PV and its state."""

    uri: PvUri
    topic: str
    subscriptions: list[K2egSubscription] = field(default_factory=list)
    last: Event | None = None
    #: When its value is to be requested (again).
    due: float = 0.0
    #: When an event is overdue after a request; 0.0 when none is expected.
    event_by: float = 0.0
    #: How many requests in a row had no event.
    silences: int = 0
    #: Whether the gateway has accepted the command once.
    accepted: bool = False


class Monitors:
    """The monitored PVs of a client. Its threads start with the first one."""

    def __init__(self, link: Link) -> None:
        """Monitor nothing yet."""
        self._link = link
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        # Held for an instant only.
        self.changed = threading.Condition(threading.RLock())
        self._pvs: dict[str, _Pv] = {}
        self._topics: set[str] = set()
        # A ticket with a reply, or None to look for what is due.
        self._news: queue.SimpleQueue[Any] = clock.simple_queue()
        self._asked: dict[Ticket, list[_Pv]] = {}
        self._dispatcher = Dispatcher("k2eg monitors")
        self._upkeeper: threading.Thread | None = None
        #: When the upkeep looks again.
        self._awake_at = 0.0
        self._closed = False

    # -- for the client -------------------------------------------------------------------------------------------

    def add(
        self, uris: Collection[PvUri], callback: Callable[[str, Event], None], depth: int = 16
    ) -> list[K2egSubscription]:
        """Subscribe to PVs without waiting for a value."""
        added = []
        with self.changed:
            if self._closed:
                raise KafkaError("the K2EG client is closed")
            for uri in uris:
                pv = self._pvs.get(uri.name)
                if pv is None:
                    pv = self._pvs[uri.name] = _Pv(uri, monitor_topic(uri.name))
                subscription = K2egSubscription(
                    self._dispatcher, uri.name, partial(callback, uri.name), depth, self._drop
                )
                pv.subscriptions.append(subscription)
                if pv.last is not None:
                    subscription.put(pv.last)
                added.append(subscription)
            if self._upkeeper is None:
                self._start()
        self._news.put(None)
        return added

    def wait(self, uris: Collection[PvUri], deadline: Deadline, *, for_value: bool = True) -> None:
        """Wait until every PV has its first value, or the gateway has accepted its command.

        :raises OperationTimeout: naming the PVs without a value, and what is to blame.
        """
        known = [self._pvs[uri.name] for uri in uris]

        def there() -> bool:
            return all(isinstance(pv.last, tuple) if for_value else pv.accepted for pv in known)

        with self.changed:
            if deadline.wait(self.changed, there, what="starting a monitor"):
                return
            late = [pv for pv in known if not isinstance(pv.last, tuple)]
            names = ", ".join(pv.uri.text for pv in late[:3]) + (f" and {len(late) - 3} more" if late[3:] else "")
            taken = all(pv.accepted for pv in late)
        waited, what = f"no value within {deadline.seconds:g} s", f"monitor of {names}"
        if trouble := self._link.trouble:
            raise OperationTimeout(f"{waited}; {trouble}", "broker", what=what)
        if not taken:
            raise OperationTimeout(f"{waited}: {self._link.no_gateway}", "gateway", what=what)
        raise OperationTimeout(f"{waited}: nobody serves it", "pv", what=what)

    def stop(self, name: str) -> None:
        """Close every subscription to a PV, if there are any."""
        with self.changed:
            pv = self._pvs.get(name)
            subscriptions = list(pv.subscriptions) if pv is not None else []
        for subscription in subscriptions:
            subscription.close()

    def _drop(self, subscription: K2egSubscription) -> None:
        """Forget a closed subscription. The gateway goes on publishing: there is no command to stop it."""
        with self.changed:
            pv = self._pvs.get(subscription.pv)
            if pv is None or subscription not in pv.subscriptions:
                return
            pv.subscriptions.remove(subscription)
            if not pv.subscriptions:
                del self._pvs[subscription.pv]
        self._news.put(None)

    def close(self) -> None:
        """End every subscription and the threads. Idempotent."""
        fork.unregister(self)
        with self.changed:
            self._closed = True
            subscriptions = [s for pv in self._pvs.values() for s in pv.subscriptions]
            upkeeper, self._upkeeper = self._upkeeper, None
        for subscription in subscriptions:
            subscription.close()
        self._news.put(None)
        self._dispatcher.close(_JOIN)
        if upkeeper is not None and upkeeper is not threading.current_thread():
            upkeeper.join(_JOIN)

    def before_fork(self) -> None:
        """Do nothing: the reader's thread may hold the lock, and a child discards the state that it inherits."""

    def after_fork_in_parent(self) -> None:
        """Do nothing: the monitors are still running."""

    def after_fork_in_child(self) -> None:
        """Start over: subscriptions and threads are the parent's."""
        closed = self._closed
        for pv in self._pvs.values():
            for subscription in pv.subscriptions:
                subscription.forget()
        self._begin()
        self._closed = closed

    # -- incoming events ("k2eg replies") ----------------------------------------------------------------------------

    def _heard(self, message: Message, raw: bytes) -> None:
        if not isinstance(message, MonitorEvent):
            return
        with self.changed:
            pv = self._pvs.get(message.pv)
            if pv is None:  # not monitored here: two PVs can share a topic
                return
            now = clock.monotonic()
            # Compared by bytes: trees that contain NaN are never equal.
            is_news = not isinstance(pv.last, tuple) or pv.last[1] != raw
            # A repetition that was not requested, as for another client, does not change when to ask.
            if is_news:
                pv.due = now + _QUIET
            elif pv.event_by:
                pv.due = now + _REFRESH
            pv.event_by, pv.silences = 0.0, 0
            if pv.due < self._awake_at:
                self._awake_at = pv.due
                self._news.put(None)
            if _is_gone(message.tree):
                self._tell_gone(pv)
            elif is_news:
                self._tell(pv, (message.tree, raw))

    def _tell_gone(self, pv: _Pv) -> None:
        if not isinstance(pv.last, PvError):
            self._tell(pv, PvNotConnected(pv.uri.text, "disconnected: the gateway has no value of it"))

    def _tell(self, pv: _Pv, event: Event) -> None:
        pv.last = event
        for subscription in pv.subscriptions:
            if not subscription.put(event):
                self._link.counters.lost += 1
        self.changed.notify_all()

    # -- upkeep ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._dispatcher.start()
        self._upkeeper = threading.Thread(target=self._upkeep, name="k2eg upkeep", daemon=True)
        self._upkeeper.start()

    def _upkeep(self) -> None:
        pause, again_at, said = 0.0, None, ""
        while not self._closed:
            try:
                self._take_replies(pause)
                self._leave_unused()
                self._notice_silence()
                self._ask_for(self._due())
                again_at, said = None, ""
            except ControlError as error:
                if str(error) != said:
                    logger.warning("monitors cannot be maintained at present: %s", said := str(error))
                again_at = clock.monotonic() + _RETRY
            except Exception:  # one failure must not end the upkeep of all monitors
                logger.exception("the upkeep of monitors failed")
                again_at = clock.monotonic() + _RETRY
            with self.changed:
                dues = (pv.event_by or pv.due for pv in self._pvs.values())
                self._awake_at = min(dues, default=math.inf) if again_at is None else again_at
            pause = min(self._awake_at - clock.monotonic(), _REFRESH)

    def _take_replies(self, pause: float) -> None:
        """Wait at most ``pause`` seconds, and handle the replies that have come."""
        try:
            got = self._news.get(timeout=max(0.0, pause))
            while True:
                if got is not None:
                    self._replied(*got)
                got = self._news.get_nowait()
        except queue.Empty:
            return

    def _leave_unused(self) -> None:
        with self.changed:
            unused = self._topics - {pv.topic for pv in self._pvs.values()}
            self._topics -= unused
        self._link.leave(unused)

    def _due(self) -> list[_Pv]:
        now = clock.monotonic()
        with self.changed:
            return [pv for pv in self._pvs.values() if not pv.event_by and pv.due <= now]

    def _notice_silence(self) -> None:
        """Handle PVs without an event after a request: the topic, the PV or the gateway may be gone."""
        now = clock.monotonic()
        with self.changed:
            silent = [pv for pv in self._pvs.values() if pv.event_by and pv.event_by <= now]
            for pv in silent:
                pv.silences += 1
                pv.event_by, pv.due = 0.0, 0.0 if pv.silences == 1 else now + _REFRESH
                # The first time the topic may be at fault; the second time the PV is, or the way to it.
                if pv.silences == 2:
                    self._tell_gone(pv)
            # A topic on which other PVs are heard exists.
            gone = {pv.topic for pv in silent} - {pv.topic for pv in self._pvs.values() if pv not in silent}
            self._topics -= gone
        self._link.leave(gone)
        for ticket in [ticket for ticket in self._asked if ticket.sent_at <= now - _REPLY_PATIENCE]:
            del self._asked[ticket]
            self._link.give_up(ticket)

    def _ask_for(self, pvs: Sequence[_Pv]) -> None:
        """Listen to the topics, then send the commands: the first event must not be missed."""
        if not pvs:
            return
        new = {pv.topic: self._heard for pv in pvs if pv.topic not in self._topics}
        missing = self._link.listen(new, Deadline(_PATIENCE)) if new else frozenset()
        self._topics |= new.keys() - missing
        for group in _groups(pvs):
            names = tuple(pv.uri.text for pv in group)
            what = f"monitor of {len(names)} PVs"
            ticket = self._link.send(partial(MultiMonitor, pv_name_list=names), what, self._news)
            with self.changed:
                self._asked[ticket] = list(group)
                for pv in group:
                    pv.event_by = clock.monotonic() + _REPLY_PATIENCE

    def _replied(self, ticket: Ticket, message: Any, raw: bytes) -> None:
        pvs = self._asked.pop(ticket, [])
        self._link.done(ticket)
        if isinstance(message, Reply) and message.error == 0:
            new = {pv.topic for pv in pvs} - self._topics
            if new:
                # The gateway has created them for this command, so their first event is the one requested.
                self._link.listen_to_new(new, Deadline(_REPLY_PATIENCE))
                self._topics |= new
            with self.changed:
                for pv in pvs:
                    pv.accepted = True
                    if pv.event_by:
                        pv.event_by = clock.monotonic() + _PATIENCE
                self.changed.notify_all()
            return
        if isinstance(message, Reply):
            level = logging.INFO if message.error == _STARTING else logging.WARNING
            logger.log(level, "%s", OperationError(message.error, message.message or "", ticket.what))
        with self.changed:
            for pv in pvs:
                pv.event_by, pv.due = 0.0, clock.monotonic() + _RETRY


def _groups(pvs: Sequence[_Pv]) -> Iterator[list[_Pv]]:
    """Divide PVs into the groups of one command each: those of a share, which one gateway of several handles."""
    shares: dict[str, list[_Pv]] = {}
    for pv in pvs:
        shares.setdefault(monitor_share(pv.uri.text), []).append(pv)
    for share in shares.values():
        yield from (share[first : first + _MOST] for first in range(0, len(share), _MOST))


def _is_gone(tree: Mapping[str, Any]) -> bool:
    """Whether the tree marks the PV as disconnected, as the development gateway does; slaclab/k2eg reports nothing."""
    alarm = tree.get("alarm")
    return isinstance(alarm, Mapping) and (alarm.get("severity"), alarm.get("message")) == (3, "disconnected")
