"""What librdkafka tells of itself: which broker does not answer, its log, and its errors in our words.

Owns the translation of the library's error codes into `KafkaError` and its children. Imports errors.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException

from ..core.errors import (
    AuthenticationFailed,
    BrokerUnreachable,
    KafkaError,
    MessageTooLarge,
    SettingsError,
    TopicMissing,
    TopicRefused,
    WriterFull,
)
from .records import BrokerTrouble

logger = logging.getLogger("badger_k2eg.kafka")

# "sasl_ssl://host:9093/2: reason (after 3ms in state CONNECT)"; the coordinator's name stands before its address.
_TOLD = re.compile(
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


class Watch:
    """Hears what one handle says of its brokers. Its methods are callbacks of the library.

    :param name: of the handle, for the log.
    :param bootstrap: named where the library names no broker.
    :param warn: log a broker that stops answering as a warning: not where every caller gets an error of his own.
    """

    def __init__(self, name: str, bootstrap: str, *, warn: bool = True) -> None:
        """Know of no trouble."""
        self._name = name
        self._level = logging.WARNING if warn else logging.DEBUG
        self._bootstrap = bootstrap
        self._troubles: dict[str, BrokerTrouble] = {}
        #: The handle can do nothing more; a new one is needed.
        self.fatal = False

    @property
    def callbacks(self) -> dict[str, Any]:
        """The part of a handle's configuration that lets it speak to us."""
        return {"error_cb": self._error, "stats_cb": self._statistics, "logger": _Log(self._name)}

    @property
    def trouble(self) -> BrokerTrouble | None:
        """The broker that has not answered for the longest time; None if all do, as far as is known."""
        return min(list(self._troubles.values()), key=lambda trouble: trouble.since, default=None)

    def forget(self) -> None:
        """Know of no trouble."""
        self._troubles.clear()

    def failure(self, what: str, error: Code) -> KafkaError:
        """Make our error of the library's.

        :param what: what was tried, with the name of the topic.
        """
        return self._failure(what, error.code(), error.str())

    def timed_out(self, what: str) -> KafkaError:
        """Make the error of a call whose time is over."""
        return self._failure(what, Code._TIMED_OUT, "")

    def _failure(self, what: str, code: int, text: str) -> KafkaError:
        kind = _KIND_OF.get(code, KafkaError)
        trouble = self.trouble if kind in (BrokerUnreachable, AuthenticationFailed) else None
        if trouble is not None:
            kind = AuthenticationFailed if trouble.authentication else BrokerUnreachable
            return kind(f"{what}: {trouble}", trouble.broker)
        if kind is BrokerUnreachable:
            return BrokerUnreachable(f"{what}: no answer in time from broker {self._bootstrap}", self._bootstrap)
        return kind(f"{what}: {text}")

    def _error(self, error: Code) -> None:
        self.fatal = self.fatal or error.fatal()
        told = _TOLD.match(error.str())
        if error.code() not in _SILENT | _UNTRUSTED or not told:
            logger.debug("%s: %s", self._name, error.str())
            return
        broker = told["broker"]
        key = broker + (told["role"] if told["role"] == _BOOTSTRAP else "")
        known = self._troubles.get(key)
        reason = _LOCAL_ADDRESS.sub("", told["reason"]).strip()
        trouble = BrokerTrouble(
            broker, reason, known.since if known else time.time(), authentication=error.code() in _UNTRUSTED
        )
        if self.trouble is None:
            logger.log(self._level, "%s: %s", self._name, trouble)
        self._troubles[key] = trouble

    def _statistics(self, text: str) -> None:
        if not self._troubles:
            return
        brokers = json.loads(text)["brokers"].values()
        up = {found[1] for each in brokers if each["state"] == "UP" and (found := _ADDRESS.match(each["name"]))}
        # Once the cluster is known nobody goes back to an address of the bootstrap list.
        well = [key for key in self._troubles if key in up or (up and key.endswith(_BOOTSTRAP))]
        for key in well:
            del self._troubles[key]
        if well and not self._troubles:
            logger.info("%s: the brokers answer again", self._name)


class _Log:
    """The library's log: for debugging only, as what matters also comes as an error. It shows no secrets itself."""

    def __init__(self, name: str) -> None:
        self._name = name

    def log(self, level: int, text: str, *arguments: Any) -> None:
        """Pass a line on."""
        shown = level if level >= logging.CRITICAL else logging.DEBUG
        logger.log(shown, f"%s: {text}", self._name, *arguments)


def opened(make: Callable[[], Any]) -> Any:
    """Make a handle.

    :raises SettingsError: naming the option that the library does not take.
    """
    try:
        return make()
    except KafkaException as error:
        raise SettingsError(f"Kafka: {error.args[0].str()}") from None
    except (TypeError, ValueError) as error:
        raise SettingsError(f"Kafka: {error}") from None
