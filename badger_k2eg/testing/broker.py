"""Kafka brokers for tests: the embedded one in a process of its own, or one that runs already.

`Broker` is what a test can ask of any broker.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from ..core.deadline import Deadline
from ..kafka import EmbeddedBroker, KafkaConnection, Topics
from .processes import ChildFailed, ChildProcess, announce_ready, clean_environment

_BOOTSTRAP, _DONE = "bootstrap", "done"
_PATIENCE = 10.0
_POLL = 0.002


class Broker(ABC):
    """A Kafka broker that a test may use; a context manager."""

    #: What it is, in one word.
    kind: str
    #: Whether `down` and `up` work.
    has_faults = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    @abstractmethod
    def connection(self) -> KafkaConnection:
        """A connection to the broker, with the options that suit it."""

    @property
    def bootstrap(self) -> str:
        """``HOST:PORT``."""
        return self.connection.bootstrap

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        """Create a topic, unless it exists."""
        topics = Topics(self.connection)
        topics.create(topic, Deadline(_PATIENCE), partitions=partitions)
        topics.close()

    def down(self) -> None:
        """Stop answering; what is stored is kept."""
        raise NotImplementedError(f"a broker of kind {self.kind} cannot be taken down")

    def up(self) -> None:
        """Answer again."""
        raise NotImplementedError(f"a broker of kind {self.kind} cannot be taken up")

    @abstractmethod
    def close(self) -> None:
        """Stop the broker. Idempotent."""


class EmbeddedBrokerProcess(Broker):
    """The embedded broker in a process of its own, so that a test may fork."""

    kind = "embedded"

    def __init__(self) -> None:
        """Start it."""
        arguments = ["-m", __name__]
        self._child = _Commanded(arguments, environment=clean_environment({}), name="embedded broker")
        self._connection = KafkaConnection(self._child.answer(0, _BOOTSTRAP), EmbeddedBroker.suited)

    @property
    def connection(self) -> KafkaConnection:
        """A connection to the broker, with the options that suit it."""
        return self._connection

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        """Create a topic, unless it exists."""
        self._child.command("create_topic", topic, partitions)

    def down(self) -> None:
        """Cut all connections and accept no new ones; what is stored is kept."""
        self._child.command("down")

    def up(self) -> None:
        """Answer again."""
        self._child.command("up")

    def rtt(self, milliseconds: int) -> None:
        """Delay the answer to each request."""
        self._child.command("rtt", milliseconds)

    def push_errors(self, api_key: int, errors: Sequence[int]) -> None:
        """Answer the next requests of this kind with these error codes; see `EmbeddedBroker.push_errors`."""
        self._child.command("push_errors", api_key, list(errors))

    def close(self) -> None:
        """End the process. Idempotent."""
        self._child.close()


class ExternalBroker(Broker):
    """A broker that runs already, outside of the tests; it is not taken down."""

    kind = "external"
    has_faults = False

    def __init__(self, bootstrap: str) -> None:
        """Open nothing."""
        self._connection = KafkaConnection(bootstrap)

    @property
    def connection(self) -> KafkaConnection:
        """A connection to it."""
        return self._connection

    def close(self) -> None:
        """Do nothing: the broker runs on."""


BROKERS: dict[str, Callable[[], Broker]] = {EmbeddedBrokerProcess.kind: EmbeddedBrokerProcess}
"""The kinds of broker that ``--k2eg-broker`` can start; a session may add its own."""


def start_broker(kind: str) -> Broker:
    """Start a broker, or connect to one that runs.

    :param kind: a key of `BROKERS`, or ``HOST:PORT``.
    :raises MissingTestPart: if it needs something that is not installed here.
    :raises ValueError: for an unknown kind.
    """
    if start := BROKERS.get(kind):
        return start()
    if ":" in kind:
        return ExternalBroker(kind)
    raise ValueError(f"--k2eg-broker={kind}: choose {', '.join(BROKERS)}, or HOST:PORT of a broker that runs")


class _Commanded(ChildProcess):
    """A child that executes commands, each a line of JSON on its standard input, and prints when one is done."""

    _sent = 0

    def command(self, method: str, *arguments: Any) -> None:
        """Send a command and wait until it is done.

        :raises ChildFailed: with the child's error if it fails.
        """
        stdin = self._process.stdin if self._process is not None else None
        if stdin is None or not self.alive:
            raise ChildFailed(f"{self!r} cannot be asked for {method}; it printed:\n{self.output}")
        self._sent += 1
        stdin.write(json.dumps([self._sent, method, *arguments]).encode() + b"\n")
        stdin.flush()
        if answer := self.answer(self._sent, _DONE):
            raise ChildFailed(f"{method}{arguments}: {answer}")

    def answer(self, number: int, word: str) -> str:
        """Wait for the line ``NUMBER WORD REST``, and return its rest."""
        until = time.monotonic() + _PATIENCE
        start = f"{number} {word}"
        while time.monotonic() < until:
            for line in self.output.splitlines(keepends=True):
                if line.startswith(start) and line.endswith("\n"):
                    return line.removeprefix(start).strip()
            time.sleep(_POLL)
        raise ChildFailed(f"{self!r} did not answer; it printed:\n{self.output}")


def main() -> None:
    """Serve until the parent has ended, and execute its commands."""
    with EmbeddedBroker() as broker:
        print(0, _BOOTSTRAP, broker.bootstrap, flush=True)
        announce_ready()
        for line in sys.stdin:
            number, method, *arguments = json.loads(line)
            try:
                getattr(broker, method)(*arguments)
                print(number, _DONE, flush=True)
            except Exception as error:  # reported to the test that asked
                print(number, _DONE, repr(error), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
