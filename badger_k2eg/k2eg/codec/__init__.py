"""The messages of K2EG on Kafka, for both roles and both revisions, without any I/O.

A client encodes commands and decodes records; a gateway decodes commands and encodes records::

    names           PV URIs and topic names
    serialization   msgpack and JSON, the header that tells them apart, the value of a put
    commands        requests of a client
    messages        replies and events of a gateway

Received bytes never raise: unreadable ones become a ``BadRecord`` or a ``BadCommand``. Revision B of the protocol
adds sequence numbers to recurring snapshots, revision A has none; the rest is the same. Imports msgpack, numpy and
errors; never Kafka.

Source: slaclab/k2eg (gateway) and k2eg-python, with their traffic as recorded (tests/golden).
"""

from .commands import (
    BadCommand,
    Command,
    Get,
    Monitor,
    MultiMonitor,
    Put,
    RepeatingSnapshot,
    Snapshot,
    SnapshotStop,
    SnapshotTrigger,
    SnapshotType,
    command_key,
    decode_command,
    encode_command,
)
from .messages import (
    PARSE_FAILURE_KEY,
    BadRecord,
    EncodedRecord,
    Message,
    MonitorEvent,
    Reply,
    SnapshotData,
    SnapshotDone,
    SnapshotHeader,
    SnapshotTail,
    ValueReply,
    decode_record,
    encode_record,
    reply_key,
)
from .names import PvUri, check_field_names, check_uri, monitor_share, monitor_topic, parse_uri, snapshot_topic
from .serialization import HEADER, BadPutValue, Serialization, decode_put_value, encode_put_value

__all__ = [
    "HEADER",
    "PARSE_FAILURE_KEY",
    "BadCommand",
    "BadPutValue",
    "BadRecord",
    "Command",
    "EncodedRecord",
    "Get",
    "Message",
    "Monitor",
    "MonitorEvent",
    "MultiMonitor",
    "Put",
    "PvUri",
    "RepeatingSnapshot",
    "Reply",
    "Serialization",
    "Snapshot",
    "SnapshotData",
    "SnapshotDone",
    "SnapshotHeader",
    "SnapshotStop",
    "SnapshotTail",
    "SnapshotTrigger",
    "SnapshotType",
    "ValueReply",
    "check_field_names",
    "check_uri",
    "command_key",
    "decode_command",
    "decode_put_value",
    "decode_record",
    "encode_command",
    "encode_put_value",
    "encode_record",
    "monitor_share",
    "monitor_topic",
    "parse_uri",
    "reply_key",
    "snapshot_topic",
]
