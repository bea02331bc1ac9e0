"""Three brokers, one of which dies under load; and a broker that asks for a password, or for TLS.

Not part of a plain run: `make test-cluster`. Needs Java 17 and Maven, and openssl for the certificates.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from badger_k2eg.core.deadline import Deadline
from badger_k2eg.errors import AuthenticationFailed
from badger_k2eg.kafka import Delivery, KafkaConnection, KafkaRecord, Producer, Start, TopicReader, Topics
from badger_k2eg.testing.kafka_server import KafkaServer, NodePorts, kafka_jars
from badger_k2eg.testing.soft_ioc import MissingTestPart
from tests.rig.waiting import eventually

from .kafka_parts import within, write

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

RECORDS = 6000
STORE_PASSWORD = "not-a-secret"


@pytest.fixture(scope="module", autouse=True)
def jars() -> Path:
    try:
        return kafka_jars()
    except MissingTestPart as error:
        pytest.skip(str(error))


@pytest.fixture
def cluster() -> Iterator[list[KafkaServer]]:
    """Three nodes; each is ready only when two are there."""
    ports = [NodePorts() for _ in range(3)]
    properties = {"min.insync.replicas": "2"}
    with contextlib.ExitStack() as running, ThreadPoolExecutor(3) as pool:
        starting = [pool.submit(KafkaServer, ports, node, properties=properties, heap="384m") for node in range(3)]
        yield [running.enter_context(each.result()) for each in starting]


def test_one_of_three_brokers_is_killed_under_load(cluster: list[KafkaServer]) -> None:
    connection = KafkaConnection(",".join(node.bootstrap for node in cluster), {"message.timeout.ms": 60_000})
    topic = "load"
    topics = Topics(connection)
    topics.create(topic, Deadline(60), partitions=3, replication=3)
    got: list[KafkaRecord] = []
    reader, writer = TopicReader(connection, got.append), Producer(connection)
    reader.assign([topic], Deadline(60))
    deliveries: list[tuple[bytes, Delivery]] = []

    def flood() -> None:
        for number in range(RECORDS):
            value = b"%d" % number
            error = writer.send(
                topic,
                value,
                key=b"%d" % (number % 7),
                on_delivery=lambda each, value=value: deliveries.append((value, each)),
            )
            assert error is None
            time.sleep(0.002)

    flooding = threading.Thread(target=flood)
    flooding.start()
    time.sleep(2)
    cluster[1].down()
    time.sleep(4)
    cluster[1].up()
    flooding.join()
    eventually(lambda: len(deliveries) == RECORDS, what="every record reported", seconds=90)
    acknowledged = {value for value, each in deliveries if each.error is None}
    eventually(
        lambda: {record.value for record in got} >= acknowledged, what="all that was acknowledged is read", seconds=60
    )
    assert len(acknowledged) == RECORDS
    values = [record.value for record in got]
    assert len(values) == len(set(values)), "a record came twice"
    for part in range(3):
        numbers = [int(record.value or b"") for record in got if record.partition == part]
        assert numbers == sorted(numbers)
    # The same once more, from what the brokers have stored.
    stored: list[KafkaRecord] = []
    again = TopicReader(connection, stored.append)
    again.assign([topic], Deadline(60), Start.BEGINNING)
    eventually(lambda: len(stored) == RECORDS, what="all is stored", seconds=60)
    for part in (reader, again, writer, topics):
        part.close()


def _exchange(connection: KafkaConnection) -> None:
    topics = Topics(connection)
    topics.create("secured", within(), partitions=1)
    got: list[KafkaRecord] = []
    reader, writer = TopicReader(connection, got.append, topics=topics), Producer(connection)
    reader.assign(["secured"], within())
    write(writer, "secured", b"1")
    eventually(lambda: bool(got), what="read")
    for part in (reader, writer, topics):
        part.close()


def test_password() -> None:
    with KafkaServer() as server:
        _exchange(server.sasl())
        topics = Topics(server.sasl("wrong"))
        with pytest.raises(AuthenticationFailed, match=server.sasl().bootstrap):
            topics.exists("secured", within())
        topics.close()


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _certificates(folder: Path) -> tuple[Path, Path]:
    """Make an authority, and a key store with a certificate of it for loopback."""
    authority, key = folder / "authority.pem", folder / "authority.key"
    name = ["-subj", "/CN=badger-k2eg tests"]
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", authority, *name)
    request, server_key = folder / "server.csr", folder / "server.key"
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", server_key, "-out", request, "-subj", "/CN=127.0.0.1")
    extensions, certificate, store = folder / "extensions", folder / "server.pem", folder / "server.p12"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ["-CA", authority, "-CAkey", key, "-CAcreateserial", "-days", "2", "-extfile", extensions]
    _openssl("x509", "-req", "-in", request, "-out", certificate, *signed)
    export = ["-inkey", server_key, "-out", store, "-passout", f"pass:{STORE_PASSWORD}"]
    _openssl("pkcs12", "-export", "-in", certificate, *export)
    return authority, store


def test_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("the certificates are made with openssl, which is not on the path")
    authority, store = _certificates(tmp_path)
    properties = {
        "ssl.keystore.location": str(store),
        "ssl.keystore.password": STORE_PASSWORD,
        "ssl.keystore.type": "PKCS12",
    }
    with KafkaServer(properties=properties) as server:
        bootstrap = f"127.0.0.1:{server.ports.tls}"
        options = {"security.protocol": "SSL", "ssl.ca.location": str(authority)}
        _exchange(KafkaConnection(bootstrap, options))
        topics = Topics(KafkaConnection(bootstrap, {"security.protocol": "SSL"}))
        with pytest.raises(AuthenticationFailed, match=rf"(?s){bootstrap}.*certificate"):
            topics.exists("secured", within())
        topics.close()
