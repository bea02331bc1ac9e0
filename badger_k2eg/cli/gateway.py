"""``badger-k2eg gateway``: the development gateway in the foreground, until Ctrl-C or SIGTERM.

Owns its options, what it says at its start, and the ini file for its clients.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from ..control import Control, connect
from ..core import settings
from ..core.deadline import Deadline
from ..gateway import COMMAND_PARTITIONS, GROUP, Gateway, Revision
from ..gateway.pv_access import TIMEOUT
from ..k2eg.environment import load_environment
from ..kafka import EmbeddedBroker, KafkaConnection
from .console import say
from .signals import ended_by_signals

#: Of an embedded broker, where no environment names one.
_COMMAND_TOPIC = "cmd-in-topic"
_START_TIMEOUT = 10.0


@click.command()
@click.option("--environment", metavar="NAME", help="the K2EG environment (NAME.ini) with the broker and command topic")
@click.option("--embedded-broker", is_flag=True, help="start a broker inside this process, on this host alone")
@click.option(
    "--write-environment",
    metavar="FILE.ini",
    type=click.Path(dir_okay=False, path_type=Path),
    help="write the ini file with which clients reach this gateway",
)
@click.option("--allow-write", metavar="PATTERN", multiple=True, help="PVs that may be written, as QUAD:*; repeatable")
@click.option(
    "--revision",
    type=click.Choice(list(Revision), case_sensitive=False),
    default=Revision.B,
    show_default=True,
    help="of the protocol: B numbers the messages of recurring snapshots, A does not",
)
@click.option(
    "--monitor-expiry",
    metavar="SECONDS",
    type=click.FloatRange(min=0.0, min_open=True),
    help="drop a monitor that no client has asked for again in this time; by default never",
)
@click.option("--purge", is_flag=True, help="delete the topic of a dropped monitor")
@click.option("--group", default=GROUP, show_default=True, help="gateways of one group share the commands of a topic")
def gateway(
    environment: str | None,
    embedded_broker: bool,
    write_environment: Path | None,
    allow_write: tuple[str, ...],
    revision: str,
    monitor_expiry: float | None,
    purge: bool,
    group: str,
) -> int:
    """Serve pva:// and ca:// PVs to K2EG clients, for development, demonstration and tests.

    It is read-only unless --allow-write says otherwise. Ends with Ctrl-C or SIGTERM.
    """
    if environment is None and not embedded_broker:
        raise click.UsageError("which broker? --environment NAME, or --embedded-broker for one inside this process")
    if any(not pattern.strip() for pattern in allow_write):
        raise click.UsageError("--allow-write: an empty pattern fits nothing; '*' fits every PV")
    if not group.strip():
        raise click.UsageError("--group: the name of a consumer group cannot be empty")
    if monitor_expiry is not None and not math.isfinite(monitor_expiry):
        raise click.UsageError("--monitor-expiry: not a number of seconds; leave it out to drop no monitor")
    if purge and monitor_expiry is None:
        raise click.UsageError("--purge needs --monitor-expiry SECONDS: without it no monitor is dropped")
    if write_environment is not None and write_environment.suffix != ".ini":
        raise click.UsageError(
            f"--write-environment: {write_environment} is not a FILE.ini, and no client would find it"
        )
    # Relative: it looks at nothing afterwards and repeats nothing, like the real one; that is its client's to decide.
    options = {"timeout": TIMEOUT, "put_attempts": 1, "relative": ("*",), "read_only": not allow_write}
    control = Control(connect("pva"), settings.load({**options, **({"allow": allow_write} if allow_write else {})}))
    with ended_by_signals() as ended, _broker(environment, embedded_broker) as (connection, topic):
        served = Gateway(
            connection,
            topic,
            control,
            revision=Revision(revision),
            monitor_expiry=monitor_expiry,
            purge=purge,
            group=group,
        )
        try:
            served.start(Deadline(_START_TIMEOUT))
            if write_environment is not None:
                _write(write_environment, connection, topic, embedded=embedded_broker)
            say(_rights(control.settings), err=True)
            say(f"ready bootstrap={connection.bootstrap} cmd_topic={topic}")
            ended.wait()
        finally:
            served.close()
            control.backend.close()
    return 0


@contextlib.contextmanager
def _broker(environment: str | None, embedded: bool) -> Iterator[tuple[KafkaConnection, str]]:
    """Give the broker and the command topic."""
    named = load_environment(environment) if environment is not None else None
    topic = named.command_topic if named is not None else _COMMAND_TOPIC
    if embedded:
        with EmbeddedBroker() as broker:
            broker.create_topic(topic, COMMAND_PARTITIONS)
            yield broker.connection, topic
    elif named is not None:
        yield KafkaConnection(named.broker, named.kafka), topic


def _rights(in_force: settings.Settings) -> str:
    """Say what may be written."""
    if in_force.read_only:
        return "read-only: no PV is written"
    return "may write " + ", and of these ".join(", ".join(patterns) for patterns in in_force.allow)


def _write(path: Path, connection: KafkaConnection, topic: str, *, embedded: bool) -> None:
    """Write the ini file at once, so that nobody reads half of it; no options, which may be secrets."""
    lines = ["[DEFAULT]", f"kafka_broker_url = {connection.bootstrap}", f"k2eg_cmd_topic = {topic}"]
    if embedded:
        lines += [f"kafka.{name} = {value}" for name, value in connection.options.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    # mkstemp lets nobody else read it; clients may be other users.
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
