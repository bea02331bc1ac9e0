"""``BrokerHealth``: what librdkafka reports about its brokers, and its errors as exceptions of this package.

Owns the translation of the library's error codes into `KafkaError` and its subclasses.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

from confluent_kafka import KafkaError as Code

from ..core.errors import (
    AuthenticationFailed,
    BrokerUnreachable,
    KafkaError,
    MessageTooLarge,
    TopicMissing,
    TopicRefused,
    WriterFull,
)
from .records import BrokerTrouble

logger = logging.getLogger("badger_k2eg.kafka")

# "sasl_ssl://host:9093/2: reason (after 3ms in state CONNECT)"; a coordinator's name precedes its address.
_REPORT = re.compile(
    r"^(?:\w+: )?(?:\w+://)?(?P<broker>[^\s/]+:\d+)(?P<role>/\w+)?: (?P<reason>.*?)(?: \(after .*)?$", re.S
)
_ADDRESS = re.compile(r"(?:\w+://)?([^\s/]+:\d+)")
_LOCAL_ADDRESS = re.compile(r"Connect to \S+ failed: ")
_BOOTSTRAP = "/bootstrap"

_SILENT = {
    Code._TRANSPORT,
    Code._DESTROY_BROKER,
    Code._RESOLVE,
    Code._TIMED_OUT,
    Code._MSG_TIMED_OUT,
    Code._ALL_BROKERS_DOWN,
    Code._WAIT_COORD,
    Code.REQUEST_TIMED_OUT,
    Code.NETWORK_EXCEPTION,
    Code.BROKER_NOT_AVAILABLE,
}
_UNTRUSTED = {Code._AUTHENTICATION, Code._SSL, Code.SASL_AUTHENTICATION_FAILED}
_KINDS: dict[type[KafkaError], set[int]] = {
    BrokerUnreachable: _SILENT,
    AuthenticationFailed: _UNTRUSTED,
    TopicMissing: {Code.UNKNOWN_TOPIC_OR_PART, Code._UNKNOWN_TOPIC, Code._UNKNOWN_PARTITION},
    TopicRefused: {
        Code.TOPIC_AUTHORIZATION_FAILED,
        Code.CLUSTER_AUTHORIZATION_FAILED,
        Code.GROUP_AUTHORIZATION_FAILED,
        Code.POLICY_VIOLATION,
        Code.INVALID_CONFIG,
        Code.INVALID_PARTITIONS,
        Code.INVALID_REPLICATION_FACTOR,
        Code.INVALID_REQUEST,
        Code.TOPIC_EXCEPTION,
        Code.TOPIC_DELETION_DISABLED,
        Code._UNSUPPORTED_FEATURE,
        Code.UNSUPPORTED_VERSION,
    },
    MessageTooLarge: {Code.MSG_SIZE_TOO_LARGE, Code.RECORD_LIST_TOO_LARGE},
    WriterFull: {Code._QUEUE_FULL},
}
_KIND_OF = {code: kind for kind, codes in _KINDS.items() for code in codes}


class BrokerHealth:
    """Collects what one handle reports about its brokers. Its methods are callbacks of the library.

    :param name: of the handle, for the log.
    :param bootstrap: named in errors for which the library names no broker.
    :param warn: log a broker that stops answering as a warning; not needed where every caller gets an error.
    """

    def __init__(self, name: str, bootstrap: str, *, warn: bool = True) -> None:
        """Start without any trouble."""
        self._name = name
        self._level = logging.WARNING if warn else logging.DEBUG
        self._bootstrap = bootstrap
        self._troubles: dict[str, BrokerTrouble] = {}
        #: Whether the handle is of no more use, and must be replaced.
        self.fatal = False

    @property
    def callbacks(self) -> dict[str, Any]:
        """The part of a handle's configuration that makes it report here."""
        return {"error_cb": self._error, "stats_cb": self._statistics, "logger": _LibraryLog(self._name)}

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that has not answered for the longest time; None if all do, as far as is known."""
        return min(list(self._troubles.values()), key=lambda trouble: trouble.since, default=None)

    def forget(self) -> None:
        """Forget all troubles."""
        self._troubles.clear()

    def failure(self, what: str, error: Code) -> KafkaError:
        """Translate an error of the library.

        :param what: what was attempted, with the name of the topic.
        """
        return self._failure(what, error.code(), error.str())

    def timed_out(self, what: str) -> KafkaError:
        """Return the error of a call that ran out of time."""
        return self._failure(what, Code._TIMED_OUT, "")

    def _failure(self, what: str, code: int, text: str) -> KafkaError:
        """Return the error for a code; one about a broker names the broker that is in trouble."""
        kind = _KIND_OF.get(code, KafkaError)
        trouble = self.trouble if kind in (BrokerUnreachable, AuthenticationFailed) else None
        if trouble is not None:
            kind = AuthenticationFailed if trouble.authentication else BrokerUnreachable
            return kind(f"{what}: {trouble}", trouble.broker)
        if kind is BrokerUnreachable:
            return BrokerUnreachable(f"{what}: no answer in time from broker {self._bootstrap}", self._bootstrap)
        return kind(f"{what}: {text}")

    def _error(self, error: Code) -> None:
        """Note that a broker does not answer, or refuses access."""
        self.fatal = self.fatal or error.fatal()
        report = _REPORT.match(error.str())
        if error.code() not in _SILENT | _UNTRUSTED or not report:
            logger.debug("%s: %s", self._name, error.str())
            return
        broker = report["broker"]
        key = broker + (report["role"] if report["role"] == _BOOTSTRAP else "")
        known = self._troubles.get(key)
        reason = _LOCAL_ADDRESS.sub("", report["reason"]).strip()
        trouble = BrokerTrouble(
            broker, reason, known.since if known else time.time(), authentication=error.code() in _UNTRUSTED
        )
        if self.trouble is None:
            logger.log(self._level, "%s: %s", self._name, trouble)
        self._troubles[key] = trouble

    def _statistics(self, text: str) -> None:
        """Note the brokers that answer again."""
        if not self._troubles:
            return
        brokers = json.loads(text)["brokers"].values()
        up = {found[1] for each in brokers if each["state"] == "UP" and (found := _ADDRESS.match(each["name"]))}
        # Once the cluster is known, the library never returns to an address of the bootstrap list.
        well = [key for key in self._troubles if key in up or (up and key.endswith(_BOOTSTRAP))]
        for key in well:
            del self._troubles[key]
        if well and not self._troubles:
            logger.info("%s: the brokers answer again", self._name)


class _LibraryLog:
    """The library's log: for debugging only, since what matters is reported as an error too. It shows no secrets."""

    def __init__(self, name: str) -> None:
        self._name = name

    def log(self, level: int, text: str, *arguments: Any) -> None:
        """Pass a line on."""
        shown = level if level >= logging.CRITICAL else logging.DEBUG
        logger.log(shown, f"%s: {text}", self._name, *arguments)
