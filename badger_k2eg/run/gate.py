"""``Attachment``: ties a ``Control`` to the run of its process, as sink and gate. ``Guards``: what a set requires."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..control import Control
from ..core.backend import Update
from ..core.model import PutResult, PvAddress, Reading, SetReport
from ..core.records import Level
from ..tuning import Condition
from . import process, status_panel
from .recorded_pvs import RecordedPvs
from .run import Run

__all__ = ["Attachment", "Condition", "Guards"]


@dataclass(frozen=True, slots=True)
class Guards:
    """Conditions that must hold for a set to be sent; none is waited for.

    :ivar can_start: checked before the first set of a run.
    :ivar keep_running: checked before every set, and watched while a call goes on.
    """

    can_start: tuple[Condition, ...] = ()
    keep_running: tuple[Condition, ...] = ()

    def why_not(self, control: Control, run: Run) -> str | None:
        """Return why nothing may be set; a condition that cannot be read does not hold."""
        if run.is_closing:
            # Nothing must keep the machine from being restored.
            return None
        conditions = self.keep_running if run.moved else (*self.can_start, *self.keep_running)
        if not conditions:
            return None
        updates = control.updates([condition.pv for condition in conditions])
        for condition in conditions:
            if (reason := _broken(condition, updates[condition.pv])) is None:
                continue
            if not run.moved:
                return f"not begun: {reason}"
            run.recorder.event("guard", reason, level=Level.WARNING, pv=condition.pv)
            return f"paused: {reason}"
        return None

    @contextlib.contextmanager
    def watching(
        self, control: Control, run: Run, addresses: list[PvAddress], denied: dict[PvAddress, str]
    ) -> Iterator[None]:
        """Withdraw the permission to write as soon as a condition ceases to hold, in the middle of a call too.

        :param denied: the mapping that the gate has given to the call.
        """

        def hear(condition: Condition, update: Update) -> None:
            if (reason := _broken(condition, control.judged(condition.pv, update))) is not None:
                denied.update(dict.fromkeys(addresses, f"paused: {reason}"))

        conditions = () if run.is_closing else self.keep_running
        with contextlib.ExitStack() as subscriptions:
            for condition in conditions:
                subscriptions.callback(control.monitor(condition.pv, partial(hear, condition)).close)
            yield


def _broken(condition: Condition, update: Update) -> str | None:
    """Return why a condition does not hold; None when it does."""
    if not isinstance(update, Reading):
        return f"{condition} does not hold, {update.message}"
    if condition.holds(update):
        return None
    return f"{condition} does not hold, it reads {update.label or update.plain!r}"


class Attachment:
    """The sink and gate of one Control. Nothing happens before the first set.

    :param manifest: describes the run; asked when one begins.
    :param locks: whether to lock the PVs on this host; False for a simulated machine, which no other process reaches.
    :param force: whether to set also what another process has locked; that is recorded.
    :ivar may_set: returns the PVs that the run may come to set; they are in its baseline as well.
    :ivar record: returns the PVs of which every update is recorded while the run goes on; the setting adds to them.
    :ivar about: more parts of the manifest, each asked when a run begins.
    :ivar policies: in place of the settings ``on_cancelled`` and ``on_exception``, for a run that begins here.
    :ivar hooks: ``on_cancelled(run)`` and ``on_exception(run, error)``, called before anything is restored.
    """

    def __init__(
        self, manifest: Callable[[], Mapping[str, Any]] = dict, *, locks: bool = True, force: bool = False
    ) -> None:
        """Keep the parts; ``attach`` gives the Control."""
        self._manifest = manifest
        self._locks = locks
        self._force = force
        self._forced: set[tuple[str, str]] = set()
        self._control: Control | None = None
        self._guards = Guards()
        self._point: Mapping[str, Any] | None = None
        self.may_set: Callable[[], list[str]] = list
        self.record: Callable[[], list[str]] = list
        self.about: dict[str, Callable[[], Mapping[str, Any]]] = {}
        self.policies: dict[str, str] = {}
        self.hooks: dict[str, Callable[..., object]] = {}

    def attach(self, control: Control) -> Control:
        """Become the sink and gate of this Control, in place of the one before."""
        control.sink = control.gate = self
        before, self._control = self._control, control
        if (run := process.current()) is not None and before is not None:
            run.replaced(before, control)
        return control

    def guard(self, can_start: Sequence[Condition] = (), keep_running: Sequence[Condition] = ()) -> None:
        """Set the conditions that must hold before the first set, and before every set; none is waited for."""
        self._guards = Guards(tuple(can_start), tuple(keep_running))

    @contextlib.contextmanager
    def point(self, variables: Mapping[str, Any]) -> Iterator[None]:
        """Assign everything that is set inside to one point of the optimizer."""
        before, self._point = self._point, variables
        try:
            yield
        finally:
            self._point = before

    def _all_about(self) -> dict[str, Any]:
        """Return the whole manifest."""
        manifest = dict(self._manifest())
        for about in self.about.values():
            manifest.update(about())
        return manifest

    def _complete(self, run: Run) -> None:
        """Add to the manifest of a run what it does not tell yet."""
        run.manifest |= {key: value for key, value in self._all_about().items() if key not in run.manifest}

    # -- the gate ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, addresses: Collection[PvAddress]) -> Iterator[Mapping[PvAddress, str]]:
        """Hold the permission to write for one call: of a run that goes on, under its guards, with its locks."""
        control = self._control
        if not addresses or control is None:
            yield {}
            return
        run, reason = process.for_set(self._all_about, self.policies)
        if run is not None:
            reason = run.why_not() or self._guards.why_not(control, run) or status_panel.claimed(control, run)
        if run is None or reason is not None:
            yield dict.fromkeys(list(addresses)[:1], reason or "")
            return
        if control.settings.read_only:
            yield {}
            return
        names = list(addresses)
        with contextlib.ExitStack() as held:
            denied = held.enter_context(run.locked(names, force=self._force)) if self._locks else {}
            if self._force:
                for address, why in denied.items():
                    self._tell_forced(run, address, why)
                denied = {}
            if not run.is_closing:
                held.enter_context(run.pending.begun(names, denied))
            held.enter_context(self._guards.watching(control, run, names, denied))
            if run.holds:
                held.enter_context(run.foreign_moves.setting(names))
            yield denied

    def _tell_forced(self, run: Run, address: PvAddress, reason: str) -> None:
        """Record, once in a run, that a lock is overridden; of a run that has not begun, when it does."""
        if (once := (run.id, address.own_name)) in self._forced:
            return
        self._forced.add(once)

        def tell(run: Run) -> None:
            run.recorder.write(run.recorder.forced(address, reason))

        if run.began:
            tell(run)
        else:
            run.on_begin.append(tell)

    # -- the sink ---------------------------------------------------------------------------------------------------

    def set_began(
        self, before: Mapping[PvAddress, Reading], asked: Mapping[str, Any], validators: Mapping[str, Any]
    ) -> str | None:
        """Take the baseline of PVs that have none yet; return why nothing may be sent."""
        if (run := process.current()) is None or self._control is None:
            return None
        if not run.began:
            self._complete(run)
            run.on_begin.append(partial(_begin_recording, self._control, self.record()))
        for name, hook in self.hooks.items():
            if hook not in (hooks := getattr(run, name)):
                hooks.append(hook)
        return run.set_began(self._control, before, asked, validators, self.may_set, self._point)

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Record one attempt on each PV."""
        if (run := process.current()) is not None:
            run.puts_attempted(results)

    def set_finished(self, report: SetReport) -> None:
        """Record the end of a call."""
        if (run := process.current()) is not None:
            run.set_finished(report, self._point)

    def read_finished(self, updates: Mapping[str, Update]) -> None:
        """Record a read; without a run there is no record of it."""
        if (run := process.current()) is not None:
            run.read_finished(updates)

    # -- past both --------------------------------------------------------------------------------------------------

    def unguarded(self, message: str, point: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        """Record an evaluation whose sets did not come through here; the run begins with it, if it has not yet.

        :param message: what is missing.
        :param point: its variables.
        :param measured: its observables.
        """
        run, _ = process.for_set(self._all_about, self.policies)
        if run is None or run.stopping:
            return
        if not run.began:
            self._complete(run)
        run.unguarded(message, point, measured)


def _begin_recording(control: Control, pvs: Sequence[str], run: Run) -> None:
    """Record every update of PVs from the beginning of a run to its end."""
    if wanted := [*pvs, *run.settings.record]:
        recorded = RecordedPvs(control, run.recorder, wanted)
        run.before_end.append(recorded.close)
