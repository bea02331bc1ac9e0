"""``Topics``: ask about topics, make and delete them. Imports deadline, errors, fork."""

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

from ..core import fork
from ..core.deadline import Deadline
from ..core.errors import TopicMissing
from .broker_health import Watch
from .connection import KafkaConnection
from .inherited import AdminClient, make
from .records import BrokerTrouble, Start
from .waiting import pause, wait_all

# The library takes no request without a bound.
_LONGEST = 3600.0
_SHORTEST = 0.001
# Between two questions about what will soon be there: a topic just made, the new leader of a partition.
_PAUSE = 0.05
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

# The connection went away under the request.
_INTERRUPTED = {Code._DESTROY_BROKER, Code._TRANSPORT}

_Request = Callable[[AdminClient, float], Mapping[Any, "Future[Any]"]]


class Created(enum.Enum):
    """What became of a topic that was to be made."""

    NEW = "new"
    EXISTED = "existed"


class Topics:
    """The topics of a cluster. Any thread may use it; every call ends with its deadline.

    Nothing is opened before the first call. Every call may raise `BrokerUnreachable` (naming the broker),
    `AuthenticationFailed`, `SettingsError` (a wrong option) and, when its deadline is cancelled, `CallCancelled`. In a
    forked child it is as new.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        """Open nothing."""
        self._connection = connection
        self._watch = Watch("topics", connection.bootstrap, warn=False)
        self._client: AdminClient | None = None
        self._lock = threading.Lock()
        fork.register(self)

    def create(
        self,
        topic: str,
        deadline: Deadline,
        *,
        partitions: int = 1,
        replication: int = -1,
        config: Mapping[str, str] | None = None,
    ) -> Created:
        """Make the topic, unless it exists; as ``create_many``."""
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
        """Make those topics that do not exist, all at once: one by one, a broker takes 50 ms for each.

        A broker without that operation is asked to make them by itself.

        :param replication: copies; -1: the broker's default.
        :param config: the topics', e.g. ``{"retention.ms": "3600000"}``.
        :raises TopicRefused: with the broker's words, for the first that it does not make.
        """
        names = list(dict.fromkeys(topics))
        if not names:
            return {}
        about: dict[str, Any] = {"num_partitions": partitions, "replication_factor": replication}
        new = [NewTopic(name, config=dict(config or {}), **about) for name in names]
        what = f"{_named(names)} cannot be made"
        asked = self._ask(what, deadline, lambda client, wait: client.create_topics(new, request_timeout=wait))
        errors = {name: _error(asked[name]) for name in names}
        made = {name: Created.NEW if error is None else Created.EXISTED for name, error in errors.items()}
        unsupported = [name for name, error in errors.items() if error is not None and error.code() in _UNSUPPORTED]
        for name, error in errors.items():
            if error is not None and error.code() != Code.TOPIC_ALREADY_EXISTS and name not in unsupported:
                raise self._watch.failure(f"topic {name} cannot be made", error)
        self._await_topics([name for name in names if name not in unsupported], deadline)
        for name in self.missing(unsupported, deadline):
            # Such a handle is a producer for the broker, and a topic comes into being when a producer asks for it.
            with contextlib.suppress(KafkaException):
                self._opened().list_topics(name, timeout=_bounded(deadline))
            if not self.exists(name, deadline):
                raise self._watch.failure(f"topic {name} cannot be made", errors[name])
            made[name] = Created.NEW
        return made

    def delete(self, topic: str, deadline: Deadline) -> bool:
        """Delete the topic; False if there was none.

        :raises TopicRefused: with the broker's words; also where it cannot delete at all.
        """
        what = f"topic {topic} cannot be deleted"
        asked = self._ask(what, deadline, lambda client, wait: client.delete_topics([topic], request_timeout=wait))
        error = _error(asked[topic])
        if error is None or error.code() == Code.UNKNOWN_TOPIC_OR_PART:
            return error is None
        raise self._watch.failure(what, error)

    def exists(self, topic: str, deadline: Deadline) -> bool:
        """Whether there is such a topic; asking does not make it."""
        return not self.missing([topic], deadline)

    def missing(self, topics: Collection[str], deadline: Deadline) -> frozenset[str]:
        """Tell which of the topics there are not; asking does not make them.

        :raises TopicRefused: if we may not see one.
        """
        return frozenset(self._described(topics, deadline)[1])

    def partitions(self, topics: Collection[str], deadline: Deadline) -> dict[str, tuple[int, ...]]:
        """Give the partitions of each topic.

        :raises TopicMissing: naming those that do not exist.
        :raises TopicRefused: if we may not see it.
        """
        found, missing = self._described(topics, deadline)
        if missing:
            raise TopicMissing(f"{_named(missing)} not known to broker {self._connection.bootstrap}")
        return found

    def _described(self, topics: Collection[str], deadline: Deadline) -> tuple[dict[str, tuple[int, ...]], list[str]]:
        """Give the partitions of each topic, and the topics that there are not."""
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
                raise self._watch.failure(f"{_named([topic])} cannot be looked up", error)
        found = {topic: future.result() for topic, future in asked.items() if topic not in missing}
        return {topic: tuple(part.id for part in about.partitions) for topic, about in found.items()}, missing

    def watermarks(self, topics: Collection[str], deadline: Deadline) -> dict[str, dict[int, tuple[int, int]]]:
        """Give the offset of the first record and of the next one to come, by topic and partition.

        :raises TopicMissing: see `partitions`.
        """
        first = self.offsets(topics, Start.BEGINNING, deadline)
        end = self.offsets(topics, Start.END, deadline)
        return {topic: {part: (first[topic][part], end[topic][part]) for part in end[topic]} for topic in end}

    def offsets(self, topics: Collection[str], start: Start, deadline: Deadline) -> dict[str, dict[int, int]]:
        """Give one end of each topic by partition: the first record, or the next one to come.

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
                    raise self._watch.failure(what, error)
            if places:
                pause(_PAUSE, deadline, what)
        return found

    def brokers(self, deadline: Deadline) -> dict[int, str]:
        """Give ``HOST:PORT`` of each broker of the cluster, by its id."""
        what = "the cluster cannot be looked up"
        asked = self._ask(what, deadline, lambda client, wait: {what: client.describe_cluster(request_timeout=wait)})
        error = _error(asked[what])
        if error is not None:
            raise self._watch.failure(what, error)
        return {node.id: f"{node.host}:{node.port}" for node in asked[what].result().nodes}

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that did not answer the last call; None if it did."""
        return self._watch.trouble

    def close(self) -> None:
        """Let the handle go. Idempotent; a later call opens it again."""
        with self._lock:
            self._client = None

    def before_fork(self) -> None:
        """Nothing: the parent's handle goes on."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        self._client, self._lock = None, threading.Lock()
        self._watch.forget()

    def _opened(self) -> AdminClient:
        with self._lock:
            if self._client is None:
                self._client = make(AdminClient, {**self._connection.admin(), **self._watch.callbacks})
            return self._client

    def _ask(self, what: str, deadline: Deadline, request: _Request) -> Mapping[Any, Future[Any]]:
        """Send requests and wait for all their answers, good or bad; the library gives up at our deadline by itself."""
        client = self._opened()
        client.poll(0)
        self._watch.forget()
        refused = functools.partial(self._is_refused, client)
        while True:
            futures = request(client, _bounded(deadline))
            if not wait_all(futures.values(), deadline, what, refused):
                raise self._watch.timed_out(what)
            codes = {error.code() for future in futures.values() if (error := _error(future)) is not None}
            if deadline.expired or not codes & _INTERRUPTED:
                return futures
            pause(_PAUSE, deadline, what)

    def _is_refused(self, client: AdminClient) -> bool:
        # What the library has to say of its brokers is heard only when it is asked.
        client.poll(0)
        trouble = self._watch.trouble
        return trouble is not None and trouble.authentication

    def _ask_offsets(
        self, what: str, places: Iterable[tuple[str, int]], start: Start, deadline: Deadline
    ) -> Mapping[Any, Future[Any]]:
        wanted = {TopicPartition(*place): _SPECS[start] for place in places}
        return self._ask(what, deadline, lambda client, wait: client.list_offsets(wanted, request_timeout=wait))

    def _await_topics(self, topics: Collection[str], deadline: Deadline) -> None:
        # The broker that answers may hear of a new topic a little later than the one that made it.
        while (missing := self.missing(topics, deadline)) and not deadline.expired:
            pause(_PAUSE, deadline, f"waiting for {_named(sorted(missing))}")


def _bounded(deadline: Deadline) -> float:
    return max(_SHORTEST, min(deadline.remaining(), _LONGEST))


def _error(future: Future[Any]) -> Code | None:
    error = future.exception()
    if error is None:
        return None
    code = error.args[0] if error.args else None
    if not isinstance(code, Code):
        raise error
    return code


def _named(topics: Iterable[str]) -> str:
    names = list(topics)
    return f"topic{'s' if len(names) > 1 else ''} {', '.join(names)}"
