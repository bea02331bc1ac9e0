"""``Attachment``: what ties a ``Control`` to the run of its process. It is the Control's sink and its gate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ..control import Control
from ..core.backend import Update
from ..core.model import PutResult, PvAddress, Reading, SetReport
from ..core.records import Level
from . import process
from . import status_panel as panel
from .guards import Condition, Guards
from .recorded_pvs import Samples
from .run import Run


class Attachment:
    """Sink and gate of one Control. Nothing happens before the first set.

    :param manifest: tells what a run is a run of, when one begins.
    :param locks: whether its PVs are the host's: a simulated machine's are nobody else's.
    :param force: whether what another process has locked is set all the same; that is on record.
    :ivar may_set: tells the PVs that the run may come to set; they are in its baseline as well.
    :ivar record: tells the PVs of which every update is recorded while the run goes on; the setting adds to them.
    :ivar about: more that goes into the manifest, each asked when a run begins.
    :ivar policies: in place of the settings ``on_cancelled`` and ``on_exception``, for a run that begins here.
    :ivar hooks: ``on_cancelled(run)`` and ``on_exception(run, error)``, called before anything is put back.
    """

    def __init__(
        self, manifest: Callable[[], Mapping[str, Any]] = dict, *, locks: bool = True, force: bool = False
    ) -> None:
        """Know no Control yet: ``attach`` comes first."""
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
        """Be the sink and the gate of this Control, and of no other from now on."""
        control.sink = control.gate = self
        before, self._control = self._control, control
        if (run := self._run) is not None and before is not None:
            run.replaced(before, control)
        return control

    def guard(self, can_start: Sequence[Condition] = (), keep_running: Sequence[Condition] = ()) -> None:
        """Say what must hold before the first set, and before every set; neither is waited for."""
        self._guards = Guards(tuple(can_start), tuple(keep_running))

    @contextlib.contextmanager
    def point(self, variables: Mapping[str, Any]) -> Iterator[None]:
        """Everything that is set inside belongs to one point of the optimizer."""
        before, self._point = self._point, variables
        try:
            yield
        finally:
            self._point = before

    def _all_about(self) -> dict[str, Any]:
        manifest = dict(self._manifest())
        for about in self.about.values():
            manifest.update(about())
        return manifest

    def _complete(self, run: Run) -> None:
        run.manifest |= {key: value for key, value in self._all_about().items() if key not in run.manifest}

    @property
    def _run(self) -> Run | None:
        return process.current()

    # -- the gate ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, addresses: Collection[PvAddress]) -> Iterator[Mapping[PvAddress, str]]:
        """Hold the right to write for one call: of a run that goes on, under its guards, with its locks."""
        control = self._control
        if not addresses or control is None:
            yield {}
            return
        run, reason = process.for_set(self._all_about, self.policies)
        if run is not None:
            reason = run.why_not() or self._guards.why_not(control, run) or panel.claimed(control, run)
        if run is None or reason is not None:
            yield dict.fromkeys(list(addresses)[:1], reason or "")
            return
        if control.settings.read_only:
            yield {}
            return
        names = list(addresses)
        with contextlib.ExitStack() as held:
            denied = self._lock(run, names, held) if self._locks else {}
            if not run.is_closing:
                held.enter_context(run.calls.begun(names, denied))
            held.enter_context(self._guards.watching(control, run, names, denied))
            if run.holds:
                held.enter_context(run.watch.setting(names))
            yield denied

    def _lock(self, run: Run, names: list[PvAddress], held: contextlib.ExitStack) -> dict[PvAddress, str]:
        """Hold the locks of these PVs for as long as the run says; by force, without those that another has.

        :returns: which may not be written, and why.
        """
        while (denied := held.enter_context(run.locked(names))) and self._force:
            for address, reason in denied.items():
                self._tell_forced(run, address, reason)
            names = [name for name in names if name not in denied]
        return denied

    def _tell_forced(self, run: Run, address: PvAddress, reason: str) -> None:
        """Put it on record, once in a run; of one that has not begun, when it does."""
        if (once := (run.id, address.own_name)) in self._forced:
            return
        self._forced.add(once)

        def tell(run: Run) -> None:
            words = f"set all the same, by force: {reason}"
            run.recorder.event("forced", words, pv=address.text, level=Level.WARNING)

        if run.began:
            tell(run)
        else:
            run.on_begin.append(tell)

    # -- the sink ---------------------------------------------------------------------------------------------------

    def set_began(
        self, before: Mapping[PvAddress, Reading], asked: Mapping[str, Any], validators: Mapping[str, Any]
    ) -> str | None:
        """Take the baseline where it is not taken yet."""
        if (run := self._run) is None or self._control is None:
            return None
        if not run.began:
            self._complete(run)
            run.on_begin.append(partial(_begin_samples, self._control, self.record()))
        for name, hook in self.hooks.items():
            if hook not in (hooks := getattr(run, name)):
                hooks.append(hook)
        return run.set_began(self._control, before, asked, validators, self.may_set, self._point)

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Record one attempt on each."""
        if (run := self._run) is not None:
            run.puts_attempted(results)

    def set_finished(self, report: SetReport) -> None:
        """Record a call."""
        if (run := self._run) is not None:
            run.set_finished(report, self._point)

    def read_finished(self, updates: Mapping[str, Update]) -> None:
        """Record a read; one without a run makes none."""
        if (run := self._run) is not None:
            run.read_finished(updates)

    # -- past both --------------------------------------------------------------------------------------------------

    def unguarded(self, message: str, point: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        """Put on record an evaluation of which nothing came through here: the run begins by it, if it has not yet.

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


def _begin_samples(control: Control, pvs: Sequence[str], run: Run) -> None:
    """Record PVs from the beginning of a run to its end."""
    if wanted := [*pvs, *run.settings.record]:
        samples = Samples(control, run.recorder, wanted)
        run.before_end.append(samples.close)
