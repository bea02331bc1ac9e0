"""One call to set PVs, on its way through the house: guard, put and retry, validate, record, report (design.md 5)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core import clock, futures
from ..core.backend import NullGate, Update
from ..core.conversion import Refusal
from ..core.deadline import Deadline
from ..core.errors import PutRefused, PutTimeout, PutUnknown, PvError, PvNameError, PvTimeout, SetError, SetpointBlocked
from ..core.model import Outcome, PutAnswer, PvAddress, Reading, SetReport, plain
from ..core.printable import printable
from ..core.settings import Settings, matches
from ..core.units import is_quantity
from .arrival import Arrival
from .put_rules import after_silence, can_prove, check_setpoint, path_to
from .read_back import ReadBack
from .setpoint import Event, Setpoint, State, twice
from .validators import adapt

if TYPE_CHECKING:
    from .control import Control

logger = logging.getLogger("badger_k2eg")


class SetCall:
    """Runs once. ``report`` may be asked for at any moment, also after an exception from anywhere."""

    def __init__(
        self,
        control: Control,
        values: Mapping[str, Any],
        validators: Mapping[str, Any],
        deadline: Deadline,
        last: SetReport | None,
        settings: Settings,
        patience: float,
    ) -> None:
        """Keep what is asked; look at nothing yet.

        :param settings: in force for this call.
        :param patience: seconds that a validator without a time of its own waits.
        """
        self._control = control
        self._settings = settings
        self._backend = control.backend
        self._deadline = deadline
        self._values = dict(values)
        self._validators = validators
        self._arrival = Arrival(control, deadline, settings, patience)
        self._setpoints: list[Setpoint] = []
        # Of which, or of whose readback, nothing was heard while the guard looked.
        self._silent: set[Setpoint] = set()
        # What the PVs read, where one of them was found not to answer.
        self._dead: Mapping[PvAddress, Update] | None = None
        self._read_back = ReadBack(control.backend, deadline, settings)
        # The same vector once more after a failure: somebody pressed Retry. What had arrived is not put again.
        self._repeats = last if last is not None and not last.ok and self._asked(last) else None

    def _asked(self, last: SetReport) -> bool:
        """Whether the call before asked for the same."""
        try:
            return {r.pv: r.asked for r in last.results} == {key: plain(value) for key, value in self._values.items()}
        except ValueError:  # arrays in a list do not compare
            return False

    def report(self) -> SetReport:
        """Tell what has become of every setpoint, in the caller's order."""
        now = clock.monotonic()
        return SetReport(tuple(setpoint.result(now) for setpoint in self._setpoints))

    def check(self) -> None:
        """Look at every setpoint as before a set, and send nothing.

        :raises SetpointBlocked: when one of them would be refused.
        """
        self._refuse_if(self._normalise())
        self._refuse_if(self._learn_names())
        self._refuse_if(self._guard(self._arrival, {}))

    def run(self, paused: str | None) -> SetReport:
        """Do it.

        :param paused: why nothing may be set just now.
        """
        blocked = self._normalise()
        if paused and self._setpoints:
            blocked[self._setpoints[0]] = paused
        self._refuse_if(blocked)
        # Before the gate: a lock stands on the record, whatever it is called here.
        self._refuse_if(self._learn_names())
        with self._control.gate.writing([s.address for s in self._setpoints]) as denied:
            self._denied = denied
            arrival = self._arrival
            try:
                if not self._settings.read_only:
                    arrival.watch(self._setpoints)
                self._refuse_if(self._guard(arrival, denied))
                if self._settings.read_only:
                    return self._skip()
                self._announce()
                groups = [self._setpoints] if self._settings.parallel else [[s] for s in self._setpoints]
                for group in groups:
                    # The gate may take the right back while the call goes on.
                    if late := {s: denied[s.address] for s in group if s.address in denied}:
                        for setpoint, reason in late.items():
                            setpoint.on(Event.DENY, reason, SetpointBlocked)
                        break
                    self._write(group, arrival)
                    if not all(setpoint.ok for setpoint in group):
                        break
                # One that follows may have written over one that was read back before it.
                self._read_back.look([s for group in groups[:-1] for s in group if s.state is State.APPLIED])
            finally:
                arrival.close()
        return self._finish()

    # -- 1 and 2: normalise, guard ----------------------------------------------------------------------------

    def _normalise(self) -> dict[Setpoint, str]:
        blocked: dict[Setpoint, str] = {}
        for key, value in self._values.items():
            try:
                address, reason = PvAddress.parse(key), None
            except PvNameError as error:
                address, reason = PvAddress(str(key), ""), error.message
            # What was asked stays of builtin types; a quantity is one in the PV's unit, once that is known.
            asked = str(value.quantity) if isinstance(value, Reading) and value.units else plain(value)
            setpoint = Setpoint(key, str(value) if is_quantity(value) else asked, address, value=value)
            setpoint.tolerance = self._control.tolerance_of(address)
            self._setpoints.append(setpoint)
            try:
                if (validator := self._validators.get(key)) is not None:
                    setpoint.validator = adapt(validator)
            except ValueError as error:
                reason = reason or str(error)
            if reason is not None:
                blocked[setpoint] = reason
        return twice(self._setpoints) | blocked

    def _learn_names(self) -> dict[Setpoint, str]:
        """Find out which PVs are called by an alias, where anything depends on that."""
        names, gate = self._control.record_names, self._control.gate
        if len(self._setpoints) > 1 or self._settings.depend_on_names or not isinstance(gate, NullGate):
            self._dead = names.learn(self._backend, self._known(), self._deadline, self._settings.timeout)
            if self._dead is None:
                self._known()
        return twice(self._setpoints)

    def _known(self) -> list[PvAddress]:
        """Give the addresses, with what is known of their names."""
        for setpoint in self._setpoints:
            setpoint.address = self._control.record_names.known(setpoint.address)
            setpoint.tolerance = self._control.tolerance_of(setpoint.address)
        return [setpoint.address for setpoint in self._setpoints]

    def _guard(self, arrival: Arrival, denied: Mapping[PvAddress, str]) -> dict[Setpoint, str]:
        """Find out what can be known beforehand about every setpoint of the call."""
        blocked = {s: denied[s.address] for s in self._setpoints if s.address in denied}
        patience = self._deadline.child(self._settings.timeout)
        addresses = [setpoint.address for setpoint in self._setpoints]
        updates = self._dead or (self._backend.get_many(addresses, patience) if addresses else {})
        for setpoint in self._setpoints:
            update = updates[setpoint.address]
            if isinstance(update, PvError):
                if setpoint not in blocked and isinstance(update, PvTimeout):
                    self._silent.add(setpoint)
                blocked.setdefault(setpoint, update.message)
                continue
            setpoint.before = update
            try:
                setpoint.settle_unit(update)
            except ValueError as refusal:
                blocked.setdefault(setpoint, str(refusal))
        known = {s.address: (s.value, s.before) for s in self._setpoints if s.before is not None and s not in blocked}
        # Where one does not answer nothing is sent, and nobody waits for anything more.
        limits = {} if self._dead else self._control.capacities.find(self._backend, known, patience)
        for setpoint in self._setpoints:
            if setpoint.before is None or setpoint in blocked:
                continue
            try:
                before = setpoint.before
                if setpoint.address in limits:
                    before = replace(before, type=replace(before.type, max_length=limits[setpoint.address]))
                setpoint.value = check_setpoint(setpoint.address, setpoint.value, before, self._settings)
                step = self._settings.step_of(setpoint.address)
                setpoint.path = path_to(setpoint.value, before, step)
            except Refusal as refusal:
                blocked[setpoint] = str(refusal)
        blocked = arrival.unusable | blocked
        lost = arrival.missing([] if self._dead else self._setpoints, patience)
        self._silent |= lost.keys() - blocked.keys()
        for setpoint in self._setpoints:
            if setpoint not in lost | blocked:
                setpoint.on(Event.PASS)
        return lost | blocked

    def _refuse_if(self, blocked: Mapping[Setpoint, str]) -> None:
        # A call that was cancelled while it looked has not found out that anything is bad.
        self._deadline.check("setting")
        if not blocked:
            return
        over = self._deadline.expired and blocked.keys() <= self._silent
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
        reason = self._control.sink.set_began(before, asked, self._validators) if asked else None
        if reason is not None:
            self._refuse_if({self._setpoints[0]: reason})

    def _skip(self) -> SetReport:
        words = ", ".join(f"{s.key} = {plain(s.value)!r}" for s in self._setpoints)
        logger.info("read-only: nothing is set; would have set %s", words or "nothing")
        for setpoint in self._setpoints:
            setpoint.on(Event.READ_ONLY, "read-only")
        return self.report()

    # -- 3: put, and once more where that is safe -------------------------------------------------------------

    def _write(self, group: Sequence[Setpoint], arrival: Arrival) -> None:
        now = clock.monotonic()
        for setpoint in group:
            setpoint.began = now
            if self._already_there(setpoint):
                setpoint.path = []
                setpoint.on(Event.FOUND, "already there since the call before, not put again")
        moving = [s for s in group if s.path]
        while moving:
            for setpoint in moving:
                setpoint.attempts = 0
            self._put(moving)
            moving = [s for s in moving if s.state is State.STEPPED]
        done = [s for s in group if s.state in (State.DONE, State.APPLIED)]
        arrival.arm(done)
        validated = [s for s in done if s.validator is not None]
        # While the machine moves: this look costs no time. A setpoint that itself follows slowly has its validator's.
        self._read_back.look(group, later=validated)
        if validated:
            arrival.wait(validated)
            # A validator may look elsewhere, and does not vouch for what the setpoint itself holds now; nor do the
            # others hold for ever what they held before it.
            self._read_back.look([*validated, *(s for s in done if s.ok and s.validator is None)])
        for setpoint in group:
            setpoint.ended = clock.monotonic()

    def _already_there(self, setpoint: Setpoint) -> bool:
        result = self._repeats.get(setpoint.key) if self._repeats is not None else None
        return result is not None and result.outcome is Outcome.APPLIED and setpoint.holds(setpoint.before)

    def _put(self, setpoints: Sequence[Setpoint]) -> None:
        """Send the next value of each: up to ``put_attempts`` times, and never again what may have happened."""
        on_the_way = {s: s.path[0] for s in setpoints if len(s.path) > 1}
        for attempt in range(1, self._settings.put_attempts + 1):
            left = attempt < self._settings.put_attempts
            answers = self._send(setpoints)
            for setpoint in setpoints:
                self._note(setpoint, answers[setpoint.address])
            now = clock.monotonic()
            told = {s: s.attempted(now) for s in setpoints}
            # On the way (a ramp) the setpoint holds the step, not yet what was asked.
            told |= {s: replace(told[s], asked=plain(on_the_way[s])) for s in setpoints if s in on_the_way}
            for setpoint in setpoints:
                self._vouch(setpoint)
            self._control.sink.puts_attempted({s.address: result for s, result in told.items()})
            silent = [s for s in setpoints if s.state is State.SILENT]
            unsettled = [s for s in setpoints if s.state in (State.SILENT, State.UNSENT)]
            if not unsettled or self._deadline.cancelled:
                break
            if left:
                futures.sleep(self._settings.retry_delay, self._deadline)
            self._after_silence(silent, left)
            setpoints = [s for s in unsettled if s.state in (State.UNSENT, State.DOUBTED)]
            if not setpoints or not left or self._deadline.expired:
                break
            logger.warning("%s: put again, attempt %d", ", ".join(s.key for s in setpoints), attempt + 1)

    def _send(self, setpoints: Sequence[Setpoint]) -> dict[PvAddress, PutAnswer]:
        singly = self._control.pacer.one_by_one and len(setpoints) > 1
        answers: dict[PvAddress, PutAnswer] = {}
        for group in [[s] for s in setpoints] if singly else [list(setpoints)]:
            self._control.pacer.wait([s.address.own_name for s in group], self._deadline)
            # In mid-call too: between the steps of a ramp, between two PVs, before another attempt.
            denied = {s.address: self._denied[s.address] for s in group if s.address in self._denied}
            answers |= {address: PutAnswer(Outcome.BLOCKED, reason) for address, reason in denied.items()}
            if not (group := [s for s in group if s.address not in denied]):
                continue
            waiting = [s.address for s in group if matches(s.address, self._settings.wait)]
            for setpoint in group:
                setpoint.send()
            values = {s.address: s.path[0] for s in group}
            answers.update(self._backend.put_many(values, self._deadline.child(self._settings.timeout), waiting))
        return answers

    def _note(self, setpoint: Setpoint, answer: PutAnswer) -> None:
        """Take what the server, the way to it or the gate has answered."""
        message, outcome = answer.message, answer.outcome
        if outcome is Outcome.APPLIED:
            setpoint.stand(Event.STEP_DONE, Event.DONE, message)
            return
        if setpoint.stood is not None:
            message += "; it was put to a step on the way before"
        times = _times(setpoint.attempts)
        event, words, kind = {
            Outcome.BLOCKED: (Event.DENY, message, SetpointBlocked),
            Outcome.REFUSED: (Event.NO, f"refused: {message}", PutRefused),
            Outcome.NOT_SENT: (
                Event.NEVER_LEFT, f"{message} ({times if setpoint.attempts > 1 else 'tried once'})", PutTimeout,
            ),
        }.get(outcome, (Event.NOTHING, f"{message} ({times})", PutUnknown))  # fmt: skip
        if setpoint.doubt and event is not Event.NOTHING:
            # True of this attempt, but not of the one before, which may still happen.
            words, kind = f"{message} ({times}); an attempt before was sent and not answered", PutUnknown
        setpoint.on(event, words, kind)

    def _vouch(self, setpoint: Setpoint) -> None:
        """Take an answer for the last word where no read-back can tell."""
        if setpoint.before is None or can_prove(setpoint.address, setpoint.value, setpoint.before, self._settings):
            return
        if setpoint.state is State.DONE:
            setpoint.on(Event.VOUCHED, setpoint.message or "as answered: a read-back cannot tell of it")
        elif setpoint.state is State.DENIED:
            setpoint.on(Event.VOUCHED)

    def _after_silence(self, silent: Iterable[Setpoint], left: bool) -> None:
        """Read back what was sent and not answered, before anything is decided about it.

        What holds what it held before may be sent once more. Until it is, it is in doubt: it did leave this process.
        """
        ask = [s for s in silent if not matches(s.address, self._settings.relative)]
        updates = self._backend.get_many([s.address for s in ask], self._patience()) if ask else {}
        for setpoint in silent:
            update = updates.get(setpoint.address)
            setpoint.readback = now = update if isinstance(update, Reading) else None
            outcome = after_silence(
                setpoint.path[0],
                setpoint.before,
                now,
                relative=setpoint not in ask,
                attempts_left=left,
                tolerance=setpoint.tolerance,
            )
            if outcome is Outcome.APPLIED and matches(setpoint.address, self._settings.wait):
                # A record holds the value from the beginning of its work on.
                setpoint.on(Event.UNCLEAR)
                setpoint.message += "; it holds the value, and nobody knows whether the record has finished"
            elif outcome is Outcome.APPLIED:
                words = "no answer came, and a read-back shows that it was applied"
                setpoint.stand(Event.READS_STEP, Event.READS_ASKED, words)
            elif outcome is Outcome.NOT_SENT:
                setpoint.on(Event.READS_OLD)
            elif now is not None:
                setpoint.on(Event.READS_OTHER)
                setpoint.message += f"; it reads {plain(now.value)!r}"
            else:
                setpoint.on(Event.UNCLEAR)

    def _patience(self) -> Deadline:
        return self._deadline.child(self._settings.timeout)

    # -- 6: report --------------------------------------------------------------------------------------------

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


def _times(attempts: int) -> str:
    return "sent once" if attempts == 1 else f"tried {attempts} times"
