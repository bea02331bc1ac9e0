"""``Consuming``: what every reader is. Imports errors, fork."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .. import fork
from ..errors import KafkaError
from .connection import KafkaConnection
from .inherited import Consumer
from .owner import Owner
from .values import BrokerTrouble, KafkaRecord
from .watch import Watch


class Consuming:
    """A consumer that is opened when it is needed, and closed once. In a forked child it is as new.

    :param connection: where the brokers are.
    :param name: for the thread and the log.
    """

    def __init__(self, connection: KafkaConnection, name: str) -> None:
        """Open nothing."""
        self._connection = connection
        self._name = name
        self._closed = False
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._watch = Watch(self._name, self._connection.bootstrap)
        self._owner: Owner | None = None
        self._lock = threading.Lock()

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that does not answer at the moment; None as far as is known."""
        return self._watch.trouble

    @property
    def callback_errors(self) -> int:
        """How many times the callback raised."""
        owner = self._owner
        return owner.callback_errors if owner is not None else 0

    def close(self) -> None:
        """End the thread and the consumer; bounded. Idempotent."""
        with self._lock:
            self._closed = True
            owner = self._owner
        if owner is not None:
            owner.close()

    def before_fork(self) -> None:
        """Nothing: the parent goes on reading."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        self._begin()

    def _opened(
        self,
        configuration: dict[str, Any],
        callback: Callable[[KafkaRecord], None],
        when_idle: Callable[[Consumer], None] = lambda consumer: None,
    ) -> Owner:
        """Give the consumer's thread, and start it where there is none; what it reads goes to the callback.

        :raises KafkaError: once closed.
        :raises SettingsError: for a wrong option.
        """
        with self._lock:
            if self._closed:
                raise KafkaError(f"{self._name} is closed")
            if self._owner is None:
                self._owner = Owner(configuration, callback, self._watch, self._name, when_idle)
                self._begun(self._owner)
            return self._owner

    def _begun(self, owner: Owner) -> None:
        """Ask for what comes first, once."""
