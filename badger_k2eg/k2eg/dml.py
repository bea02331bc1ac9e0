"""The names and signatures of the k2eg library 0.3.2, as a thin layer over ``K2egClient``.

A program written for that library only has to change its imports; each call documents its differences. Imports the
modules of its room and core.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from ..core.deadline import FOREVER
from ..core.errors import ControlError, OperationError, OperationTimeout
from ..core.model import Fields
from .client import K2egClient
from .codec import SnapshotType, check_uri, encode_put_value, snapshot_topic
from .monitors import Event
from .snapshots import Iteration, OneShot, SnapshotProperties

__all__ = [
    "Generic",
    "NTTable",
    "OperationError",
    "OperationTimeout",
    "Scalar",
    "SnapshotProperties",
    "SnapshotType",
    "Vector",
    "dml",
]

logger = logging.getLogger(__name__)

_SUCCESS = "Successfull operation"


@runtime_checkable
class _Payload(Protocol):
    """The shape of the library's own value classes."""

    key: str
    payload: Any


@dataclass
class Scalar:
    """A number or a text for a put.

    :ivar key: the PV's field.
    """

    key: str = "value"
    payload: Any = None

    def to_base_64(self) -> str:
        """Return the value as it is sent over the wire."""
        return encode_put_value({self.key: self.payload})


@dataclass
class Vector(Scalar):
    """A list of numbers or texts for a put."""


@dataclass
class Generic(Scalar):
    """Any value for a put, unchanged: a map for a structure."""


@dataclass
class NTTable:
    """A table for a put: ``NTTable(labels=["a"], payload={"a": [1, 2]})``."""

    key: str = "value"
    labels: list[str] = field(default_factory=list)
    payload: dict[str, list[Any]] = field(default_factory=dict)

    def set_column(self, label: str, values: Sequence[Any]) -> None:
        """Set a column."""
        if label not in self.labels:
            self.labels.append(label)
        self.payload[label] = list(values)

    def to_base_64(self) -> str:
        """Return the value as it is sent over the wire."""
        return encode_put_value({self.key: self.payload})


class dml:  # noqa: N801 - the library's own name
    """A client with the calls of the k2eg library.

    ``timeout=None`` waits for ever, as in the library. Unlike there, it is a context manager, ``close`` may be called
    twice, and a program that does not call it still ends.

    :param poll_timeout: accepted and ignored: nothing is polled.
    :raises ValueError: for an environment or name that is missing or wrong.
    """

    def __init__(
        self, environment_id: str, app_name: str, group_name: str | None = None, poll_timeout: float = 0.01
    ) -> None:
        self.client = K2egClient(environment_id, app_name, group_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def parse_pv_url(pv_url: str) -> tuple[str, str]:
        """Split a URI into protocol and name.

        :raises ValueError: for a URI that K2EG does not support.
        """
        uri = check_uri(pv_url)
        return uri.scheme, uri.name

    def wait_for_backends(self, timeout: float | None = 12.0) -> None:
        """Wait until a gateway answers; in the library this always fails."""
        self.client.wait_for_backends(_seconds(timeout))

    def get(self, pv_url: str, timeout: float | None = None) -> Mapping[str, Any]:
        """Read the whole structure of a PV."""
        return self.client.get(pv_url, _seconds(timeout))

    def put(self, pv_url: str, value: Any, timeout: float | None = None) -> dict[str, Any]:
        """Write a PV.

        :param value: a plain value, or a ``Scalar``, ``Vector``, ``Generic`` or ``NTTable``.
        :returns: ``{"error": 0, "message": ...}``.
        :raises ValueError: for a value that does not fit the PV, which the library would send.
        """
        self.client.put(pv_url, _plain(value), _seconds(timeout))
        return {"error": 0, "message": _SUCCESS}

    def monitor(
        self, pv_url: str, handler: Callable[[str, Mapping[str, Any]], None], timeout: float | None = None
    ) -> dict[str, Any] | None:
        """Call ``handler(pv_name, tree)`` with the current value and every update; see ``monitor_many``."""
        return self.monitor_many([pv_url], handler, timeout)

    def monitor_many(
        self,
        pv_uri_list: Sequence[str],
        handler: Callable[[str, Mapping[str, Any]], None],
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Monitor PVs. Returns when the gateway has accepted, even for a PV that nobody serves (yet).

        A PV that is monitored already gets a second handler.

        :returns: ``{"error": 0, "message": ...}``.
        """

        def told(pv: str, event: Event) -> None:
            if isinstance(event, tuple):
                handler(pv, event[0])
            else:
                logger.info("%s", event)

        self.client.start_monitors(pv_uri_list, told, _seconds(timeout), wait="reply")
        return {"error": 0, "message": "Monitor activated"}

    def stop_monitor(self, pv_name: str) -> None:
        """End the monitors of a PV, named without its protocol, if there are any."""
        self.client.stop_monitor(pv_name)

    def snapshot(self, pv_uri_list: Sequence[str], handler: Callable[[str, dict[str, Any]], None]) -> str:
        """Take the values of one instant in the background, and call ``handler(id, {pv_name: [tree], ...})``.

        :returns: the id.
        """
        identity = secrets.token_hex(8)

        def done(result: OneShot | ControlError) -> None:
            if isinstance(result, ControlError):
                logger.error("%s", result)
            handler(identity, _taken(pv_uri_list, result))

        self.client.snapshot(pv_uri_list, done)
        return identity

    def snapshot_sync(self, pv_uri_list: Sequence[str], timeout: float | None = 10.0) -> dict[str, Any]:
        """Take the values of one instant.

        :returns: ``{"error": 0, "snapshot": {pv_name: [tree]}, pv_name: [tree], ...}``.
        """
        return _taken(pv_uri_list, self.client.snapshot_sync(pv_uri_list, _seconds(timeout)))

    def snapshot_recurring(
        self,
        properties: SnapshotProperties,
        handler: Callable[[str, dict[str, Any]], None],
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Start or join a recurring snapshot, and call ``handler(topic, data)`` for every iteration.

        ``data`` has ``iteration``, ``header_timestamp``, ``tail_timestamp``, ``timestamp`` (ms) and each PV's list of
        trees, which may be empty; ``partial`` if messages were lost.
        """
        names = [check_uri(uri).name for uri in properties.pv_uri_list]
        topic = snapshot_topic(properties.snapshot_name)

        def told(iteration: Iteration) -> None:
            handler(topic, _laid_out(iteration, names))

        recurring = self.client.snapshot_recurring(properties, told, _seconds(timeout))
        words = "is already running" if recurring.joined else "has been started"
        return {"error": 0, "message": f"Snapshot {recurring.name} {words}", "publishing_topic": recurring.topic}

    def snapshot_trigger(
        self, snapshot_name: str, timeout: float | None = None, tags: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Make a triggered snapshot publish an iteration."""
        self.client.trigger(snapshot_name, _seconds(timeout), tags=tags)
        return {"error": 0, "message": f"Snapshot '{snapshot_name}' has been armed"}

    #: The library's own spelling.
    snapshost_trigger = snapshot_trigger

    def snapshot_stop(self, snapshot_name: str, timeout: float | None = None) -> dict[str, Any]:
        """Stop a recurring snapshot. Does nothing if it is not running."""
        self.client.stop(snapshot_name, _seconds(timeout))
        return {"error": 0, "message": f"Snapshot '{snapshot_name}' has been stopped"}

    def close(self) -> None:
        """Close the client. Idempotent."""
        self.client.close()


def _seconds(timeout: float | None) -> float:
    return FOREVER if timeout is None else timeout


def _plain(value: Any) -> Any:
    """Unwrap a value; one for a field other than ``value`` becomes ``Fields``."""
    if not isinstance(value, _Payload):
        return value
    return value.payload if value.key == "value" else Fields({value.key: value.payload})


def _taken(uris: Sequence[str], result: OneShot | ControlError) -> dict[str, Any]:
    if isinstance(result, ControlError):
        return {"error": getattr(result, "error", -1), "message": str(result), "snapshot": {}}
    trees = {check_uri(uri).name: [result.values[uri]] if uri in result.values else [] for uri in uris}
    return {"error": 0, "snapshot": trees, **trees}


def _laid_out(iteration: Iteration, names: Sequence[str]) -> dict[str, Any]:
    return {
        "iteration": iteration.iteration,
        "header_timestamp": iteration.header_timestamp,
        "tail_timestamp": iteration.timestamp,
        "timestamp": iteration.timestamp,
        **({"partial": True} if iteration.partial else {}),
        **{name: list(iteration.values.get(name, ())) for name in names},
    }
