"""Every recorded record is read, and written again with the same key, header, keys and types; every command is read."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from badger_k2eg.k2eg import codec
from badger_k2eg.k2eg.codec import BadCommand, BadRecord, Serialization

from .recorded import SCENARIOS, RecordedMessage, Scenario

MESSAGES = [
    pytest.param(message, id=f"{scenario.name}-{index}")
    for scenario in SCENARIOS
    for index, message in enumerate(scenario.messages)
]
#: What is no command by the gateway's own rules.
NOT_COMMANDS = {
    "cmd_command_not_string": ("app-reply", True),
    "cmd_empty_message": ("", False),
    "cmd_empty_object": ("", False),
    "cmd_json_array": ("", False),
    "cmd_missing_pv_name": ("app-reply", True),
    "cmd_not_json": ("", False),
    "cmd_truncated_json": ("app-reply", True),
    "cmd_unknown_json": ("app-reply", True),
    "cmd_unknown_no_reply": ("", False),
    "cmd_upper_case": ("app-reply", True),
    "get_no_reply_topic": ("", False),
    "put_json_value_map": ("app-reply", True),
    "put_no_value": ("app-reply", True),
    "put_value_not_string": ("app-reply", True),
    "snapshot_oneshot_empty": ("app-reply", True),
    "snapshot_oneshot_no_reply_id": ("app-reply", False),
}


def test_there_are_scenarios():
    assert len(SCENARIOS) > 150
    assert set(NOT_COMMANDS) < {scenario.name for scenario in SCENARIOS}


@pytest.mark.parametrize("recorded", MESSAGES)
def test_a_record_is_read_and_written_alike(recorded: RecordedMessage):
    message = codec.decode_record(recorded.value, recorded.headers)
    assert not isinstance(message, BadRecord)
    serialization = Serialization(recorded.headers[0][1].decode().lower())
    assert recorded.key is not None
    written = codec.encode_record(message, recorded.key, serialization)
    assert written.key == recorded.key.encode()
    assert written.headers == recorded.headers
    assert body(written.value, serialization) == body(recorded.value, serialization)
    if serialization is Serialization.MSGPACK:
        # The gateway's order of keys, and its types, down to the byte.
        assert written.value == recorded.value


def body(value: bytes, serialization: Serialization) -> Any:
    return json.loads(value) if serialization is Serialization.JSON else repr(msgpack.unpackb(value))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_commands_are_read(scenario: Scenario):
    for _, raw in scenario.commands:
        command = codec.decode_command(raw)
        if scenario.name in NOT_COMMANDS:
            assert isinstance(command, BadCommand)
            assert (command.reply_topic, command.answerable) == NOT_COMMANDS[scenario.name]
        else:
            assert not isinstance(command, BadCommand)
            # The client's role writes what the gateway's role reads.
            assert codec.decode_command(codec.encode_command(command)) == command


def test_put_payloads_are_read():
    checked = 0
    for scenario in SCENARIOS:
        payloads = [action["payload"] for action in scenario.actions if action["action"] == "put_payload"]
        commands = [codec.decode_command(raw) for _, raw in scenario.commands]
        puts = [command for command in commands if isinstance(command, codec.Put)]
        for payload, put in zip(payloads, puts, strict=False):
            if payload is None or scenario.name in ("put_nan",):
                continue
            if isinstance(payload, dict) and not scenario.name.startswith("put_bad"):
                assert codec.decode_put_value(put.value) == payload
                checked += 1
    assert checked > 25


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("put_bad_empty", -1, "Base64 decode error during put command processing"),
        ("put_bad_not_base64", -1, "Base64 decode error during put command processing"),
        ("put_bad_plain_number", -1, "Base64 decode error during put command processing"),
        ("put_bad_not_map", -3, "Msgpack object need to be a map"),
        ("put_bad_truncated_msgpack", -1, None),
    ],
)
def test_bad_put_values(name: str, code: int, text: str | None):
    (scenario,) = [each for each in SCENARIOS if each.name == name]
    put = codec.decode_command(scenario.commands[0][1])
    assert isinstance(put, codec.Put)
    assert codec.decode_put_value(put.value) == codec.BadPutValue(code, text)
    if scenario.messages:
        assert (scenario.messages[0].body["error"], scenario.messages[0].body.get("message")) == (code, text)
