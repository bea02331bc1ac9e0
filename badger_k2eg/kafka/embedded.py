"""``EmbeddedBroker``: librdkafka's own test cluster, on loopback and in memory, for laptops and tests.

Its interface is librdkafka's src/rdkafka_mock.h, called in the library that confluent_kafka has loaded.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

from confluent_kafka import KafkaError as Code

from ..core.errors import KafkaError
from .connection import KafkaConnection
from .handles import c_function, making

_BROKER_ID = 1

_PRODUCER = 0
_POINTER, _TEXT, _INT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
# The types of the result and of the arguments of each function.
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "conf_new": (_POINTER, []),
    "conf_set_log_cb": (None, [_POINTER, _POINTER]),
    "new": (_POINTER, [_INT, _POINTER, _TEXT, _SIZE]),
    "destroy": (None, [_POINTER]),
    "mock_cluster_new": (_POINTER, [_POINTER, _INT]),
    "mock_cluster_bootstraps": (_TEXT, [_POINTER]),
    "mock_cluster_destroy": (None, [_POINTER]),
    "mock_set_controller_id": (None, [_POINTER, ctypes.c_int32]),
    "mock_group_initial_rebalance_delay_ms": (None, [_POINTER, ctypes.c_int32]),
    "mock_topic_create": (_INT, [_POINTER, _TEXT, _INT, _INT]),
    "mock_broker_set_down": (_INT, [_POINTER, ctypes.c_int32]),
    "mock_broker_set_up": (_INT, [_POINTER, ctypes.c_int32]),
    "mock_broker_set_rtt": (_INT, [_POINTER, ctypes.c_int32, _INT]),
    "mock_push_request_errors_array": (None, [_POINTER, ctypes.c_int16, _SIZE, ctypes.POINTER(_INT)]),
}


class EmbeddedBroker:
    """A Kafka broker inside this process: on loopback, in memory, gone with the process.

    Its limits: topics cannot be created over the wire (writing to one creates it, and so does `create_topic`), and a
    new record does not end a waiting fetch, so that consumers need a ``fetch.wait.max.ms`` of a few ms: `connection`
    has it. In a forked child every call but `bootstrap` does nothing; the parent's broker keeps running.
    """

    #: The options of a connection that suit it. A change in a group lasts one or two session timeouts there.
    suited: ClassVar[Mapping[str, Any]] = {
        "fetch.wait.max.ms": 5,
        "session.timeout.ms": 1500,
        "heartbeat.interval.ms": 200,
    }

    def __init__(self) -> None:
        """Start nothing."""
        self._cluster: _Cluster | None = None
        self._owner = 0
        self._bootstrap = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Start the broker; `close` ends it.

        :raises KafkaError: if it cannot be started.
        """
        if self._cluster is None:
            self._cluster = _Cluster()
            self._owner, self._bootstrap = os.getpid(), self._cluster.bootstrap
        return self

    def close(self) -> None:
        """End the broker. Idempotent."""
        if self._cluster is not None and os.getpid() == self._owner:
            cluster, self._cluster = self._cluster, None
            cluster.close()

    @property
    def bootstrap(self) -> str:
        """``HOST:PORT``; empty before the start."""
        return self._bootstrap

    @property
    def connection(self) -> KafkaConnection:
        """A connection to it, with the options that suit it."""
        return KafkaConnection(self.bootstrap, self.suited)

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        """Create a topic; do nothing if it exists."""
        self._checked("mock_topic_create", topic.encode(), partitions, 1, accept=Code.TOPIC_ALREADY_EXISTS)

    def down(self) -> None:
        """Cut all connections and accept no new ones; what is stored stays."""
        self._checked("mock_broker_set_down", _BROKER_ID)

    def up(self) -> None:
        """Answer again."""
        self._checked("mock_broker_set_up", _BROKER_ID)

    def rtt(self, milliseconds: int) -> None:
        """Delay the answer to each request."""
        self._checked("mock_broker_set_rtt", _BROKER_ID, milliseconds)

    def push_errors(self, api_key: int, errors: Sequence[int]) -> None:
        """Answer the next requests of this kind with these error codes, one each.

        :param api_key: of the Kafka protocol: 0 Produce, 1 Fetch, 2 ListOffsets, 3 Metadata.
        """
        self._call("mock_push_request_errors_array", api_key, len(errors), (_INT * len(errors))(*errors))

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the cluster, in the process that started it."""
        if self._cluster is None:
            raise KafkaError("the embedded broker is not running")
        return self._cluster.call(function, *arguments) if os.getpid() == self._owner else None

    def _checked(self, function: str, *arguments: Any, accept: int = Code.NO_ERROR) -> None:
        """Call a function that returns an error code, and raise any but the accepted one."""
        status = self._call(function, *arguments) or Code.NO_ERROR
        if status not in (Code.NO_ERROR, accept):
            raise KafkaError(f"the embedded broker cannot do {function}{arguments}: {Code(status).str()}")


class _Cluster:
    """A cluster in the C interface, from its start to `close`."""

    def __init__(self) -> None:
        if self._function("mock_cluster_new") is None:
            raise KafkaError("no embedded broker: the librdkafka of this confluent-kafka hides its test cluster")
        with making:
            self._handle = self._new_handle()
            self._cluster = self._function("mock_cluster_new")(self._handle, 1)
        if not self._cluster:
            raise KafkaError("the embedded broker cannot be started: no port on loopback")
        self.bootstrap = self.call("mock_cluster_bootstraps").decode()
        # Without a controller it answers no questions about topics.
        self.call("mock_set_controller_id", _BROKER_ID)
        # A group of one need not wait for further members.
        self.call("mock_group_initial_rebalance_delay_ms", 0)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function with the cluster as its first argument."""
        return self._function(function)(self._cluster, *arguments)

    def close(self) -> None:
        """End the cluster, then the handle that carries it."""
        self.call("mock_cluster_destroy")
        self._function("destroy")(self._handle)

    def _new_handle(self) -> Any:
        """Return a new handle to carry the cluster."""
        conf = self._function("conf_new")()
        self._function("conf_set_log_cb")(conf, None)
        reason = ctypes.create_string_buffer(512)
        handle = self._function("new")(_PRODUCER, conf, reason, len(reason))
        if not handle:
            raise KafkaError(f"the embedded broker cannot be started: {reason.value.decode(errors='replace')}")
        return handle

    def _function(self, name: str) -> Any:
        """Return a function of the C interface."""
        result, arguments = _SIGNATURES[name]
        return c_function(name, result, *arguments)
