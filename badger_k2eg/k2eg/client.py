"""``K2egClient``: PVs through a K2EG gateway, for anybody; it needs no Badger.

Owns the public calls. What the real gateway does wrong in silence (protocol notes, section 12) stops here: an enum is
put by its index, shapes and types are looked at before anything is sent, a monitor without a value is an error, what
is missing from a snapshot is read and marked. Imports its room, kafka and what lies below.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from ..core import clock, fork
from ..core.deadline import Deadline
from ..core.errors import CallCancelled, ControlError, OperationError, OperationTimeout, PvError
from .codec import RepeatingSnapshot, Reply, SnapshotStop, SnapshotTrigger, check_uri, snapshot_topic
from .environment import K2egEnvironment, load_environment
from .gets_and_puts import Calls
from .link import Link, MakeCommand
from .monitors import Event, Monitors, Subscription
from .oneshot import in_background, take_snapshot
from .pv_types import TypeBook
from .snapshots import Iteration, OneShot, Recurring, SnapshotProperties
from .tickets import Counters

#: Seconds: above the 10 that a gateway itself waits for a PV, so that its own answer is heard.
TIMEOUT = 12.0
_PROBE = 0.5
# Updates of a PV that are kept for a slow handler.
_DEPTH = 1000

Timeout = float | Deadline | None


class K2egClient:
    """A client of the K2EG gateways of one environment. Opens at its first use; safe to use from many threads.

    Every call takes ``timeout``, in seconds (-1 waits for ever), and ends with it. A child forked from the process may
    go on using it: it connects anew there, and the parent's monitors stay the parent's.

    :param environment: the name of an ini file (see ``environment``), or an environment as it was read.
    :param app_name: replies come on the topic ``<app_name>-reply``, unless the environment names another.
    :param group_name: accepted for old programs, and not used: no consumer group delays the replies.
    :param folder: of the ini files.
    :param timeout: of calls that are given none.
    :param unique_reply_topic: have a reply topic of this process's own, which is deleted on close.
    :raises SettingsError: (a ValueError) naming the file, key or name that is missing or wrong.
    """

    def __init__(
        self,
        environment: str | K2egEnvironment,
        app_name: str,
        group_name: str | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        timeout: float = TIMEOUT,
        unique_reply_topic: bool = False,
    ) -> None:
        """Read the environment; open nothing yet."""
        if not isinstance(environment, K2egEnvironment):
            environment = load_environment(environment, folder)
        self.timeout = timeout
        self._link = Link(environment, app_name, unique_reply_topic=unique_reply_topic)
        self._monitors = Monitors(self._link)
        self._calls = Calls(self._link)
        self._recurring: dict[str, Recurring] = {}
        fork.register(self)

    def __repr__(self) -> str:
        return f"<K2egClient {self._link.app_name} on {self._link.environment.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counters(self) -> Counters:
        """What this client has seen since it was made."""
        return self._link.counters

    @property
    def types(self) -> TypeBook:
        """The types of the PVs, as far as their values have told them."""
        return self._calls.types

    @property
    def environment(self) -> K2egEnvironment:
        """Where its gateways are."""
        return self._link.environment

    @property
    def ahead(self) -> float:
        """Seconds that the time of the last record was ahead of this host's clock when it came; NaN before the first.

        The time is the broker's, or that of the gateway's host where the broker keeps it.
        """
        return self._link.ahead

    def open(self, timeout: Timeout = None) -> None:
        """Connect now; otherwise the first call does.

        :raises OperationTimeout: when no broker answers.
        :raises KafkaError: when the broker refuses us, or there is no reply topic and none can be made.
        """
        self._link.open(self._deadline(timeout))

    def wait_for_backends(self, timeout: Timeout = None) -> None:
        """Return as soon as the reply topic is read and a gateway answers.

        :raises OperationTimeout: saying which of the two does not.
        """
        deadline = self._deadline(timeout)
        self._link.open(deadline)
        # Known to no gateway, and so without any effect, but answered.
        probe = partial(SnapshotTrigger, snapshot_name=f"probe-{secrets.token_hex(8)}")
        while True:
            part = deadline.child(_PROBE)
            (answer,) = self._link.exchange({0: (probe, "question whether a gateway is there")}, part).values()
            if not isinstance(answer, Exception):
                return
            deadline.check("waiting for the gateway")
            if deadline.expired or not isinstance(answer, OperationTimeout):
                if isinstance(answer, OperationTimeout):
                    raise OperationTimeout(
                        f"waited {deadline.seconds:g} s for a gateway: {answer}", answer.culprit, sent=answer.sent
                    )
                raise answer
            clock.sleep(min(_PROBE, deadline.remaining()) if not answer.sent else 0.0)

    def close(self) -> None:
        """End monitors, snapshots and the connection. Idempotent."""
        fork.unregister(self)
        for recurring in list(self._recurring.values()):
            recurring.close()
        self._recurring.clear()
        self._monitors.close()
        self._link.close()

    # -- get --------------------------------------------------------------------------------------------------------

    def get(self, uri: str, timeout: Timeout = None) -> Mapping[str, Any]:
        """Read a PV.

        :returns: its whole structure as nested dicts; ``["value"]`` is its value.
        :raises PvNameError: (a ValueError) for a URI that K2EG cannot carry; nothing is sent.
        :raises OperationTimeout: without an answer; ``culprit`` is ``broker``, ``gateway`` or ``pv``.
        :raises OperationError: when the gateway or the PV's server refuses.
        """
        tree: Mapping[str, Any] = _or_raise(self.get_many([check_uri(uri).text], timeout)[uri])
        return tree

    def get_many(self, uris: Sequence[str], timeout: Timeout = None) -> dict[str, Mapping[str, Any] | ControlError]:
        """Read PVs, all at once.

        :returns: for each its tree, or the error that ``get`` would raise.
        """
        return self._calls.get_many(uris, self._deadline(timeout))

    # -- put --------------------------------------------------------------------------------------------------------

    def put(self, uri: str, value: Any, timeout: Timeout = None) -> None:
        """Write a PV, once.

        :param value: a number, text or list; of an enum the index or the label; of a table ``{column: values}``; or
            ``Fields`` for named fields of any structure. It is brought into the PV's own type without loss.
        :raises PvNameError: (a ValueError) for a URI that K2EG cannot carry; nothing is sent.
        :raises PvValueError: (a ValueError) for a value that does not fit; nothing is sent.
        :raises OperationTimeout: without an answer. Unless its ``sent`` is False, the put **may have happened, or may
            still happen**: a gateway that was down executes what has queued up.
        :raises OperationError: when the gateway or the PV's server refuses.
        """
        _or_raise(self.put_many({check_uri(uri).text: value}, timeout)[uri])

    def put_many(self, values: Mapping[str, Any], timeout: Timeout = None) -> dict[str, ControlError | None]:
        """Write PVs, all at once, each once. The order of their writes is not defined.

        :returns: for each None, or the error that ``put`` would raise.
        """
        return self._calls.put_many(values, self._deadline(timeout))

    # -- monitors ----------------------------------------------------------------------------------------------------

    def monitor(
        self, uri: str, handler: Callable[[str, Mapping[str, Any]], None], timeout: Timeout = None
    ) -> Subscription:
        """Call ``handler(pv_name, tree)`` with the current value and every update, in order, until stopped.

        It comes back by itself when its server, the gateway, its topic or the broker have been away. A value that was
        lost on the way is there within seconds of the last update.

        :raises PvNameError: (a ValueError) for a URI that K2EG cannot carry.
        :raises OperationTimeout: when no first value comes in time; then nothing is monitored.
        """
        return self.monitor_many([uri], handler, timeout)[0]

    def monitor_many(
        self, uris: Sequence[str], handler: Callable[[str, Mapping[str, Any]], None], timeout: Timeout = None
    ) -> list[Subscription]:
        """Monitor PVs, all with one handler; as ``monitor``.

        :raises OperationTimeout: when one of them has no first value in time; then none is monitored.
        """

        def told(pv: str, event: Event) -> None:
            if not isinstance(event, PvError):
                handler(pv, event[0])

        return self.start_monitors(uris, told, timeout)

    def start_monitors(
        self,
        uris: Sequence[str],
        callback: Callable[[str, Event], None],
        timeout: Timeout = None,
        *,
        wait: str = "value",
        depth: int = _DEPTH,
    ) -> list[Subscription]:
        """Monitor PVs and hear of disconnects too.

        :param callback: called with the PV's name and ``(tree, bytes)``, or a PvError when it is gone.
        :param wait: for the first ``value`` of each, for the gateway's ``reply``, or for ``nothing``.
        :param depth: so many updates are kept for a slow callback; the last one always.
        """
        checked = [check_uri(uri) for uri in uris]
        subscriptions = self._monitors.add(checked, callback, depth)
        if wait != "nothing":
            try:
                self._monitors.wait(checked, self._deadline(timeout), for_value=wait == "value")
            except BaseException:
                for subscription in subscriptions:
                    subscription.close()
                raise
        return subscriptions

    def stop_monitor(self, pv: str) -> None:
        """End every monitor of a PV in this client; one that is not monitored is fine too.

        :param pv: its URI or its bare name.
        """
        self._monitors.stop(pv.rpartition("://")[2])

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def snapshot_sync(
        self, uris: Sequence[str], timeout: Timeout = None, *, window: float = 1.0, complete: bool = True
    ) -> OneShot:
        """Take the values of one instant. The gateway always takes the whole window for it.

        :param window: seconds.
        :param complete: read those that had no event within the window; they are marked in the result.
        :raises PvNameError: (a ValueError) for a URI that K2EG cannot carry; nothing is sent.
        :raises OperationTimeout: when the gateway does not answer at all.
        """
        checked = [check_uri(uri) for uri in uris]
        return take_snapshot(self._calls, self._link, checked, window, self._deadline(timeout), complete=complete)

    def snapshot(
        self,
        uris: Sequence[str],
        handler: Callable[[OneShot | ControlError], None],
        timeout: Timeout = None,
        *,
        window: float = 1.0,
        complete: bool = True,
    ) -> None:
        """Take the values of one instant in the background.

        :param handler: called once, in a thread of its own, with the result or the error.
        :raises PvNameError: (a ValueError) for a URI that K2EG cannot carry; nothing is sent.
        """
        checked = [check_uri(uri) for uri in uris]
        deadline = self._deadline(timeout)
        take = partial(take_snapshot, self._calls, self._link, checked, window, deadline, complete=complete)
        in_background(take, handler)

    def snapshot_recurring(
        self, properties: SnapshotProperties, handler: Callable[[Iteration], None], timeout: Timeout = None
    ) -> Recurring:
        """Start a recurring snapshot, or join one of that name that is running already.

        :param handler: called with each iteration, in order, in a thread of its own.
        :raises ValueError: for properties that the gateway would misunderstand; nothing is sent.
        :raises OperationTimeout: when no gateway answers.
        :raises OperationError: when it refuses.
        """
        properties.check()
        uris = tuple(check_uri(uri).text for uri in properties.pv_uri_list)
        if not uris:
            raise ValueError("a recurring snapshot needs PVs (pv_uri_list)")
        deadline = self._deadline(timeout)
        topic = snapshot_topic(properties.snapshot_name)
        if (before := self._recurring.pop(topic, None)) is not None:
            before.close()
        recurring = Recurring(properties, topic, handler, self._link.leave)
        try:
            self._start_recurring(recurring, uris, deadline)
        except BaseException:
            recurring.close()
            raise
        self._recurring[topic] = recurring
        return recurring

    def _start_recurring(self, recurring: Recurring, uris: tuple[str, ...], deadline: Deadline) -> None:
        properties = recurring.properties
        # Listening first: the first header may come before the reply.
        missing = self._link.listen({recurring.topic: recurring.heard}, deadline)
        make = partial(
            RepeatingSnapshot,
            snapshot_name=properties.snapshot_name,
            pv_name_list=uris,
            time_window_msec=properties.time_window,
            repeat_delay_msec=properties.repeat_delay,
            sub_push_delay_msec=properties.sub_push_delay_msec,
            triggered=properties.triggered,
            type=properties.type,
            pv_field_filter_list=tuple(properties.pv_field_filter_list or ()),
        )
        reply = self._ask(make, f"start of snapshot {properties.snapshot_name}", deadline)
        recurring.joined = reply.publishing_topic is None
        self._link.listen_to_new(missing, deadline)

    def trigger(self, name: str, timeout: Timeout = None, *, tags: Mapping[str, str] | None = None) -> None:
        """Make a triggered snapshot publish an iteration. Count iterations, not triggers: quick ones make one.

        :raises OperationError: when there is no snapshot of that name.
        """
        self._ask(
            partial(SnapshotTrigger, snapshot_name=name, tags=dict(tags or {})),
            f"trigger of snapshot {name}",
            self._deadline(timeout),
        )

    def stop(self, name: str, timeout: Timeout = None) -> None:
        """End a recurring snapshot for everybody, after one closing iteration; one that does not run is fine too."""
        deadline = self._deadline(timeout)
        self._ask(partial(SnapshotStop, snapshot_name=name), f"stop of snapshot {name}", deadline)
        if (recurring := self._recurring.pop(snapshot_topic(name), None)) is not None:
            recurring.finish()

    def _ask(self, make: MakeCommand, what: str, deadline: Deadline) -> Reply:
        (answer,) = self._link.exchange({0: (make, what)}, deadline).values()
        deadline.check(what)
        if isinstance(answer, Exception):
            raise answer
        message = answer[0]
        if not isinstance(message, Reply):
            raise OperationError(0, f"answered with a {type(message).__name__}", what)
        if message.error != 0:
            raise OperationError(message.error, message.message or "", what)
        return message

    # -- life ----------------------------------------------------------------------------------------------------------

    def _deadline(self, timeout: Timeout) -> Deadline:
        return timeout if isinstance(timeout, Deadline) else Deadline(self.timeout if timeout is None else timeout)

    def before_fork(self) -> None:
        """Let the parent go on."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Begin anew: threads and snapshots are the parent's."""
        self.types.forget()
        self._recurring = {}


def _or_raise(answer: Any) -> Any:
    if isinstance(answer, OperationTimeout) and answer.culprit == "caller":
        raise CallCancelled(str(answer))
    if isinstance(answer, Exception):
        raise answer
    return answer
