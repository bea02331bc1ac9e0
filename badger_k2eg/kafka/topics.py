"""``Topics``: looks up topics, creates and deletes them."""

from __future__ import annotations

import contextlib
import enum
import functools
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec

from ..core.deadline import Deadline
from ..core.errors import TopicMissing
from .broker_health import BrokerHealth
from .connection import KafkaConnection
from .handles import AdminClient, LazyHandle, make
from .records import BrokerTrouble, Start

# Seconds. The library accepts no request without a bound.
_LONGEST = 3600.0
_SHORTEST = 0.001
# Between two questions about what is about to exist: a topic just created, the new leader of a partition.
_PAUSE = 0.05
# Between two looks at whether a broker refuses access, while a call is under way.
_LOOK = 0.05
_SPECS = {Start.END: OffsetSpec.latest(), Start.BEGINNING: OffsetSpec.earliest()}
_UNSUPPORTED = (Code._UNSUPPORTED_FEATURE, Code.UNSUPPORTED_VERSION)
_SOON = {
    Code.LEADER_NOT_AVAILABLE,
    Code.NOT_LEADER_FOR_PARTITION,
    Code.UNKNOWN_LEADER_EPOCH,
    Code.FENCED_LEADER_EPOCH,
    Code.OFFSET_NOT_AVAILABLE,
    Code.UNKNOWN_TOPIC_OR_PART,
    Code._NOENT,
}

# The connection was lost during the request.
_INTERRUPTED = {Code._DESTROY_BROKER, Code._TRANSPORT}

_Request = Callable[[AdminClient, float], Mapping[Any, "Future[Any]"]]


class Created(enum.Enum):
    """Result of creating a topic."""

    NEW = "new"
    EXISTED = "existed"


class Topics(LazyHandle):
    """The topics of a cluster. Any thread may use it; every call ends with its deadline.

    Opens nothing before the first call. Every call may raise `BrokerUnreachable` (naming the broker),
    `AuthenticationFailed`, `SettingsError` (a wrong option) and, when its deadline is cancelled, `CallCancelled`. A
    forked child starts without a connection.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        """Open nothing."""
        super().__init__(connection, "topics")

    def _begin(self) -> None:
        """Start without a connection."""
        super()._begin()
        self._health = BrokerHealth(self._name, self._connection.bootstrap, warn=False)
        self._client: AdminClient | None = None

    def create(
        self,
        topic: str,
        deadline: Deadline,
        *,
        partitions: int = 1,
        replication: int = -1,
        config: Mapping[str, str] | None = None,
    ) -> Created:
        """Create a topic, unless it exists; see `create_many`."""
        about: dict[str, Any] = {"partitions": partitions, "replication": replication, "config": config}
        return self.create_many([topic], deadline, **about)[topic]

    def create_many(
        self,
        topics: Collection[str],
        deadline: Deadline,
        *,
        partitions: int = 1,
        replication: int = -1,
        config: Mapping[str, str] | None = None,
    ) -> dict[str, Created]:
        """Create those topics that do not exist, all at once: one by one, a broker takes 50 ms for each.

        A broker without this operation creates topics by itself when a producer asks for them.

        :param replication: number of copies; -1: the broker's default.
        :param config: of each topic, e.g. ``{"retention.ms": "3600000"}``.
        :raises TopicRefused: with the broker's words, for the first topic that it does not create.
        """
        names = list(dict.fromkeys(topics))
        if not names:
            return {}
        about: dict[str, Any] = {"num_partitions": partitions, "replication_factor": replication}
        new = [NewTopic(name, config=dict(config or {}), **about) for name in names]
        what = f"{_named(names)} cannot be created"
        asked = self._ask(what, deadline, lambda client, wait: client.create_topics(new, request_timeout=wait))
        errors = {name: _error(asked[name]) for name in names}
        made = {name: Created.NEW if error is None else Created.EXISTED for name, error in errors.items()}
        unsupported = [name for name, error in errors.items() if error is not None and error.code() in _UNSUPPORTED]
        for name, error in errors.items():
            if error is not None and error.code() != Code.TOPIC_ALREADY_EXISTS and name not in unsupported:
                raise self._health.failure(f"topic {name} cannot be created", error)
        self._await_topics([name for name in names if name not in unsupported], deadline)
        for name in self.missing(unsupported, deadline):
            # To the broker this handle is a producer, and a topic is created when a producer asks for it.
            with contextlib.suppress(KafkaException):
                self._opened().list_topics(name, timeout=_bounded(deadline))
            if not self.exists(name, deadline):
                raise self._health.failure(f"topic {name} cannot be created", errors[name])
            made[name] = Created.NEW
        return made

    def delete(self, topic: str, deadline: Deadline) -> bool:
        """Delete a topic; return False if it does not exist.

        :raises TopicRefused: with the broker's words; also if it cannot delete topics at all.
        """
        what = f"topic {topic} cannot be deleted"
        asked = self._ask(what, deadline, lambda client, wait: client.delete_topics([topic], request_timeout=wait))
        error = _error(asked[topic])
        if error is None or error.code() == Code.UNKNOWN_TOPIC_OR_PART:
            return error is None
        raise self._health.failure(what, error)

    def exists(self, topic: str, deadline: Deadline) -> bool:
        """Return whether a topic exists; asking does not create it."""
        return not self.missing([topic], deadline)

    def missing(self, topics: Collection[str], deadline: Deadline) -> frozenset[str]:
        """Return the topics that do not exist; asking does not create them.

        :raises TopicRefused: if the broker does not allow seeing one.
        """
        return frozenset(self._described(topics, deadline)[1])

    def partitions(self, topics: Collection[str], deadline: Deadline) -> dict[str, tuple[int, ...]]:
        """Return the partitions of each topic.

        :raises TopicMissing: naming those that do not exist.
        :raises TopicRefused: if the broker does not allow seeing one.
        """
        found, missing = self._described(topics, deadline)
        if missing:
            raise TopicMissing(f"{_named(missing)} not known to broker {self._connection.bootstrap}")
        return found

    def _described(self, topics: Collection[str], deadline: Deadline) -> tuple[dict[str, tuple[int, ...]], list[str]]:
        """Return the partitions of each topic, and the topics that do not exist."""
        if not topics:
            return {}, []
        names = list(dict.fromkeys(topics))
        what = f"{_named(names)} cannot be looked up"
        wanted = TopicCollection(names)
        asked = self._ask(what, deadline, lambda client, wait: client.describe_topics(wanted, request_timeout=wait))
        errors = {topic: error for topic, future in asked.items() if (error := _error(future)) is not None}
        missing = [topic for topic, error in errors.items() if error.code() == Code.UNKNOWN_TOPIC_OR_PART]
        for topic, error in errors.items():
            if topic not in missing:
                raise self._health.failure(f"{_named([topic])} cannot be looked up", error)
        found = {topic: future.result() for topic, future in asked.items() if topic not in missing}
        return {topic: tuple(part.id for part in about.partitions) for topic, about in found.items()}, missing

    def watermarks(self, topics: Collection[str], deadline: Deadline) -> dict[str, dict[int, tuple[int, int]]]:
        """Return the offsets of the first record and of the next one to come, by topic and partition.

        :raises TopicMissing: see `partitions`.
        """
        first = self.offsets(topics, Start.BEGINNING, deadline)
        end = self.offsets(topics, Start.END, deadline)
        return {topic: {part: (first[topic][part], end[topic][part]) for part in end[topic]} for topic in end}

    def offsets(self, topics: Collection[str], start: Start, deadline: Deadline) -> dict[str, dict[int, int]]:
        """Return one end of each topic by partition: the first record, or the next one to come.

        :raises TopicMissing: see `partitions`.
        """
        found: dict[str, dict[int, int]] = {topic: {} for topic in topics}
        places = [(topic, part) for topic, parts in self.partitions(topics, deadline).items() for part in parts]
        what = f"{_named(found)} cannot be looked up"
        while places:
            asked = self._ask_offsets(what, places, start, deadline)
            places = []
            for place, future in asked.items():
                error = _error(future)
                if error is None:
                    found[place.topic][place.partition] = future.result().offset
                elif error.code() in _SOON and not deadline.expired:
                    places.append((place.topic, place.partition))
                else:
                    raise self._health.failure(what, error)
            if places:
                _pause(deadline, what)
        return found

    def brokers(self, deadline: Deadline) -> dict[int, str]:
        """Return ``HOST:PORT`` of each broker of the cluster, by its id."""
        what = "the cluster cannot be looked up"
        asked = self._ask(what, deadline, lambda client, wait: {what: client.describe_cluster(request_timeout=wait)})
        error = _error(asked[what])
        if error is not None:
            raise self._health.failure(what, error)
        return {node.id: f"{node.host}:{node.port}" for node in asked[what].result().nodes}

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that did not answer the last call; None if it did."""
        return self._health.trouble

    def close(self) -> None:
        """Release the connection. Idempotent; a later call opens it again."""
        with self._lock:
            self._client = None

    def _opened(self) -> AdminClient:
        """Return the handle, made if need be."""
        with self._lock:
            if self._client is None:
                self._client = make(AdminClient, {**self._connection.admin(), **self._health.callbacks})
            return self._client

    def _ask(self, what: str, deadline: Deadline, request: _Request) -> Mapping[Any, Future[Any]]:
        """Send requests and wait for all answers, good or bad; the library gives up at the deadline by itself."""
        client = self._opened()
        client.poll(0)
        self._health.forget()
        refused = functools.partial(self._is_refused, client)
        while True:
            futures = request(client, _bounded(deadline))
            if not wait_all(futures.values(), deadline, what, give_up=refused):
                raise self._health.timed_out(what)
            codes = {error.code() for future in futures.values() if (error := _error(future)) is not None}
            if deadline.expired or not codes & _INTERRUPTED:
                return futures
            _pause(deadline, what)

    def _is_refused(self, client: AdminClient) -> bool:
        """Return whether a broker refuses access; the library reports on its brokers only when it is polled."""
        client.poll(0)
        trouble = self._health.trouble
        return trouble is not None and trouble.authentication

    def _ask_offsets(
        self, what: str, places: Iterable[tuple[str, int]], start: Start, deadline: Deadline
    ) -> Mapping[Any, Future[Any]]:
        """Ask for one end of some partitions."""
        wanted = {TopicPartition(*place): _SPECS[start] for place in places}
        return self._ask(what, deadline, lambda client, wait: client.list_offsets(wanted, request_timeout=wait))

    def _await_topics(self, topics: Collection[str], deadline: Deadline) -> None:
        """Wait for new topics: the broker that answers may learn of one later than the broker that created it."""
        while (missing := self.missing(topics, deadline)) and not deadline.expired:
            _pause(deadline, f"waiting for {_named(sorted(missing))}")


def _bounded(deadline: Deadline) -> float:
    """Return the seconds left, as the library accepts them."""
    return max(_SHORTEST, min(deadline.remaining(), _LONGEST))


def _error(future: Future[Any]) -> Code | None:
    """Return the broker's error, if that is the answer; raise any other one."""
    error = future.exception()
    if error is None:
        return None
    code = error.args[0] if error.args else None
    if not isinstance(code, Code):
        raise error
    return code


def _named(topics: Iterable[str]) -> str:
    """Return the topics in words."""
    names = list(topics)
    return f"topic{'s' if len(names) > 1 else ''} {', '.join(names)}"


def wait_all(
    futures: Collection[Future[Any]], deadline: Deadline, what: str, *, give_up: Callable[[], bool] | None = None
) -> bool:
    """Wait until all futures are done; return False if the time ran out first, or `give_up` said so.

    :param give_up: asked now and then whether it is pointless to wait any longer.
    :raises CallCancelled: when the deadline was cancelled.
    """
    changed = threading.Condition()

    def notify(_: Future[Any]) -> None:
        with changed:
            changed.notify_all()

    def done() -> bool:
        return all(future.done() for future in futures)

    for future in futures:
        future.add_done_callback(notify)
    with changed:
        while not (give_up is not None and give_up()):
            step = deadline if give_up is None else deadline.child(_LOOK)
            if step.wait(changed, done, what=what):
                return True
            if deadline.expired:
                break
    deadline.check(what)
    return done()


def _pause(deadline: Deadline, what: str) -> None:
    """Wait before the next question, at most until the deadline.

    :raises CallCancelled: when the deadline was cancelled.
    """
    nothing = threading.Condition()
    with nothing:
        deadline.child(_PAUSE).wait(nothing, lambda: False, what=what)
