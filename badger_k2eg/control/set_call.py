"""``SetCall``: one call to set PVs, from what was asked to the report: guard, put, read back, wait, tell.

Only the order is here; each step is in a module of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..core import clock
from ..core.backend import Gate, NullGate, Sink, Update
from ..core.deadline import Deadline
from ..core.errors import PutTimeout, PutUnknown, SetError, SetpointBlocked
from ..core.model import Outcome, PvAddress, SetReport, plain
from ..core.printable import printable
from ..core.settings import Settings
from .arrival import Arrival
from .guard import Guard
from .put import Put
from .read_back import ReadBack
from .setpoint import Event, Setpoint, State

logger = logging.getLogger("badger_k2eg")


class SetCall:
    """Runs once. ``report`` may be asked for at any moment, also after an exception from anywhere.

    :param validators: by the keys of the values.
    :param gate: who may write now.
    :param sink: told of what is about to be sent; it may say no.
    :param settings: of the call.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        validators: Mapping[str, Any],
        *,
        guard: Guard,
        put: Put,
        read_back: ReadBack,
        arrival: Arrival,
        gate: Gate,
        sink: Sink,
        deadline: Deadline,
        settings: Settings,
        last: SetReport | None = None,
    ) -> None:
        """Keep what is asked; look at nothing yet.

        :param last: of the call before this one.
        """
        self._values = dict(values)
        self._validators = validators
        self._guard = guard
        self._put = put
        self._read_back = read_back
        self._arrival = arrival
        self._gate = gate
        self._sink = sink
        self._deadline = deadline
        self._settings = settings
        self._setpoints: list[Setpoint] = []
        # The same vector once more after a failure: a user pressed Retry. What had arrived is not put again.
        self._repeats = last if last is not None and not last.ok and self._asked(last) else None

    def _asked(self, last: SetReport) -> bool:
        """Return whether the call before asked for the same."""
        try:
            return {r.pv: r.asked for r in last.results} == {key: plain(value) for key, value in self._values.items()}
        except ValueError:  # arrays in a list do not compare
            return False

    def report(self) -> SetReport:
        """Return what has become of every setpoint, in the caller's order."""
        now = clock.monotonic()
        return SetReport(tuple(setpoint.result(now) for setpoint in self._setpoints))

    def check(self, read: Mapping[PvAddress, Update]) -> None:
        """Look at every setpoint as before a set, and send nothing.

        :param read: what the PVs were just read to hold.
        :raises SetpointBlocked: when one of them would be refused.
        """
        self._guard.read = read
        self._begin(None)
        self._refuse_if(self._guard.look(self._setpoints, {}, is_gated=False))

    def run(self, paused: str | None) -> SetReport:
        """Set the PVs.

        :param paused: why nothing may be set just now.
        """
        self._begin(paused)
        with self._gate.writing([s.address for s in self._setpoints]) as denied:
            self._put.denied = denied
            try:
                if not self._settings.read_only:
                    self._arrival.watch(self._setpoints)
                self._look()
                if self._settings.read_only:
                    return self._skip()
                self._announce()
                self._write()
            finally:
                self._arrival.close()
        return self._finish()

    # -- before anything is sent --------------------------------------------------------------------------------------

    @property
    def _is_gated(self) -> bool:
        return not isinstance(self._gate, NullGate)

    def _begin(self, paused: str | None) -> None:
        self._setpoints, blocked = self._guard.setpoints(self._values, self._validators)
        if paused and self._setpoints:
            blocked[self._setpoints[0]] = paused
        self._refuse_if(blocked)
        # Before the gate: a lock stands on the record, whatever it is called here.
        self._refuse_if(self._guard.learn_names(self._setpoints, is_gated=self._is_gated))

    def _look(self) -> None:
        """Let the guard look at the setpoints, and wait for a first value of the readbacks."""
        guard, arrival = self._guard, self._arrival
        blocked = arrival.unusable | guard.look(self._setpoints, self._put.denied, is_gated=self._is_gated)
        patience = self._deadline.child(self._settings.timeout)
        lost = arrival.missing([] if guard.is_dead else self._setpoints, patience)
        guard.silent |= lost.keys() - blocked.keys()
        self._refuse_if(lost | blocked)
        for setpoint in self._setpoints:
            setpoint.on(Event.PASS)

    def _refuse_if(self, blocked: Mapping[Setpoint, str]) -> None:
        # A call that was cancelled while it looked has not found out that anything is bad.
        self._deadline.check("setting")
        if not blocked:
            return
        over = self._deadline.expired and blocked.keys() <= self._guard.silent
        kind: type[SetError] = PutTimeout if over else SetpointBlocked
        for setpoint in self._setpoints:
            if setpoint in blocked:
                setpoint.blame(blocked[setpoint], kind)
            else:
                what = "did not answer" if over else "was refused"
                setpoint.blame(f"not sent, because another setpoint of the call {what}", None)
            if not over:
                setpoint.on(Event.DENY)
        lines = [printable(f"{s.key} = {s.asked!r}: {blocked[s]}") for s in self._setpoints if s in blocked]
        words = f"nothing was set, {self._over}" if over else "nothing was set"
        raise kind(f"{words}:\n" + "\n".join(lines), self.report())

    @property
    def _over(self) -> str:
        return f"the call's {self._deadline.seconds:g} s are over"

    def _announce(self) -> None:
        """Tell the sink what is about to be sent; it may say no."""
        before = {s.address: s.before for s in self._setpoints if s.before is not None}
        asked = {s.key: s.asked for s in self._setpoints}
        reason = self._sink.set_began(before, asked, self._validators) if asked else None
        if reason is not None:
            self._refuse_if({self._setpoints[0]: reason})

    def _skip(self) -> SetReport:
        words = ", ".join(f"{s.key} = {plain(s.value)!r}" for s in self._setpoints)
        logger.info("read-only: nothing is set; would have set %s", words or "nothing")
        for setpoint in self._setpoints:
            setpoint.on(Event.READ_ONLY, "read-only")
        return self.report()

    # -- put, read back, wait -----------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write to all at once, or to one after the other until one does not end as asked."""
        groups = [self._setpoints] if self._settings.parallel else [[s] for s in self._setpoints]
        before: list[Setpoint] = []
        for number, group in enumerate(groups, 1):
            # The gate may take the right back while the call goes on.
            if late := [s for s in group if s.address in self._put.denied]:
                for setpoint in late:
                    setpoint.on(Event.DENY, self._put.denied[setpoint.address], SetpointBlocked)
                break
            self._write_group(group, before if number == len(groups) else [])
            if not all(setpoint.ok for setpoint in group):
                break
            before += group
        else:
            return
        # One that follows may have written over one that was read back before it.
        self._read_back.look([s for s in before if s.state is State.APPLIED])

    def _write_group(self, group: Sequence[Setpoint], before: Collection[Setpoint]) -> None:
        """Write to these, and wait until all of them have arrived.

        :param before: those of earlier groups: what follows them may have written over them.
        """
        now = clock.monotonic()
        for setpoint in group:
            setpoint.began = now
            if self._is_already_there(setpoint):
                setpoint.path = []
                setpoint.on(Event.FOUND, "already there since the call before, not put again")
        self._put.send(group)
        done = [s for s in group if s.state in (State.DONE, State.APPLIED)]
        self._arrival.arm(done)
        validated = [s for s in done if s.validator is not None]
        # While the machine moves: this look costs no time. A setpoint that itself follows slowly has its validator's.
        self._read_back.look([*group, *(before if not validated else [])], later=validated)
        if validated:
            # A validator may look elsewhere, and does not vouch for what the setpoint itself holds now; nor do the
            # others hold for ever what they held before it.
            again = [*validated, *(s for s in done if s.ok and s.validator is None), *before]
            self._read_back.look(again, read=self._arrival.wait(validated, [s.address for s in again]))
        for setpoint in group:
            setpoint.ended = clock.monotonic()

    def _is_already_there(self, setpoint: Setpoint) -> bool:
        result = self._repeats.get(setpoint.key) if self._repeats is not None else None
        return result is not None and result.outcome is Outcome.APPLIED and setpoint.holds(setpoint.before)

    def _finish(self) -> SetReport:
        report = self.report()
        if self._deadline.cancelled and not report.ok:
            raise self._deadline.interruption(f"setting was cancelled:\n{report}", report)
        if report.ok:
            return report
        first = next((s.error for s in self._setpoints if s.error is not None), None)
        kind, words = (type(first) if first is not None else PutTimeout), str(report)
        if self._deadline.expired:
            kind, words = (PutUnknown if kind is PutUnknown else PutTimeout), f"{self._over}:\n{report}"
        raise kind(words, report) from (first.__cause__ if first is not None else None)
