"""Every exception that badger-k2eg raises, as one tree.

::

    ControlError                     base of all of them
    |-- SettingsError                (ValueError)       a wrong option, file or environment variable
    |-- MissingExtra                 (ImportError)      an optional part is not installed; says what to install
    |-- CallCancelled                (CancelledError)   the call was cancelled; what was on the wire is in .report
    |-- ConditionNotMet              (TimeoutError)     a condition on the machine did not come true in its time
    |-- WaitingForbidden             (RuntimeError)     a wait that could never end
    |-- UnknownUnit                  (ValueError)       a unit in a call does not exist; a record's is never an error
    |-- KafkaError                   a Kafka broker or topic failed; .broker is the HOST:PORT, if it was a broker
    |   |-- BrokerUnreachable        (TimeoutError)     no broker answered in time
    |   |-- AuthenticationFailed     (PermissionError)  it answers, but rejects the credentials or certificates
    |   |-- TopicMissing             (LookupError)      the topic does not exist
    |   |-- TopicRefused             (PermissionError)  the broker does not allow us to create, read, write or delete it
    |   |-- MessageTooLarge          (ValueError)       above the limit of the client or of the broker
    |   `-- WriterFull               (BufferError)      the queue of records to be sent is full
    |-- LockRefused                  (TimeoutError)     another process holds the lock of a PV, .pv; names the owner
    |-- OperationTimeout             (TimeoutError)     a K2EG command was not answered; names broker, gateway or PV
    |-- OperationError               a K2EG gateway answered with an error: .error and .message
    |-- JournalError                 the record of the runs cannot be read or written
    |   |-- JournalWriteError        (OSError)          a full disk, no permission, a file system without locks
    |   |-- NoSuchRecord             (LookupError)      no run, mark, PV or kind of that name; suggests the closest
    |   `-- ReplayMismatch           (LookupError)      a recorded run has no such point; names the nearest
    |-- PvError                      one PV: a *value* in the answers of a backend, raised only by Control
    |   |-- PvNameError              (ValueError)       the text cannot be the name of a PV
    |   |-- PvValueError             (ValueError)       the value does not fit the PV: nothing was sent
    |   |-- PvTimeout                (TimeoutError)     no answer in time
    |   |   `-- PvNotConnected                          no server has it, or it cannot be reached
    |   |-- PvRefused                (PermissionError)  the server refused; its reason is in the message
    |   |-- PvUnsupported            (TypeError)        a structure or operation that is not supported
    |   `-- PvInvalid                (ValueError)       it answers, but without a valid reading (alarm, never processed)
    |-- ReadError                    one or more PVs of a read failed; .partial has the others, .errors the reasons
    |   |-- ReadTimeout              (TimeoutError)
    |   `-- InvalidReading           (ValueError)
    `-- SetError                     one or more PVs of a set failed; .report says what became of each
        |-- SetpointBlocked          (ValueError)       refused by the guard: nothing at all was sent
        |-- PutTimeout               (TimeoutError)     no answer; see the report for NOT_SENT or UNKNOWN
        |   `-- PutUnknown                              it was sent: it may have happened, or may still happen
        |-- PutRefused               (PermissionError)  the server refused it
        |-- PutMismatch              (ValueError)       reported as done, but the setpoint holds another value
        `-- ValidationFailed         (ValueError)       written, but the machine did not arrive
            `-- ValidatorCrashed                        the validator itself raised something unexpected

Each also derives from the builtin that a user would catch.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from .base_errors import ControlError as ControlError
from .base_errors import PvError as PvError
from .base_errors import PvNameError as PvNameError
from .base_errors import SettingsError as SettingsError
from .base_errors import UnknownUnit as UnknownUnit
from .printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .model import SetReport


class MissingExtra(ControlError, ImportError):
    """An optional dependency is missing.

    :param feature: what was asked for, in the user's words.
    :param extra: the extra of this package that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        """Compose the line that says what to install."""
        super().__init__(f"{feature} needs an optional part: pip install 'badger-k2eg[{extra}]'")
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling between processes."""
        return type(self), (self.feature, self.extra)


class CallCancelled(ControlError, CancelledError):
    """The call was cancelled before it was complete.

    :param message: what was being waited for.
    :param report: for a set, what became of each PV; puts on the wire are UNKNOWN in it.
    """

    def __init__(self, message: str, report: SetReport | None = None) -> None:
        """Keep the report of an interrupted set."""
        super().__init__(message)
        self.report = report


class ConditionNotMet(ControlError, TimeoutError):
    """A condition on the machine (a permit, a beam rate) did not become true in time."""


class WaitingForbidden(ControlError, RuntimeError):
    """A wait that could never end: in a callback for updates, or for what the parent process started."""


class JournalError(ControlError):
    """The journal cannot be read: damaged, changed by hand, or of a newer version."""


class JournalWriteError(JournalError, OSError):
    """A line could not be written to disk; no part of it is there."""


class NoSuchRecord(JournalError, LookupError):
    """The journal has nothing of that name, which the user gave."""


class ReplayMismatch(JournalError, LookupError):
    """A recorded run has no such point; the message names the nearest, and what differs."""


class OperationTimeout(ControlError, TimeoutError):
    """A command to a K2EG gateway was not answered in time.

    :param message: how long was waited, and what is to blame.
    :param culprit: ``broker``, ``gateway`` or ``pv``, as far as can be told; ``caller`` for a cancelled call.
    :param sent: whether the command has left for the gateway, or may have: it may still be executed.
    :param what: the command in words.
    """

    def __init__(self, message: str, culprit: str = "gateway", *, sent: bool = True, what: str = "") -> None:
        """Keep what is to blame, and whether the command may still be executed."""
        super().__init__(message)
        self.message = message
        self.culprit = culprit
        self.sent = sent
        self.what = what

    def __str__(self) -> str:
        return f"{self.what}: {self.message}" if self.what else self.message


class OperationError(ControlError):
    """A K2EG gateway answered with an error.

    :param error: its code, negative; the meaning of a code depends on the command.
    :param message: its text.
    :param what: what was asked.
    """

    def __init__(self, error: int, message: str = "", what: str = "") -> None:
        """Keep what was asked, the gateway's text and its code."""
        super().__init__(error, message, what)
        self.error = error
        self.message = message
        self.what = what

    def __str__(self) -> str:
        about = f"{self.what}: " if self.what else ""
        return printable(f"{about}{self.message or 'the gateway rejected the command'} (error {self.error})")


class LockRefused(ControlError, TimeoutError):
    """Another process of this host holds the lock of a PV.

    :param message: names the PV and the owner of the lock.
    :param pv: the PV's own name.
    """

    def __init__(self, message: str, pv: str = "") -> None:
        """Keep the PV."""
        super().__init__(message)
        self.pv = pv

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling between processes."""
        return type(self), (str(self), self.pv)


class KafkaError(ControlError):
    """A failure of a Kafka broker or topic.

    :param message: one line that names the broker or the topic.
    :param broker: ``HOST:PORT`` of the broker that failed; None if none did.
    """

    def __init__(self, message: str, broker: str | None = None) -> None:
        """Keep the broker."""
        super().__init__(message)
        self.message = message
        self.broker = broker

    # Some are also an OSError or a LookupError, which would show two arguments, or one in quotes.
    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling between processes."""
        return type(self), (self.message, self.broker)


class BrokerUnreachable(KafkaError, TimeoutError):
    """No broker answered in time."""


class AuthenticationFailed(KafkaError, PermissionError):
    """The broker rejects the credentials or certificates, or its own certificate is not accepted."""


class TopicMissing(KafkaError, LookupError):
    """The topic does not exist."""


class TopicRefused(KafkaError, PermissionError):
    """The broker does not allow us to create, read, write or delete the topic."""


class MessageTooLarge(KafkaError, ValueError):
    """The message is above the limit of the client or of the broker."""


class WriterFull(KafkaError, BufferError):
    """The queue of records to be sent is full."""


class PvValueError(PvError, ValueError):
    """The value cannot be put to the PV without loss: nothing was sent."""


class PvTimeout(PvError, TimeoutError):
    """The PV did not answer in time."""


class PvNotConnected(PvTimeout):
    """No server has the PV, or it cannot be reached."""


class PvRefused(PvError, PermissionError):
    """The server refused; its reason is in the message."""

    # OSError (through PermissionError) treats two arguments as (errno, text) in __str__.
    def __str__(self) -> str:
        return printable(f"{self.pv}: {self.message}")


class PvUnsupported(PvError, TypeError):
    """The structure or the operation is not supported for this PV."""


class PvInvalid(PvError, ValueError):
    """The PV answers, but without a valid reading: its severity is too high, or it was never processed."""


class ReadError(ControlError):
    """One or more PVs could not be read.

    :param message: one line per PV.
    :param partial: ``{pv: value}`` of those that could.
    :param errors: ``{pv: PvError}`` of those that could not.
    """

    def __init__(
        self,
        message: str,
        partial: Mapping[str, Any] | None = None,
        errors: Mapping[str, PvError] | None = None,
    ) -> None:
        """Keep what was read, and why the rest was not."""
        super().__init__(message)
        self.partial = dict(partial or {})
        self.errors = dict(errors or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling between processes."""
        return type(self), (self.args[0], self.partial, self.errors)


class ReadTimeout(ReadError, TimeoutError):
    """The first unreadable PV did not answer in time."""


class InvalidReading(ReadError, ValueError):
    """The first unreadable PV answers, but without a valid reading."""


class SetError(ControlError):
    """One or more setpoints did not end as asked.

    :param message: one line per PV.
    :param report: what became of every PV of the call, in the caller's order.
    """

    def __init__(self, message: str, report: SetReport | None = None) -> None:
        """Keep the report."""
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling between processes."""
        return type(self), (str(self), self.report)


class SetpointBlocked(SetError, ValueError):
    """The guard refused a setpoint of the call: nothing was sent."""


class PutTimeout(SetError, TimeoutError):
    """A put was not answered in time."""


class PutUnknown(PutTimeout):
    """A put was sent, and its effect is unknown: not answered, refused and yet written, or not readable afterwards."""


class PutRefused(SetError, PermissionError):
    """The server refused a put."""

    def __str__(self) -> str:
        return str(self.args[0])


class PutMismatch(SetError, ValueError):
    """A put was reported as done, but the setpoint holds another value (clipped, truncated, silently rejected)."""


class ValidationFailed(SetError, ValueError):
    """The put was applied, but the machine did not arrive."""


class ValidatorCrashed(ValidationFailed):
    """A validator raised something other than ValueError or TimeoutError."""


def read_failure(errors: Mapping[str, PvError], partial: Mapping[str, Any], message: str | None = None) -> ReadError:
    """Return the error of a read; its type depends on the first PV that cannot be read, in the caller's order.

    :param errors: by the caller's names, not empty.
    :param partial: the values of the others.
    :param message: one line for each error by default.
    """
    first = next(iter(errors.values()))
    kind: type[ReadError] = ReadError
    if isinstance(first, PvTimeout):
        kind = ReadTimeout
    elif isinstance(first, PvInvalid):
        kind = InvalidReading
    return kind(message or "\n".join(map(str, errors.values())), partial, errors)
