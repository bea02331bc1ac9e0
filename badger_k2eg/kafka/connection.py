"""``KafkaConnection``: where the brokers are and how to log in, and the defaults that bound every wait.

Owns the configuration of each librdkafka handle. A frozen value that opens nothing. The option names are those of
librdkafka's CONFIGURATION.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from ..core.errors import SettingsError

# The value of an option whose name contains one of these is not shown.
_SECRET = ("password", "secret", "key", "token", "sasl.oauthbearer", "sasl.username", "pem")

# librdkafka's own defaults let a call wait for minutes after a broker has come back.
_COMMON: dict[str, Any] = {
    "socket.timeout.ms": 10_000,
    "socket.connection.setup.timeout.ms": 5_000,
    "socket.keepalive.enable": True,
    "socket.nagle.disable": True,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,
    "retry.backoff.ms": 50,
    "statistics.interval.ms": 1_000,
    "log.connection.close": False,
}
_CONSUMER: dict[str, Any] = {
    "enable.auto.commit": False,
    # A topic that is added is first fetched when the fetch under way has returned.
    "fetch.wait.max.ms": 50,
    "fetch.error.backoff.ms": 50,
    "allow.auto.create.topics": False,
}
_PRODUCER: dict[str, Any] = {
    # A retry inside librdkafka must not do a put twice.
    "enable.idempotence": True,
    "linger.ms": 0,
    "message.timeout.ms": 5_000,
    "topic.metadata.propagation.max.ms": 5_000,
}


@dataclass(frozen=True, slots=True, repr=False)
class KafkaConnection:
    """Where the brokers are, and librdkafka's options (SASL, TLS, limits), passed through unchanged.

    :param bootstrap: ``HOST:PORT``, or several separated by commas.
    :param options: by librdkafka's names, e.g. ``{"security.protocol": "SASL_SSL", "message.max.bytes": 4000000}``.
        They override the defaults of this package. The representation shows no secrets.
    :raises SettingsError: for an empty bootstrap.
    """

    bootstrap: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the options."""
        if not self.bootstrap.strip():
            raise SettingsError("no Kafka broker given; bootstrap is HOST:PORT, or several separated by commas")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __repr__(self) -> str:
        shown = {name: "***" if is_secret(name) else value for name, value in self.options.items()}
        return f"KafkaConnection({self.bootstrap!r}, {shown!r})"

    def __hash__(self) -> int:
        return hash((self.bootstrap, frozenset((name, str(value)) for name, value in self.options.items())))

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """Return the same connection with more options, which override the present ones."""
        return type(self)(self.bootstrap, {**self.options, **options})

    def consumer(self) -> dict[str, Any]:
        """Return the configuration of a consumer."""
        return {**_COMMON, **_CONSUMER, **self.options, "bootstrap.servers": self.bootstrap}

    def producer(self) -> dict[str, Any]:
        """Return the configuration of a producer."""
        return {**_COMMON, **_PRODUCER, **self.options, "bootstrap.servers": self.bootstrap}

    def admin(self) -> dict[str, Any]:
        """Return the configuration of a handle that only asks about topics."""
        # It is not polled between two calls: its statistics would pile up.
        quiet = {"statistics.interval.ms": 0}
        return {**_COMMON, **quiet, **self.options, "bootstrap.servers": self.bootstrap}


def is_secret(option: str) -> bool:
    """Return whether the value of an option must not be shown."""
    return any(word in option.lower() for word in _SECRET)
