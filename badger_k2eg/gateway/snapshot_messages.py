"""The messages of a recurring snapshot's iterations: header, data and tail, with the numbers of revision B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from ..core import clock
from ..k2eg.codec import RepeatingSnapshot, SnapshotData, SnapshotHeader, SnapshotTail
from .publisher import Publisher


class Revision(StrEnum):
    """A revision of the protocol."""

    #: Without sequence numbers, like slaclab/k2eg in 2025.
    A = "A"
    #: With sequence numbers, which the k2eg library 0.3.2 requires.
    B = "B"


class Iterations:
    """Publishes iterations one after another. Used by one thread at a time.

    :param topic: the topic of the snapshot.
    """

    def __init__(self, publisher: Publisher, command: RepeatingSnapshot, topic: str, revision: Revision) -> None:
        """Publish nothing yet."""
        self._publisher = publisher
        self._command = command
        self._topic = topic
        self._numbered = revision is Revision.B
        # Batches are numbered if an iteration can have several.
        self._batched = self._numbered and command.sub_push_delay_msec > 0
        self._index = 0
        self._messages = 0
        self._batch = 0

    @property
    def open(self) -> bool:
        """Whether the header of an iteration was sent and its tail was not."""
        return self._messages > 0

    def push(self, values: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Publish a batch of values by PV name, after the header if it is the first batch of an iteration."""
        now = clock.time_ns() // 1_000_000
        self._batch += 1
        if not self.open:
            self._index += 1
            self._send(
                SnapshotHeader(
                    snapshot_name=self._command.snapshot_name, iter_index=self._index, timestamp=now, **self._numbers()
                )
            )
        for position, (name, tree) in enumerate(values, start=1):
            last = self._batched and position == len(values)
            self._send(
                SnapshotData(
                    pv=name,
                    tree=tree,
                    iter_index=self._index,
                    timestamp=now,
                    last_submission_data=last,
                    **self._numbers(),
                )
            )

    def end(self) -> None:
        """Publish the tail."""
        numbers = self._numbers()
        self._send(
            SnapshotTail(
                snapshot_name=self._command.snapshot_name,
                iter_index=self._index,
                timestamp=clock.time_ns() // 1_000_000,
                msg_seq=numbers["msg_seq"],
                total_messages=numbers["msg_seq"],
                submission_seq=numbers["submission_seq"],
            )
        )
        self._messages = self._batch = 0

    def _numbers(self) -> dict[str, int | None]:
        self._messages += 1
        return {
            "msg_seq": self._messages if self._numbered else None,
            "submission_seq": self._batch if self._batched else None,
        }

    def _send(self, message: SnapshotHeader | SnapshotData | SnapshotTail) -> None:
        self._publisher.publish(self._topic, self._command.snapshot_name, message, self._command.serialization)
