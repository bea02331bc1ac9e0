"""The command `badger-k2eg gateway`: how it begins, what it says, how it ends; and several of them."""

from __future__ import annotations

import configparser
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from badger_k2eg.k2eg import codec
from badger_k2eg.k2eg.codec import Reply, ValueReply
from badger_k2eg.kafka import EmbeddedBroker
from badger_k2eg.testing.broker import Broker, ExternalBroker
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.ports import free_port
from badger_k2eg.testing.soft_ioc import SoftIoc, random_prefix

from .wire import Wire

pytestmark = pytest.mark.kafka

Factory = Callable[..., GatewayProcess]


def run(*options: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"K2EG_PYTHON_CONFIGURATION_PATH_FOLDER": str(folder)} if folder else {})}
    return subprocess.run(
        [sys.executable, "-m", "badger_k2eg.cli", "gateway", *options],
        capture_output=True,
        text=True,
        timeout=150,
        env=environment,
    )


class OwnBroker(ExternalBroker):
    """The broker that a gateway has brought."""

    def __init__(self, gateway: GatewayProcess) -> None:
        super().__init__(gateway.bootstrap)
        self._connection = self._connection.with_options(EmbeddedBroker.suited)


def test_with_a_broker_of_its_own_it_serves_both_transports(soft_ioc: SoftIoc, gateway_factory: Factory):
    with (
        gateway_factory(broker=None) as gateway,
        Wire(OwnBroker(gateway), gateway.command_topic) as wire,
    ):
        wire.listen("replies")
        for scheme in ("pva", "ca"):
            reply = wire.ask(codec.Get, topic="replies", pv_name=f"{scheme}://{soft_ioc.pv('DBL')}")
            assert isinstance(reply, ValueReply)
            assert (reply.pv, reply.tree["display"]["units"]) == (soft_ioc.pv("DBL"), "mm")
        path = gateway.folder / "gateway.ini"
        ini = configparser.ConfigParser()
        ini.read(path)
        assert ini.defaults()["kafka_broker_url"] == gateway.bootstrap
        assert ini.defaults()["k2eg_cmd_topic"] == gateway.command_topic
        assert path.stat().st_mode & 0o777 == 0o644
        assert [other.name for other in gateway.folder.iterdir()] == ["gateway.ini"]


def test_what_listens_listens_on_loopback(gateway_factory: Factory):
    gateway = gateway_factory(broker=None)
    listening = [c for c in psutil.Process(gateway.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(gateway_factory: Factory, number: signal.Signals):
    gateway = gateway_factory(broker=None)
    assert gateway.end(number) == 0
    assert "Traceback" not in gateway.output


def test_it_ends_cleanly_under_load(soft_ioc: SoftIoc, broker: Broker, gateway_factory: Factory):
    gateway = gateway_factory()
    with Wire(broker, gateway.command_topic) as wire:
        topic = f"replies-{random_prefix()}"
        wire.listen(topic)
        for name in ("COUNT", "DBL"):
            wire.ask(codec.Monitor, topic=topic, pv_name=f"pva://{soft_ioc.pv(name)}")
        wire.ask(
            codec.RepeatingSnapshot,
            topic=topic,
            snapshot_name=topic,
            pv_name_list=(f"pva://{soft_ioc.pv('COUNT')}",),
            time_window_msec=50,
        )
        for number in range(10):
            wire.send(codec.Get(pv_name=f"pva://NO:{number}", reply_topic=topic, reply_id="x"))
        assert gateway.end(signal.SIGTERM) == 0
    assert "Traceback" not in gateway.output


@pytest.mark.parametrize(
    ("options", "says", "value", "code"),
    [
        ((), "read-only: no PV is written", "this gateway is read-only: nothing is written", -2),
        (("--allow-write", "*:INT", "--allow-write", "QUAD:*"), "may write *:INT, QUAD:*", "this gateway may not", -2),
        (("--allow-write", "*:DBL"), "may write *:DBL", "Successfull operation", 0),
    ],
)
def test_it_says_what_it_may_write_and_writes_nothing_else(
    soft_ioc: SoftIoc,
    broker: Broker,
    gateway_factory: Factory,
    options: tuple[str, ...],
    says: str,
    value: str,
    code: int,
):
    gateway = gateway_factory(*options)
    assert says in gateway.output.splitlines()
    with Wire(broker, gateway.command_topic) as wire:
        topic = f"replies-{random_prefix()}"
        wire.listen(topic)
        uri = f"pva://{soft_ioc.pv('DBL')}"
        before = wire.ask(codec.Get, topic=topic, pv_name=uri)
        assert isinstance(before, ValueReply)
        put = codec.encode_put_value({"value": before.tree["value"] / 2})
        reply = wire.ask(codec.Put, topic=topic, pv_name=uri, value=put)
        assert isinstance(reply, Reply)
        assert reply.error == code
        assert value in (reply.message or "")
        after = wire.ask(codec.Get, topic=topic, pv_name=uri)
        assert isinstance(after, ValueReply)
        assert (after.tree["value"] == before.tree["value"]) is (code != 0)
        if code == 0:
            back = codec.encode_put_value({"value": before.tree["value"]})
            wire.ask(codec.Put, topic=topic, pv_name=uri, value=back)


def test_several_share_the_commands(soft_ioc: SoftIoc, broker: Broker, gateway_factory: Factory):
    shared = {"command_topic": f"cmd-{random_prefix()}", "group": f"group-{random_prefix()}"}
    first, second = gateway_factory(**shared), gateway_factory(**shared)
    with Wire(broker, first.command_topic) as wire:
        topic = f"replies-{random_prefix()}"
        wire.listen(topic)

        def ask(word: str) -> float:
            ids = [f"{word}-{number}" for number in range(40)]
            for reply_id in ids:
                wire.send(codec.Get(pv_name=f"pva://{soft_ioc.pv('DBL')}", reply_topic=topic, reply_id=reply_id))
            wire.until(lambda: all(wire.replies(reply_id) for reply_id in ids))
            return sum(len(wire.replies(reply_id)) for reply_id in ids) / len(ids)

        def ask_all(word: str) -> None:
            # By one of them, not by both; while they share out the topic anew, Kafka may give a command twice.
            assert any(ask(f"{word}-{turn}") < 1.5 for turn in range(6))

        ask_all("both")
        assert second.end(signal.SIGTERM) == 0
        ask_all("one")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "which broker? --environment NAME, or --embedded-broker"),
        (("--environment", "nope"), "K2EG environment 'nope'"),
        (("--embedded-broker", "--allow-write", " "), "--allow-write: an empty pattern fits nothing"),
        (("--embedded-broker", "--revision", "C"), "'C' is not one of"),
        (("--embedded-broker", "--monitor-expiry", "0"), "--monitor-expiry"),
        (("--embedded-broker", "--monitor-expiry", "nan"), "--monitor-expiry: not a number of seconds"),
        (("--embedded-broker", "--group", " "), "--group: the name of a consumer group cannot be empty"),
        (("--embedded-broker", "--purge"), "--purge needs --monitor-expiry"),
        (("--embedded-broker", "--write-environment", "desk.txt"), "desk.txt is not a FILE.ini"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, options: tuple[str, ...], words: str):
    done = run(*options, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert words in line


def test_a_broker_that_is_not_there_is_named(tmp_path: Path):
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "lab.ini").write_text(f"[DEFAULT]\nkafka_broker_url = {address}\nk2eg_cmd_topic = cmd\n")
    done = run("--environment", "lab", folder=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"broker {address} does not answer" in line
