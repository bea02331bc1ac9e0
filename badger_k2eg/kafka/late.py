"""``Late``: what readers and writers have in common. Imports fork."""

from __future__ import annotations

import threading

from ..core import fork
from .connection import KafkaConnection


class Late:
    """Something that opens its handle when it is needed. In a forked child it is as new; the parent's goes on.

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
        self._lock = threading.Lock()

    def before_fork(self) -> None:
        """Nothing: the parent goes on."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        self._begin()
