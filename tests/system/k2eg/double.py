"""A K2EG gateway of the tests' own, with PVs in memory, that may behave as badly as the real one does (notes 12)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from badger_k2eg.core.deadline import Deadline
from badger_k2eg.k2eg.codec import (
    BadCommand,
    Get,
    Message,
    MonitorEvent,
    MultiMonitor,
    Put,
    RepeatingSnapshot,
    Reply,
    Serialization,
    Snapshot,
    SnapshotDone,
    SnapshotStop,
    SnapshotTrigger,
    ValueReply,
    decode_command,
    decode_put_value,
    encode_record,
    monitor_topic,
    parse_uri,
    reply_key,
    snapshot_topic,
)
from badger_k2eg.k2eg.environment import K2egEnvironment
from badger_k2eg.kafka import KafkaRecord, Producer, TopicReader
from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.soft_ioc import random_prefix

_PATIENCE = 10.0


def tree(value: Any, *, at: int | None = None, whole: bool = True, **parts: Any) -> dict[str, Any]:
    """Lay out a normative type as a gateway does.

    :param at: the record's time in ns.
    :param whole: with limits, among which there is a whole float.
    """
    seconds, nanoseconds = divmod(time.time_ns() if at is None else at, 10**9)
    laid: dict[str, Any] = {
        "value": value,
        "alarm": {"severity": 0, "status": 0, "message": "NO_ALARM"},
        "timeStamp": {"secondsPastEpoch": seconds, "nanoseconds": nanoseconds, "userTag": 0},
    }
    if whole:
        laid["display"] = {"limitLow": 0.0, "limitHigh": 0.0, "description": "", "units": "mm", "precision": 3}
        laid["control"] = {"limitLow": 0.0, "limitHigh": 0.0, "minStep": 0.0}
    return laid | parts


class Double:
    """Answers commands on a broker. Tests change ``pvs``, and put handlers of their own into ``instead``.

    :ivar environment: by which a client reaches it.
    :ivar prefix: of its PVs by convention: several share a broker.
    :ivar pvs: name -> tree.
    :ivar commands: all that came in, in order.
    :ivar puts: name and fields of every put that was executed, in order.
    :ivar instead: kind of command -> what is done in the place of the usual; True for "done".
    """

    def __init__(self, broker: Broker, pvs: Mapping[str, Any] | None = None) -> None:
        self.prefix = random_prefix()
        self.pvs: dict[str, dict[str, Any]] = {self.name(short): about for short, about in (pvs or {}).items()}
        self.commands: list[Any] = []
        self.puts: list[tuple[str, Any]] = []
        self.monitored: set[str] = set()
        self.snapshots: dict[str, RepeatingSnapshot] = {}
        self.instead: dict[type, Callable[[Any], Any]] = {}
        self.broker = broker
        self._writer = Producer(broker.connection, name="double")
        self._writer.connect()
        self._reader = TopicReader(broker.connection, self._command, name="double")
        topic = f"{self.prefix}-cmd"
        self.environment = K2egEnvironment("double", broker.bootstrap, topic, kafka=dict(broker.connection.options))
        self.listening(True)

    def listening(self, on: bool) -> None:
        """Take commands, or be down: those that come meanwhile are lost."""
        if on:
            self.broker.create_topic(self.environment.command_topic)
            self._reader.assign([self.environment.command_topic], Deadline(_PATIENCE))
        else:
            self._reader.unassign([self.environment.command_topic])

    def name(self, short: str) -> str:
        """Give the whole name of a PV."""
        return f"{self.prefix}:{short}"

    def uri(self, short: str) -> str:
        return f"pva://{self.name(short)}"

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    # -- speaking -------------------------------------------------------------------------------------------------

    def send(self, topic: str, message: Message, key: str, how: Serialization = Serialization.MSGPACK) -> None:
        record = encode_record(message, key, how)
        self._writer.send(topic, record.value, key=record.key, headers=record.headers)

    def send_raw(self, topic: str, value: bytes | None, headers: Any = (), key: bytes | None = None) -> None:
        self._writer.send(topic, value, key=key, headers=headers)

    def reply(self, command: Any, message: Message) -> None:
        if command.reply_topic and command.reply_id:
            self.send(command.reply_topic, message, reply_key(command), command.serialization)

    def refuse(self, command: Any, error: int, message: str | None) -> None:
        self.reply(command, Reply(command.reply_id, error, message))

    def publish(self, name: str) -> None:
        """Send an event with the present value of a PV."""
        self.send(monitor_topic(name), MonitorEvent(name, self.pvs[name]), name)

    def post(self, short: str, value: Any, **parts: Any) -> None:
        """Change a PV, and publish it if it is monitored."""
        self._post(self.name(short), value, **parts)

    def _post(self, name: str, value: Any, **parts: Any) -> None:
        self.pvs[name] = self.pvs[name] | tree(value, whole=False) | parts
        if name in self.monitored:
            self.publish(name)

    # -- obeying --------------------------------------------------------------------------------------------------

    def _command(self, record: KafkaRecord) -> None:
        command = decode_command(record.value)
        self.commands.append(command)
        handler = self.instead.get(type(command))
        if handler is not None and handler(command) is not None:
            return
        match command:
            case BadCommand():
                if command.answerable:
                    self.send(command.reply_topic, Reply(command.reply_id, -1), "comand-parse-error-reply")
            case Get():
                self.answer(command)
            case Put():
                self._put(command)
            case MultiMonitor():
                self._monitor(command)
            case Snapshot():
                self._snapshot(command)
            case RepeatingSnapshot():
                self._start(command)
            case SnapshotTrigger():
                known = snapshot_topic(command.snapshot_name) in self.snapshots
                words = "has been armed" if known else "has not been found"
                self.reply(
                    command, Reply(command.reply_id, 0 if known else -2, f"Snapshot '{command.snapshot_name}' {words}")
                )
            case SnapshotStop():
                self.snapshots.pop(snapshot_topic(command.snapshot_name), None)
                self.reply(command, Reply(command.reply_id, 0, f"Snapshot '{command.snapshot_name}' has been stopped"))

    def answer(self, command: Get) -> None:
        """Answer a get with the PV's value."""
        uri = parse_uri(command.pv_name)
        if uri is None:
            self.refuse(command, -1, "PV name malformed")
        elif uri.name in self.pvs:
            self.reply(command, ValueReply(command.reply_id, uri.name, self.pvs[uri.name]))
        # Nothing is said of a missing one: the real gateway's ten seconds are longer than a test.

    def _put(self, command: Put) -> None:
        uri = parse_uri(command.pv_name)
        fields = decode_put_value(command.value)
        assert uri is not None and isinstance(fields, dict)
        self.puts.append((uri.name, fields))
        if uri.name not in self.pvs:
            return
        present = self.pvs[uri.name]["value"]
        value = fields.get("value", present)
        if isinstance(present, dict) and isinstance(value, dict):
            value = present | value
        self._post(uri.name, value)
        self.reply(command, Reply(command.reply_id, 0, "Successfull operation"))

    def _monitor(self, command: MultiMonitor) -> None:
        names = [uri.name for text in command.pv_name_list if (uri := parse_uri(text)) is not None]
        for name in names:
            self.broker.create_topic(monitor_topic(name), 3)
        self.monitored.update(names)
        self.reply(command, Reply(command.reply_id, 0, "Monitor activated"))
        for name in names:
            if name in self.pvs:
                self.publish(name)

    def _snapshot(self, command: Snapshot) -> None:
        def finish() -> None:
            for text in command.pv_name_list:
                uri = parse_uri(text)
                if uri is not None and uri.name in self.pvs and uri.name not in self.monitored:
                    self.reply(command, ValueReply(command.reply_id, uri.name, self.pvs[uri.name]))
            self.reply(command, SnapshotDone(command.reply_id))

        threading.Timer(command.time_window_msec / 1000, finish).start()

    def _start(self, command: RepeatingSnapshot) -> None:
        topic = snapshot_topic(command.snapshot_name)
        self.broker.create_topic(topic)
        if topic in self.snapshots:
            self.reply(command, Reply(command.reply_id, 0, f"Snapshot {command.snapshot_name} is already running"))
            return
        self.snapshots[topic] = command
        words = f"The snapshot '{command.snapshot_name}' has been started"
        self.reply(command, Reply(command.reply_id, 0, words, topic))
