"""Monitors over K2EG that can be trusted: the current value first, updates in order, and the last one never lost.

The gateway alone gives none of that (protocol notes, sections 5 and 12): it answers "activated" for a PV that nobody
serves, says nothing when a PV goes away, may leave the last value of a burst out, and ends a monitor without a word.
So each PV that has been quiet for a moment is asked for once more: the command repeated makes the gateway publish the
present value afresh, on the very way that updates take. What then does not come is news too. Imports link and below.

Which thread does what::

    "k2eg replies"    the link's: finds the PV of an event, drops what is no news, appends to queues
    "k2eg monitors"   calls the callbacks, one after another
    "k2eg upkeep"     listens to topics, sends commands, notices silence
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..core import clock, fork
from ..core.deadline import Deadline
from ..core.errors import ControlError, KafkaError, OperationError, OperationTimeout, PvError, PvNotConnected
from .codec import Message, MonitorEvent, MultiMonitor, PvUri, Reply, monitor_share, monitor_topic
from .link import Link
from .tickets import Ticket

logger = logging.getLogger(__name__)

#: What a monitor hands over: the PV's tree and the bytes that it came in, or why there is none.
Event = tuple[Mapping[str, Any], bytes] | PvError

# Seconds after the last update until the present value is asked for, once; then again and again at the longer pause.
# That is below any expiry of monitors at a gateway that is worth having.
_QUIET, _REFRESH = 1.0, 4.0
# So long a PV may take to be published after the gateway has taken the command; and so long that may take, for the
# gateway makes the topics first.
_PATIENCE, _REPLY_PATIENCE = 3.0, 10.0
# Between two tries to reach broker or gateway.
_RETRY = 0.5
# For one command.
_MOST = 200
_STARTING = -2
_JOIN = 5.0


class Subscription:
    """One use of a PV's monitor."""

    def __init__(self, monitors: Monitors, pv: str, callback: Callable[[Event], None], depth: int) -> None:
        """Remember whom to tell."""
        self.pv = pv
        self.closed = False
        self._monitors = monitors
        self._callback = callback
        self._waiting: deque[Event] = deque(maxlen=max(1, depth))
        # Held while calling back, so that ``close`` can wait for that; reentrant, for a callback may close.
        self._calling = threading.RLock()

    def append(self, event: Event) -> bool:
        """Keep an event for the callback; False when an older one had to go for it."""
        full = len(self._waiting) == self._waiting.maxlen
        self._waiting.append(event)
        return not full

    def deliver(self) -> None:
        """Hand over all that waits ("k2eg monitors")."""
        with self._calling:
            while self._waiting and not self.closed:
                try:
                    self._callback(self._waiting.popleft())
                except Exception:  # a callback is not ours; its fault must not end the other monitors
                    logger.exception("the callback for updates of %s failed", self.pv)

    def close(self) -> None:
        """End it. Idempotent; no callback begins afterwards, and one that runs (in another thread) has ended."""
        self.closed = True
        self._monitors.drop(self)
        with self._calling:
            self._waiting.clear()


@dataclass(slots=True, eq=False)
class _Pv:
    """One PV that is monitored, and how far that has come."""

    uri: PvUri
    topic: str
    subscriptions: list[Subscription] = field(default_factory=list)
    last: Event | None = None
    #: When it is to be asked for (again).
    due: float = 0.0
    #: It was asked for, and an event is waited for until then; 0.0: it was not, or there was one.
    event_by: float = 0.0
    #: How often that was in vain.
    silences: int = 0
    #: The gateway has taken the command once.
    accepted: bool = False


class Monitors:
    """The monitored PVs of a client. Starts its threads with the first of them."""

    def __init__(self, link: Link) -> None:
        """Watch nothing yet."""
        self._link = link
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        # Held for an instant only.
        self.changed = threading.Condition(threading.RLock())
        self._pvs: dict[str, _Pv] = {}
        self._topics: set[str] = set()
        # A ticket with a reply, or None: look what is due.
        self._news: queue.SimpleQueue[Any] = clock.simple_queue()
        self._asked: dict[Ticket, list[_Pv]] = {}
        self._ready: queue.SimpleQueue[Subscription | None] = clock.simple_queue()
        self._threads: list[threading.Thread] = []
        #: When the upkeep looks again.
        self._awake_at = 0.0
        self._closed = False

    # -- for the client -------------------------------------------------------------------------------------------

    def add(
        self, uris: Collection[PvUri], callback: Callable[[str, Event], None], depth: int = 16
    ) -> list[Subscription]:
        """Begin to watch PVs; waits for nothing."""
        added = []
        with self.changed:
            if self._closed:
                raise KafkaError("the K2EG client is closed")
            for uri in uris:
                pv = self._pvs.get(uri.name)
                if pv is None:
                    pv = self._pvs[uri.name] = _Pv(uri, monitor_topic(uri.name))
                subscription = Subscription(self, uri.name, partial(callback, uri.name), depth)
                pv.subscriptions.append(subscription)
                if pv.last is not None:
                    subscription.append(pv.last)
                    self._ready.put(subscription)
                added.append(subscription)
            if not self._threads:
                self._start()
        self._news.put(None)
        return added

    def wait(self, uris: Collection[PvUri], deadline: Deadline, *, for_value: bool = True) -> None:
        """Wait until all have a first value, or the gateway has taken the command.

        :raises OperationTimeout: naming those that have none, and who is to blame.
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
        waited = f"monitor of {names}: no value within {deadline.seconds:g} s"
        if trouble := self._link.trouble:
            raise OperationTimeout(f"{waited}; {trouble}", "broker")
        if not taken:
            raise OperationTimeout(f"{waited}: {self._link.nobody}", "gateway")
        raise OperationTimeout(f"{waited}: nobody serves it", "pv")

    def stop(self, name: str) -> None:
        """Close every subscription of a PV; one without is fine too."""
        with self.changed:
            pv = self._pvs.get(name)
            subscriptions = list(pv.subscriptions) if pv is not None else []
        for subscription in subscriptions:
            subscription.close()

    def drop(self, subscription: Subscription) -> None:
        """Forget a subscription that was closed. The gateway goes on publishing: there is no command to stop it."""
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
            threads, self._threads = self._threads, []
        for subscription in subscriptions:
            subscription.close()
        self._ready.put(None)
        self._news.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN)

    def before_fork(self) -> None:
        """Hold nothing up: the reader's thread may be in here, and all that a child inherits is forgotten there."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Begin anew: subscriptions and threads are the parent's."""
        closed = self._closed
        for pv in self._pvs.values():
            for subscription in pv.subscriptions:
                subscription.closed = True
                subscription._calling = threading.RLock()  # noqa: SLF001 - one module
        self._begin()
        self._closed = closed

    # -- what comes in ("k2eg replies") -----------------------------------------------------------------------------

    def _heard(self, message: Message, raw: bytes) -> None:
        if not isinstance(message, MonitorEvent):
            return
        with self.changed:
            pv = self._pvs.get(message.pv)
            if pv is None:  # somebody else's, on a topic that two PVs share
                return
            now = clock.monotonic()
            # By its bytes: trees with a NaN in them are never equal.
            is_news = not isinstance(pv.last, tuple) or pv.last[1] != raw
            # What is doubled unasked, by a gateway or for another client, is no reason to ask sooner or later.
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
            if not subscription.append(event):
                self._link.counters.lost += 1
            self._ready.put(subscription)
        self.changed.notify_all()

    def _deliver(self) -> None:
        while (subscription := self._ready.get()) is not None:
            subscription.deliver()

    # -- upkeep ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for target, name in ((self._deliver, "k2eg monitors"), (self._upkeep, "k2eg upkeep")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

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
                    logger.warning("monitors are held up: %s", said := str(error))
                again_at = clock.monotonic() + _RETRY
            except Exception:  # the thread of all monitors must not end for one that fails
                logger.exception("the upkeep of monitors failed")
                again_at = clock.monotonic() + _RETRY
            with self.changed:
                dues = (pv.event_by or pv.due for pv in self._pvs.values())
                self._awake_at = min(dues, default=math.inf) if again_at is None else again_at
            pause = min(self._awake_at - clock.monotonic(), _REFRESH)

    def _take_replies(self, pause: float) -> None:
        """Wait for so long at most, and take the replies that come in."""
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
        """See to those that were asked for in vain: their topic may be gone, or the PV, or the gateway."""
        now = clock.monotonic()
        with self.changed:
            silent = [pv for pv in self._pvs.values() if pv.event_by and pv.event_by <= now]
            for pv in silent:
                pv.silences += 1
                pv.event_by, pv.due = 0.0, 0.0 if pv.silences == 1 else now + _REFRESH
                # Once it may have been the topic; then it is the PV, or the way to it.
                if pv.silences == 2:
                    self._tell_gone(pv)
            # One that others are heard on is there.
            gone = {pv.topic for pv in silent} - {pv.topic for pv in self._pvs.values() if pv not in silent}
            self._topics -= gone
        self._link.leave(gone)
        for ticket in [ticket for ticket in self._asked if ticket.sent_at <= now - _REPLY_PATIENCE]:
            del self._asked[ticket]
            self._link.give_up(ticket)

    def _ask_for(self, pvs: Sequence[_Pv]) -> None:
        """Listen first, then send the command: the first event must not be missed."""
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
                # The gateway has made them with this command: whatever is in them is for us.
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
    """Divide PVs into those of one command, for which one gateway of several is responsible."""
    shares: dict[str, list[_Pv]] = {}
    for pv in pvs:
        shares.setdefault(monitor_share(pv.uri.text), []).append(pv)
    for share in shares.values():
        yield from (share[first : first + _MOST] for first in range(0, len(share), _MOST))


def _is_gone(tree: Mapping[str, Any]) -> bool:
    """Whether a gateway says that the PV's server is gone. Ours does; the real one says nothing."""
    alarm = tree.get("alarm")
    return isinstance(alarm, Mapping) and (alarm.get("severity"), alarm.get("message")) == (3, "disconnected")
