"""What is set outside of a run: its PVs are locked for the time of each call, and it is on record before it is sent.

A put from the shell, and the undoing of a run that has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..control import Control
from ..core.backend import NullGate, NullSink
from ..core.errors import JournalError, LockRefused
from ..core.model import PutResult, PvAddress, Reading, SetReport
from ..core.records import Level, RecordKind
from .pv_locks import locks
from .recorder import Recorder, own_journal
from .restore_plan import first_line


class LockGate:
    """Holds the locks of PVs for the time of each call.

    :param run: what it is for, to be told to those who are refused.
    :param force: whether what another process has locked is written all the same.
    :ivar forced: of the present call, and why they should not be written.
    """

    def __init__(self, run: str = "", *, force: bool = False) -> None:
        """Hold nothing yet."""
        self._run = run
        self._force = force
        self.forced: dict[PvAddress, str] = {}

    @contextmanager
    def writing(self, addresses: Collection[PvAddress]) -> Iterator[Mapping[PvAddress, str]]:
        """Hold the locks of these PVs."""
        taken: list[str] = []
        denied: dict[PvAddress, str] = {}
        try:
            for address in sorted(addresses, key=lambda each: each.own_name):
                try:
                    locks().take(address.names, run=self._run)
                    taken += address.names
                except LockRefused as error:
                    denied[address] = str(error)
            self.forced = denied if self._force else {}
            yield {} if self._force else denied
        finally:
            locks().give(taken)


class Outside(NullSink):
    """Sink of one Control, which also gives it its gate.

    :param recorder: where the lines go.
    :param run: what it is for, to be told to those who are refused.
    :param force: whether what another process has locked is set all the same; that is on record.
    :param required: whether nothing is set that cannot be recorded.
    :ivar unrecorded: why the last call could not be recorded, and so sent nothing; None where it was.
    """

    def __init__(self, recorder: Recorder, run: str = "", *, force: bool = False, required: bool = True) -> None:
        """Know no Control yet: ``attach`` comes first."""
        self._recorder = recorder
        self._gate = LockGate(run, force=force)
        self._required = required
        self.unrecorded: str | None = None

    def attach(self, control: Control) -> Control:
        """Be the sink of this Control, and of no other."""
        control.sink = self
        # Whoever sets nothing keeps nobody else from it.
        control.gate = NullGate() if control.settings.read_only else self._gate
        return control

    def set_began(
        self, before: Mapping[PvAddress, Reading], asked: Mapping[str, Any], validators: object
    ) -> str | None:
        """Record what is about to be sent; without that, it is not."""
        forced = [
            self._recorder.line(
                RecordKind.EVENT,
                name="forced",
                pv=address.text,
                message=f"set all the same, by force: {reason}",
                level=Level.WARNING,
            )
            for address, reason in self._gate.forced.items()
        ]
        self.unrecorded = None
        try:
            self._recorder.write(*forced, required=self._required)
            self._recorder.set_began(asked, required=self._required)
        except JournalError as error:
            self.unrecorded = f"no record on disk, so nothing is set: {first_line(error)}"
        return self.unrecorded

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Record one attempt on each."""
        self._recorder.puts_attempted(results)

    def set_finished(self, report: SetReport) -> None:
        """Record how a call has ended; of one that could not be recorded there is nothing to add."""
        if self.unrecorded is None:
            self._recorder.set_finished(report)


@contextmanager
def outside(control: Control, what: str, *, force: bool = False) -> Iterator[Outside]:
    """Lock and record what a Control sets meanwhile, in the journal of this user.

    :param what: in a word what sets, for the record.
    :param force: as ``Outside``.
    :raises SettingsError: for a wrong option of the journal.
    """
    journal = own_journal()
    try:
        ours = Outside(Recorder(journal, None, what=what), force=force)
        ours.attach(control)
        yield ours
    finally:
        if journal is not None:
            journal.close()
