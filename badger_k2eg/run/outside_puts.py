"""What is set outside of a run: a put from the shell, and the restore of a run that has ended.

Its PVs are locked for the time of each call, and it is recorded before it is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..control import Control
from ..core.backend import NullGate, NullSink
from ..core.errors import JournalError
from ..core.model import PutResult, PvAddress, Reading, SetReport
from .pv_locks import locks
from .recorder import Recorder, own_journal
from .restore_plan import first_line


class LockGate:
    """A gate that holds the locks of PVs for the time of each call.

    :param run: the purpose, told to those who are refused.
    :param force: whether to write also what another process has locked.
    :ivar forced: the PVs of the present call that are written by force, and why they should not be.
    """

    def __init__(self, run: str = "", *, force: bool = False) -> None:
        """Keep the parts; nothing is locked yet."""
        self._run = run
        self._force = force
        self.forced: dict[PvAddress, str] = {}

    @contextmanager
    def writing(self, addresses: Collection[PvAddress]) -> Iterator[Mapping[PvAddress, str]]:
        """Hold the locks of these PVs."""
        with locks().claim(self._run) as claim:
            refused = claim.add(addresses, force=self._force)
            self.forced = refused if self._force else {}
            yield {} if self._force else refused


class Outside(NullSink):
    """The sink of one Control, which also gives it its gate.

    :param recorder: where the lines go.
    :param run: the purpose, told to those who are refused.
    :param force: whether to set also what another process has locked; that is recorded.
    :param required: whether nothing is set that cannot be recorded.
    :ivar unrecorded: why the last call could not be recorded, and so sent nothing; None where it was recorded.
    """

    def __init__(self, recorder: Recorder, run: str = "", *, force: bool = False, required: bool = True) -> None:
        """Keep the parts; ``attach`` gives the Control."""
        self._recorder = recorder
        self._gate = LockGate(run, force=force)
        self._required = required
        self.unrecorded: str | None = None

    def attach(self, control: Control) -> Control:
        """Become the sink of this Control, and of no other."""
        control.sink = self
        # A read-only Control sets nothing, so it needs no locks.
        control.gate = NullGate() if control.settings.read_only else self._gate
        return control

    def set_began(
        self, before: Mapping[PvAddress, Reading], asked: Mapping[str, Any], validators: object
    ) -> str | None:
        """Record what is about to be sent; return why it may not be, where that is impossible."""
        forced = [self._recorder.forced(address, reason) for address, reason in self._gate.forced.items()]
        self.unrecorded = None
        try:
            self._recorder.write(*forced, required=self._required)
            self._recorder.set_began(asked, required=self._required)
        except JournalError as error:
            self.unrecorded = f"no record on disk, so nothing is set: {first_line(error)}"
        return self.unrecorded

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Record one attempt on each PV."""
        self._recorder.puts_attempted(results)

    def set_finished(self, report: SetReport) -> None:
        """Record how a call has ended, unless its beginning could not be recorded."""
        if self.unrecorded is None:
            self._recorder.set_finished(report)


@contextmanager
def outside(control: Control, what: str, *, force: bool = False) -> Iterator[Outside]:
    """Lock and record what a Control sets while the context is open, in the journal of this user.

    :param what: a word for what sets, for the record.
    :param force: as for ``Outside``.
    :raises SettingsError: for a wrong option of the journal.
    """
    journal = own_journal()
    try:
        sink = Outside(Recorder(journal, None, what=what), force=force)
        sink.attach(control)
        yield sink
    finally:
        if journal is not None:
            journal.close()
