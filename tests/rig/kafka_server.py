"""Apache Kafka on loopback, for tests and benchmarks: one node in KRaft mode, broker and controller in one JVM.

Owns the jars (fetched once with Maven from `tests/kafka/pom.xml` into the user's cache), the configuration and the
life of a node. A small Python process starts the JVM and ends it when the test's process is gone. Imports kafka.
Source: Apache Kafka documentation, "KRaft", "Broker Configs".
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import filelock
import platformdirs

from badger_k2eg.kafka import KafkaConnection
from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.ports import LOOPBACK, free_port
from badger_k2eg.testing.processes import ChildProcess, announce_ready, clean_environment, exit_with_parent
from badger_k2eg.testing.soft_ioc import MissingTestPart

POM = Path(__file__).parents[1] / "kafka" / "pom.xml"
#: What `KafkaServer.sasl` needs.
USER, PASSWORD = "tester", "not-a-secret"

_CLUSTER_ID = "YmFkZ2VyLWsyZWctdGVzdA"  # 16 bytes in base64
_JAVA = 17
_FETCH_SECONDS = 600
_READY_SECONDS = 60.0
_STARTED = "Kafka Server started"
_LOG = "kafka.log"
_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_LOG4J = """\
<Configuration><Appenders><Console name="out"><PatternLayout pattern="%d %p %c{1}: %m%n"/></Console></Appenders>
<Loggers><Root level="info"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The ports of one node."""

    plain: int = field(default_factory=free_port)
    sasl: int = field(default_factory=free_port)
    tls: int = field(default_factory=free_port)
    controller: int = field(default_factory=free_port)


class KafkaServer(Broker):
    """One node of Apache Kafka; alone, or one of several.

    :param cluster: the ports of all its nodes; of this one alone by default.
    :param node: which of them this is, from 0.
    :param properties: more lines of `server.properties`, e.g. the key stores that switch its TLS listener on.
    :param heap: of the JVM, e.g. ``512m``.
    :raises MissingTestPart: without Java 17 and Maven, or when the jars cannot be fetched.
    :raises ChildFailed: if it does not start; the message has its log.
    """

    kind = "kafka"

    def __init__(
        self,
        cluster: Sequence[NodePorts] | None = None,
        node: int = 0,
        *,
        properties: Mapping[str, str] | None = None,
        heap: str = "512m",
    ) -> None:
        """Start it; returns when it serves."""
        jars = kafka_jars()
        nodes = list(cluster or [NodePorts()])
        self.ports = nodes[node]
        #: Where its data and its log are; removed at the end.
        self.directory = Path(tempfile.mkdtemp(prefix="badger-k2eg-kafka-"))
        text = "".join(f"{name}={value}\n" for name, value in self._properties(nodes, node, properties or {}).items())
        (self.directory / "server.properties").write_text(text)
        (self.directory / "log4j2.xml").write_text(_LOG4J)
        try:
            self._child = _Group(
                ["-m", __name__, str(self.directory), str(jars), heap],
                environment=clean_environment({}),
                name=f"Kafka node {node + 1}",
                ready_timeout=_READY_SECONDS,
            )
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    @property
    def connection(self) -> KafkaConnection:
        """A connection to its plain listener."""
        return KafkaConnection(f"{LOOPBACK}:{self.ports.plain}")

    def sasl(self, password: str = PASSWORD) -> KafkaConnection:
        """Give a connection to its listener with SASL/PLAIN, without TLS."""
        return KafkaConnection(
            f"{LOOPBACK}:{self.ports.sasl}",
            {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": USER,
                "sasl.password": password,
            },
        )

    @property
    def log(self) -> str:
        """What the JVM has logged."""
        return (self.directory / _LOG).read_text(errors="replace")

    def down(self) -> None:
        """Kill it; its data stay."""
        self._child.kill()

    def up(self) -> None:
        """Start it again, with its data; nothing happens if it runs."""
        if not self._child.alive:
            self._child.restart()

    def close(self) -> None:
        """End it and remove its data. Idempotent."""
        self._child.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _properties(self, nodes: Sequence[NodePorts], node: int, more: Mapping[str, str]) -> dict[str, str]:
        ports, copies = nodes[node], str(min(3, len(nodes)))
        listeners = {"PLAINTEXT": ports.plain, "SASL_PLAINTEXT": ports.sasl}
        if any(name.startswith("ssl.keystore") for name in more):
            listeners["SSL"] = ports.tls
        served = ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items())
        return {
            "process.roles": "broker,controller",
            "node.id": str(node + 1),
            "controller.quorum.voters": ",".join(
                f"{number}@{LOOPBACK}:{each.controller}" for number, each in enumerate(nodes, 1)
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": f"{served},CONTROLLER://{LOOPBACK}:{ports.controller}",
            "advertised.listeners": served,
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,"
            + ",".join(f"{name}:{name}" for name in ("PLAINTEXT", "SASL_PLAINTEXT", "SSL")),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{_LOGIN} required user_{USER}="{PASSWORD}";',
            "log.dirs": str(self.directory / "data"),
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "default.replication.factor": copies,
            "group.initial.rebalance.delay.ms": "0",
            # A node that was killed may come back once the controller has noticed.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "200",
            # The defaults are for large machines.
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": "2097152",
            **more,
        }


def kafka_jars() -> Path:
    """Give the folder with Kafka's jars; Maven fetches them at the first time.

    :raises MissingTestPart: saying what is missing.
    """
    _check_java()
    version = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    jars = platformdirs.user_cache_path("badger-k2eg") / f"kafka-jars-{version}"
    jars.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{jars}.lock", timeout=_FETCH_SECONDS):
        if not jars.exists():
            _fetch(jars)
    return jars


def _check_java() -> None:
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise MissingTestPart(
                f"Apache Kafka needs Java {_JAVA} and Maven: there is no `{program}` on the path; "
                "on Debian: apt install maven"
            )
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < _JAVA:
        raise MissingTestPart(
            f"Apache Kafka needs Java {_JAVA}; `java -version` says: {said.strip() or 'nothing'}; "
            "on Debian: apt install default-jre-headless"
        )


def _fetch(jars: Path) -> None:
    partial = Path(tempfile.mkdtemp(dir=jars.parent, prefix="fetching-"))
    try:
        said = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={partial}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_FETCH_SECONDS,
        )
        if said.returncode:
            raise MissingTestPart(f"Maven cannot fetch Apache Kafka: {(said.stdout + said.stderr).strip()[:500]}")
        partial.rename(jars)
    except subprocess.TimeoutExpired:
        raise MissingTestPart(f"Maven has not fetched Apache Kafka within {_FETCH_SECONDS} s") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Group(ChildProcess):
    """A child whose end is also that of its own children."""

    def kill(self) -> None:
        """End the whole process group with SIGKILL."""
        if self.alive and os.getpid() == self._owner:
            os.killpg(self.pid, signal.SIGKILL)
        super().kill()


def main() -> None:
    """Run the JVM; says READY when it serves, and ends with it or with the parent."""
    parser = argparse.ArgumentParser(description="Apache Kafka for the tests of badger-k2eg")
    for name in ("directory", "jars", "heap"):
        parser.add_argument(name)
    options = parser.parse_args()
    directory = Path(options.directory)
    exit_with_parent(directory, whole_group=True)
    java = ["java", "-cp", f"{options.jars}/*", f"-Dlog4j2.configurationFile={directory / 'log4j2.xml'}"]
    # Quick to start rather than fast in the long run.
    java += [f"-Xmx{options.heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    properties = str(directory / "server.properties")
    log = directory / _LOG
    with log.open("ab") as output:
        if not (directory / "data" / "meta.properties").exists():
            _run([*java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", properties], output).wait()
        begin = output.seek(0, os.SEEK_END)
        server = _run([*java, "kafka.Kafka", properties], output)
    while server.poll() is None and _STARTED not in log.read_text(errors="replace")[begin:]:
        time.sleep(0.05)
    if server.poll() is None:
        announce_ready()
    server.wait()
    print(log.read_text(errors="replace")[-4000:], flush=True)
    sys.exit(f"Kafka ended with code {server.returncode}")


def _run(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
