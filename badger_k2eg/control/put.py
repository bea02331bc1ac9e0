"""Sending: each value once, and once more only where it is certain that the first was lost. Part of ``control``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..core import clock, futures
from ..core.backend import Sink
from ..core.deadline import Deadline
from ..core.errors import PutRefused, PutTimeout, PutUnknown, SetpointBlocked
from ..core.model import Outcome, PutAnswer, PvAddress, Reading, plain
from ..core.settings import Settings, matches
from .put_rules import after_silence, can_prove
from .rates import Pacer
from .reader import Reader
from .setpoint import Event, Setpoint, State

logger = logging.getLogger("badger_k2eg")


class Put:
    """Sends the setpoints of one call.

    :param pacer: of the interface.
    :param sink: told of every attempt.
    :param deadline: of the call.
    :param settings: of the call.
    """

    def __init__(self, reader: Reader, pacer: Pacer, sink: Sink, deadline: Deadline, settings: Settings) -> None:
        """Send nothing yet."""
        self._reader = reader
        self._pacer = pacer
        self._sink = sink
        self._deadline = deadline
        self._settings = settings
        #: What may not be sent (any more), and why. The gate's own mapping: it may grow while the call goes on.
        self.denied: Mapping[PvAddress, str] = {}

    def send(self, setpoints: Iterable[Setpoint]) -> None:
        """Send each the values of its path, one after the other, until it has ended or was answered as done.

        :raises CallCancelled: when the call is cancelled while it waits for its turn.
        """
        moving = [s for s in setpoints if s.path]
        while moving:
            for setpoint in moving:
                setpoint.attempts = 0
            self._once(moving)
            moving = [s for s in moving if s.state is State.STEPPED]

    def _once(self, setpoints: Sequence[Setpoint]) -> None:
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
            self._sink.puts_attempted({s.address: result for s, result in told.items()})
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
        singly = self._pacer.one_by_one and len(setpoints) > 1
        answers: dict[PvAddress, PutAnswer] = {}
        for group in [[s] for s in setpoints] if singly else [list(setpoints)]:
            self._pacer.wait([s.address.own_name for s in group], self._deadline)
            # In mid-call too: between the steps of a ramp, between two PVs, before another attempt.
            denied = {s.address: self.denied[s.address] for s in group if s.address in self.denied}
            answers |= {address: PutAnswer(Outcome.BLOCKED, reason) for address, reason in denied.items()}
            if not (group := [s for s in group if s.address not in denied]):
                continue
            waiting = [s.address for s in group if matches(s.address, self._settings.wait)]
            for setpoint in group:
                setpoint.send()
            values = {s.address: s.path[0] for s in group}
            answers.update(self._reader.backend.put_many(values, self._deadline.child(self._settings.timeout), waiting))
        return answers

    def _note(self, setpoint: Setpoint, answer: PutAnswer) -> None:
        """Turn an answer of the server, of the way to it or of the gate into an event."""
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
        """Let the answer vouch for the outcome where no read-back can tell."""
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
        updates = self._reader.fetch([s.address for s in ask], self._deadline.child(self._settings.timeout))
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


def _times(attempts: int) -> str:
    return "sent once" if attempts == 1 else f"tried {attempts} times"
