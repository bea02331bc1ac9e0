"""The brokers that `--k2eg-broker` starts: what is said when they cannot be had, and that none outlives its test."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from badger_k2eg.testing.broker import ExternalBroker, start_broker
from badger_k2eg.testing.processes import ChildFailed, clean_environment
from badger_k2eg.testing.soft_ioc import MissingTestPart
from tests.rig import kafka_server
from tests.rig.waiting import eventually

START_AND_WAIT = """
import sys, time
from badger_k2eg.testing.broker import BROKERS
from tests.rig.kafka_server import KafkaServer
broker = {**BROKERS, KafkaServer.kind: KafkaServer}[sys.argv[1]]()
print(broker.bootstrap, flush=True)
time.sleep(600)
"""


def test_wrong_word_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match="--k2eg-broker=kafak: choose embedded, kafka, or HOST:PORT"):
        start_broker("kafak")


def test_external_broker_has_no_faults() -> None:
    with start_broker("127.0.0.1:9092") as broker:
        assert isinstance(broker, ExternalBroker) and broker.bootstrap == "127.0.0.1:9092" and not broker.has_faults
        with pytest.raises(NotImplementedError, match="external"):
            broker.down()


def test_without_java_the_reason_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTestPart, match="Java 17 and Maven: there is no `java`"):
        start_broker("kafka")


def test_maven_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, script in (("java", """echo 'openjdk version "21.0.1"' >&2"""), ("mvn", "echo no network; exit 1")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(kafka_server.platformdirs, "user_cache_path", lambda name: tmp_path / "cache")
    with pytest.raises(MissingTestPart, match="Maven cannot fetch Apache Kafka: no network"):
        kafka_server.kafka_jars()
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_unknown_command_is_refused_with_the_reason() -> None:
    with start_broker("embedded") as broker, pytest.raises(ChildFailed, match="dance"):
        broker._child.command("dance")  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["embedded", pytest.param("kafka", marks=pytest.mark.cluster)])
def test_broker_ends_with_the_process_that_started_it(kind: str) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, kind],
        env=clean_environment({}),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert starter.stdout is not None
        host, _, port = starter.stdout.readline().strip().partition(":")
        assert _answers(host, int(port))
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.communicate()
    eventually(lambda: not _answers(host, int(port)), what="gone")


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
