"""Every exception that badger-k2eg raises, drawn as one tree. Imports nothing of ours.

::

    ControlError                     base of all of them
    |-- SettingsError                (ValueError)       a wrong option, file or environment variable
    |-- MissingExtra                 (ImportError)      an optional part is not installed; says what to install
    |-- CallCancelled                (CancelledError)   the call was cancelled; what was on the wire is in .report
    |-- ConditionNotMet              (TimeoutError)     a condition on the machine did not come true in its time
    |-- PvError                      one PV; a *value* in the answers of a backend, raised only by Control
    |   |-- PvNameError              (ValueError)       the name cannot be a PV's name
    |   |-- PvTimeout                (TimeoutError)     no answer in time
    |   |   `-- PvNotConnected                          nobody serves it, or it cannot be reached
    |   |-- PvRefused                (PermissionError)  the server said no; its words are in the message
    |   |-- PvUnsupported            (TypeError)        a structure or operation we do not speak
    |   `-- PvInvalid                (ValueError)       it answers, but not with a reading (alarm, never processed)
    |-- ReadError                    one or more PVs of a read; .partial has the others, .errors the reasons
    |   |-- ReadTimeout              (TimeoutError)
    |   `-- InvalidReading           (ValueError)
    `-- SetError                     one or more PVs of a set; .report says what became of every one
        |-- SetpointBlocked          (ValueError)       refused by our guard: nothing at all was sent
        |-- PutTimeout               (TimeoutError)     no answer; see the report for NOT_SENT or UNKNOWN
        |   `-- PutUnknown                              it was sent; it may have happened or still happen
        |-- PutRefused               (PermissionError)  the server refused it
        |-- PutMismatch              (ValueError)       answered as done, but the setpoint holds another value
        `-- ValidationFailed         (ValueError)       written, but the machine did not arrive
            `-- ValidatorCrashed                        the validator itself raised something unexpected

Each also derives from the builtin that a user would catch.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .model import SetReport


class ControlError(Exception):
    """Base of everything that badger-k2eg raises on purpose."""


class SettingsError(ControlError, ValueError):
    """A wrong option, file or environment variable; the message names it and its source."""


class MissingExtra(ControlError, ImportError):
    """An optional dependency is missing.

    :param feature: what was asked for, in the user's words.
    :param extra: the extra of this package that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        """Compose the one line that says what to install."""
        super().__init__(f"{feature} needs an optional part: pip install 'badger-k2eg[{extra}]'")
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive a pickle between processes."""
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
    """A condition on the machine (a permit, a beam rate) did not come true in its time."""


class PvError(ControlError):
    """What went wrong with one PV.

    :param pv: the PV's name as the caller wrote it.
    :param message: what happened, without the name.
    """

    def __init__(self, pv: str, message: str) -> None:
        """Show as ``PV: message``."""
        super().__init__(f"{pv}: {message}")
        self.pv = pv
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive a pickle between processes (Badger sends errors through a queue)."""
        return type(self), (self.pv, self.message)


class PvNameError(PvError, ValueError):
    """The text cannot be the name of a PV."""


class PvTimeout(PvError, TimeoutError):
    """The PV did not answer in time."""


class PvNotConnected(PvTimeout):
    """Nobody serves the PV, or it cannot be reached."""


class PvRefused(PvError, PermissionError):
    """The server refused; its own words are in the message."""

    # OSError (through PermissionError) treats two arguments as (errno, text) in __str__.
    def __str__(self) -> str:
        return f"{self.pv}: {self.message}"


class PvUnsupported(PvError, TypeError):
    """A structure or an operation that is not supported for this PV."""


class PvInvalid(PvError, ValueError):
    """The PV answers, but its value is not a reading: alarm severity, or never processed."""


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
        """Keep what was read beside what was not."""
        super().__init__(message)
        self.partial = dict(partial or {})
        self.errors = dict(errors or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive a pickle between processes."""
        return type(self), (self.args[0], self.partial, self.errors)


class ReadTimeout(ReadError, TimeoutError):
    """The first unreadable PV did not answer in time."""


class InvalidReading(ReadError, ValueError):
    """The first unreadable PV answers, but not with a reading."""


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
        """Survive a pickle between processes."""
        return type(self), (str(self), self.report)


class SetpointBlocked(SetError, ValueError):
    """The guard refused a setpoint of the call: nothing was sent."""


class PutTimeout(SetError, TimeoutError):
    """A put was not answered in time."""


class PutUnknown(PutTimeout):
    """A put was sent and not answered: it may have happened, or may still happen."""


class PutRefused(SetError, PermissionError):
    """The server refused a put."""

    def __str__(self) -> str:
        return str(self.args[0])


class PutMismatch(SetError, ValueError):
    """A put was answered as done, but the setpoint holds another value (clipped, truncated, rejected in silence)."""


class ValidationFailed(SetError, ValueError):
    """The put was done, but the machine did not arrive where it was sent."""


class ValidatorCrashed(ValidationFailed):
    """A validator raised something other than ValueError or TimeoutError."""


def read_failure(errors: Mapping[str, PvError], partial: Mapping[str, Any], message: str | None = None) -> ReadError:
    """Make the error of a read: its type goes by the first PV that cannot be read, in the caller's order.

    :param errors: by the caller's names, not empty.
    :param partial: the values of the others.
    :param message: one line for each by default.
    """
    first = next(iter(errors.values()))
    kind: type[ReadError] = ReadError
    if isinstance(first, PvTimeout):
        kind = ReadTimeout
    elif isinstance(first, PvInvalid):
        kind = InvalidReading
    return kind(message or "\n".join(map(str, errors.values())), partial, errors)
