"""One-shot snapshots of a gateway: the first value of each PV within a window, then the completion."""

from __future__ import annotations

import threading

from ..control import Reader
from ..core.backend import Subscription, Update
from ..core.errors import ControlError
from ..core.model import Reading
from ..k2eg.codec import PvUri, Reply, Snapshot, SnapshotDone, ValueReply, parse_uri
from .publisher import Publisher
from .pv_access import watch
from .scheduler import Scheduler


def take(reader: Reader, publisher: Publisher, scheduler: Scheduler, command: Snapshot) -> None:
    """Publish a value of each PV, and after the whole window the completion."""
    uris: dict[str, PvUri] = {}
    for text in command.pv_name_list:
        if (uri := parse_uri(text)) is None:
            # A malformed name does not cost the values of the others.
            publisher.reply(command, Reply(command.reply_id, -1, f"PV '{text}'name malformed"))
        else:
            uris.setdefault(uri.name, uri)
    shot = _OneShot(publisher, command)
    scheduler.call_later(max(0, command.time_window_msec) / 1000, shot.finish)
    try:
        shot.hold(watch(reader, uris, shot.tell))
    except ControlError as error:
        publisher.reply(command, Reply(command.reply_id, -1, str(error)))


class _OneShot:
    """A one-shot snapshot, from its first value to its completion."""

    def __init__(self, publisher: Publisher, command: Snapshot) -> None:
        self._subscriptions: list[Subscription] = []
        self._publisher = publisher
        self._command = command
        self._seen: set[str] = set()
        # Held while sending, so that nothing follows the completion.
        self._lock = threading.Lock()
        self._over = False

    def hold(self, subscriptions: list[Subscription]) -> None:
        """Keep the subscriptions until the completion, which may have come already."""
        self._subscriptions = subscriptions
        if self._over:
            self._release()

    def tell(self, name: str, update: Update) -> None:
        """Publish the first value of a PV (threads of the backends)."""
        if not isinstance(update, Reading):
            return
        with self._lock:
            if self._over or name in self._seen:
                return
            self._seen.add(name)
            self._publisher.reply(self._command, ValueReply(self._command.reply_id, name, update.tree))

    def finish(self) -> None:
        """Publish the completion (scheduler)."""
        with self._lock:
            self._over = True
            self._publisher.reply(self._command, SnapshotDone(self._command.reply_id))
        self._release()

    def _release(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
