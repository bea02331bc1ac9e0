"""``Consuming``: what every reader is. Imports errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.errors import KafkaError
from .broker_health import Watch
from .inherited import Consumer
from .late import Late
from .owner import Owner
from .records import BrokerTrouble, KafkaRecord


class Consuming(Late):
    """A consumer with its thread, opened when it is needed and closed once."""

    def _begin(self) -> None:
        super()._begin()
        self._watch = Watch(self._name, self._connection.bootstrap)
        self._owner: Owner | None = None

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
