"""``K2egClient``: PVs through a K2EG gateway, for any program; it does not need Badger.

Owns the public calls, which guard against the silent faults of the real gateway: an enum is put by its index, shapes
and types are checked before anything is sent, a monitor without a value is an error, and PVs missing from a snapshot
are read and marked. Imports the modules of its room and the rooms below.
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
from ..kafka import BrokerTrouble
from .codec import RepeatingSnapshot, Reply, SnapshotStop, SnapshotTrigger, check_uri, snapshot_topic
from .environment import K2egEnvironment, load_environment
from .gets_and_puts import GetsAndPuts
from .monitors import Event, K2egSubscription, Monitors
from .pv_types import TypeBook
from .requests import Counters, Link, MakeCommand
from .snapshots import Iteration, OneShot, Recurring, SnapshotProperties, in_background, take_snapshot

#: Seconds; longer than the 10 s that a gateway waits for a PV, so that its own answer still arrives.
TIMEOUT = 12.0
_PROBE = 0.5
# Updates of a PV kept for a slow handler.
_DEPTH = 1000

Timeout = float | Deadline | None


class K2egClient:
    """A client of the K2EG gateways of one environment. It connects at its first use, and is safe for many threads.

    Every call takes ``timeout``, in seconds (-1 waits for ever), and never lasts longer. A forked child may go on using
    the client: it connects again there, and the monitors stay with the parent.

    :param environment: the name of an ini file (see ``environment``), or a loaded environment.
    :param app_name: replies come on the topic ``<app_name>-reply``, unless the environment names another.
    :param group_name: accepted for old programs and ignored: no consumer group delays the replies.
    :param folder: the folder of the ini files.
    :param timeout: the timeout of calls without one.
    :param unique_reply_topic: use a reply topic for this process alone, which is deleted on close.
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
        self._pvs = GetsAndPuts(self._link)
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
        """Counts of what this client has seen since it was made."""
        return self._link.counters

    @property
    def types(self) -> TypeBook:
        """The types of the PVs, as inferred from their values."""
        return self._pvs.types

    @property
    def environment(self) -> K2egEnvironment:
        """The environment of its gateways."""
        return self._link.environment

    @property
    def reply_topic(self) -> str:
        """The topic on which gateways answer this client."""
        return self._link.reply_topic

    @property
    def trouble(self) -> BrokerTrouble | None:
        """What the broker suffers from at present; None while it is well."""
        return self._link.trouble

    @property
    def ahead(self) -> float:
        """By how many seconds the last record's timestamp was ahead of this host's clock; NaN before the first.

        The timestamp is the broker's, or the gateway host's where the broker keeps that.
        """
        return self._link.ahead

    def open(self, timeout: Timeout = None) -> None:
        """Connect now instead of at the first call.

        :raises OperationTimeout: when no broker answers.
        :raises KafkaError: when the broker refuses the client, or the reply topic is missing and cannot be created.
        """
        self._link.open(self._deadline(timeout))

    def wait_for_backends(self, timeout: Timeout = None) -> None:
        """Wait until the reply topic can be read and a gateway answers.

        :raises OperationTimeout: naming the one that does not.
        """
        deadline = self._deadline(timeout)
        self._link.open(deadline)
        # The trigger of an unknown snapshot: answered, but without effect.
        probe = partial(SnapshotTrigger, snapshot_name=f"probe-{secrets.token_hex(8)}")
        while True:
            part = deadline.child(_PROBE)
            (answer,) = self._link.exchange({0: (probe, "probe for a gateway")}, part).values()
            if not isinstance(answer, Exception):
                return
            deadline.check("waiting for the gateway")
            if deadline.expired or not isinstance(answer, OperationTimeout):
                if isinstance(answer, OperationTimeout):
                    waited = f"waited {deadline.seconds:g} s for a gateway"
                    raise OperationTimeout(str(answer), answer.culprit, sent=answer.sent, what=waited)
                raise answer
            clock.sleep(min(_PROBE, deadline.remaining()) if not answer.sent else 0.0)

    def close(self) -> None:
        """Close monitors, snapshots and the connection. Idempotent."""
        fork.unregister(self)
        for recurring in list(self._recurring.values()):
            recurring.close()
        self._recurring.clear()
        self._monitors.close()
        self._link.close()

    # -- get --------------------------------------------------------------------------------------------------------

    def get(self, uri: str, timeout: Timeout = None) -> Mapping[str, Any]:
        """Read a PV.

        :returns: its whole structure as nested dicts, with the value at ``["value"]``.
        :raises PvNameError: (a ValueError) for a URI that K2EG does not support; nothing is sent.
        :raises OperationTimeout: when no answer comes; ``culprit`` is ``broker``, ``gateway`` or ``pv``.
        :raises OperationError: when the gateway or the PV's server refuses.
        """
        tree: Mapping[str, Any] = _or_raise(self.get_many([check_uri(uri).text], timeout)[uri])
        return tree

    def get_many(self, uris: Sequence[str], timeout: Timeout = None) -> dict[str, Mapping[str, Any] | ControlError]:
        """Read PVs at the same time.

        :returns: for each URI its tree, or the error that ``get`` would raise.
        """
        return self._pvs.get_many(uris, self._deadline(timeout))

    # -- put --------------------------------------------------------------------------------------------------------

    def put(self, uri: str, value: Any, timeout: Timeout = None) -> None:
        """Write a PV, once.

        :param value: a number, text or list; index or label for an enum; ``{column: values}`` for a table; or
            ``Fields`` for named fields of any structure. It is converted to the PV's own type without loss.
        :raises PvNameError: (a ValueError) for a URI that K2EG does not support; nothing is sent.
        :raises PvValueError: (a ValueError) for a value that does not fit; nothing is sent.
        :raises OperationTimeout: when no answer comes. Unless its ``sent`` is False, the put **may have happened, or
            may still happen**: a gateway that was down executes the commands that have queued up.
        :raises OperationError: when the gateway or the PV's server refuses.
        """
        _or_raise(self.put_many({check_uri(uri).text: value}, timeout)[uri])

    def put_many(self, values: Mapping[str, Any], timeout: Timeout = None) -> dict[str, ControlError | None]:
        """Write PVs at the same time, each once, in no defined order.

        :returns: for each URI None, or the error that ``put`` would raise.
        """
        return self._pvs.put_many(values, self._deadline(timeout))

    # -- monitors ----------------------------------------------------------------------------------------------------

    def monitor(
        self, uri: str, handler: Callable[[str, Mapping[str, Any]], None], timeout: Timeout = None
    ) -> K2egSubscription:
        """Call ``handler(pv_name, tree)`` with the current value and every update, in order, until stopped.

        It resumes by itself when the PV's server, the gateway, the topic or the broker were away. A value that was
        lost on the way is recovered within seconds of the last update.

        :raises PvNameError: (a ValueError) for a URI that K2EG does not support.
        :raises OperationTimeout: when no first value comes in time; the PV is not monitored then.
        """
        return self.monitor_many([uri], handler, timeout)[0]

    def monitor_many(
        self, uris: Sequence[str], handler: Callable[[str, Mapping[str, Any]], None], timeout: Timeout = None
    ) -> list[K2egSubscription]:
        """Monitor PVs with one handler, like ``monitor``.

        :raises OperationTimeout: when one of them has no first value in time; none is monitored then.
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
    ) -> list[K2egSubscription]:
        """Monitor PVs and report disconnects too.

        :param callback: called with the PV's name and ``(tree, bytes)``, or with a PvError when it is disconnected.
        :param wait: wait for the first ``value`` of each, for the gateway's ``reply``, or for ``nothing``.
        :param depth: the number of updates kept for a slow callback; the last one is always kept.
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
        """End every monitor of a PV in this client, if there are any.

        :param pv: its URI or its bare name.
        """
        self._monitors.stop(pv.rpartition("://")[2])

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def snapshot_sync(
        self, uris: Sequence[str], timeout: Timeout = None, *, window: float = 1.0, complete: bool = True
    ) -> OneShot:
        """Take the values of one instant. The gateway always uses the whole window.

        :param window: seconds.
        :param complete: read the PVs that had no event within the window; they are marked in the result.
        :raises PvNameError: (a ValueError) for a URI that K2EG does not support; nothing is sent.
        :raises OperationTimeout: when the gateway does not answer at all.
        """
        checked = [check_uri(uri) for uri in uris]
        return take_snapshot(self._pvs, self._link, checked, window, self._deadline(timeout), complete=complete)

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

        :param handler: called once, in a new thread, with the result or the error.
        :raises PvNameError: (a ValueError) for a URI that K2EG does not support; nothing is sent.
        """
        checked = [check_uri(uri) for uri in uris]
        deadline = self._deadline(timeout)
        take = partial(take_snapshot, self._pvs, self._link, checked, window, deadline, complete=complete)
        in_background(take, handler)

    def snapshot_recurring(
        self, properties: SnapshotProperties, handler: Callable[[Iteration], None], timeout: Timeout = None
    ) -> Recurring:
        """Start a recurring snapshot, or join the one of that name that is running.

        :param handler: called with each iteration, in order, in a thread of the snapshot.
        :raises ValueError: for properties that the gateway would misinterpret; nothing is sent.
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
        # Listen first: the first header may come before the reply.
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
        """Make a triggered snapshot publish an iteration. Quick triggers may share one: count iterations.

        :raises OperationError: when there is no snapshot of that name.
        """
        self._ask(
            partial(SnapshotTrigger, snapshot_name=name, tags=dict(tags or {})),
            f"trigger of snapshot {name}",
            self._deadline(timeout),
        )

    def stop(self, name: str, timeout: Timeout = None) -> None:
        """Stop a recurring snapshot for all clients, after a last iteration. Does nothing if it is not running."""
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
        """Do nothing: the parts look after themselves."""

    def after_fork_in_parent(self) -> None:
        """Do nothing: the client is still open."""

    def after_fork_in_child(self) -> None:
        """Start over: threads and snapshots are the parent's."""
        self.types.forget()
        self._recurring = {}


def _or_raise(answer: Any) -> Any:
    if isinstance(answer, OperationTimeout) and answer.culprit == "caller":
        raise CallCancelled(str(answer))
    if isinstance(answer, Exception):
        raise answer
    return answer
