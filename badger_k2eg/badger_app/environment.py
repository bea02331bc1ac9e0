"""``ControlEnvironment``: an environment that is a declaration. Knobs, measures, conditions, and at most a formula.

Reaches PVs through the ``Control`` of its interface; stays offline while Badger lists it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from badger.errors import BadgerNoInterfaceError
from badger.interface import InterfaceInfo
from pydantic import PrivateAttr

from .. import run
from ..control import Control
from ..core import clock
from ..core.deadline import Deadline
from ..core.errors import PvError, ReadError, SettingsError
from ..core.model import Limits, SetReport
from ..tuning import (
    Buffer,
    Condition,
    Expression,
    Knob,
    Measurable,
    Mover,
    Observable,
    Sample,
    Sampler,
    Skew,
    filled,
    wait_for,
)
from . import recording
from . import run_frames as running
from .environment_checks import DeclaredMeta, check_declarations
from .environment_options import AS_CONFIGURED, ConfiguredEnvironment
from .interface import ControlInterface
from .replay import ReplayInterface

__all__ = ["AS_CONFIGURED", "ControlEnvironment"]

logger = logging.getLogger("badger_k2eg")

#: Stands for the bounds of a record while Badger lists plugins: the machine must not be asked then, and Badger wants
#: numbers. No run goes by them.
_NOT_ASKED = Limits(-1e9, 1e9)


class _Machine:
    """What is alive in an environment. Never copied and never stored: a copy begins with its own."""

    def __init__(self) -> None:
        self.control: Control | None = None
        self.mover: Mover | None = None
        self.sampler: Sampler | None = None
        #: Monotonic seconds at which the last move had settled; None before the first.
        self.moved_at: float | None = None
        #: What was measured last, with its readings.
        self.samples: dict[str, Sample] = {}

    def __copy__(self) -> _Machine:
        return _Machine()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Machine:
        return _Machine()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Machine, ()


class ControlEnvironment(ConfiguredEnvironment, metaclass=DeclaredMeta):
    """An environment for our interfaces, declared in class attributes.

    ``knobs`` are its variables and ``measures`` its observables, by name; a text is a PV. ``{name}`` in a PV stands for
    the parameter (field) of that name. ``conditions`` are waited for before anything is measured;
    ``can_start`` must hold before the first set of a run and ``keep_running`` before every set: where one does not,
    nothing is set, and its reason is told. Of each PV in ``record`` every update is recorded while a run goes on.
    Methods ``on_cancelled(run)`` and ``on_exception(run, error)``, where there are any, are called when a run is
    stopped or fails, and may still set PVs. In place of ``knobs`` and ``measures`` there may be Badger's own
    ``variables`` and ``observables``: each stands for the PV that the parameter of the same name holds, or else is
    itself a PV; so is what a user adds by hand in Badger's window.

    What ``measures`` declares counts only when it was taken after the move (``tuning.Observable``); what is just a
    name is read as it is. With ``skew`` it must also be of one instant, or of one pulse.

    :raises SettingsError: for an unknown parameter or a wrong value; the class itself, for a wrong word or declaration
        in its body. Each is one line.
    """

    knobs: ClassVar[Mapping[str, Knob | str]] = {}
    measures: ClassVar[Mapping[str, Measurable | str]] = {}
    conditions: ClassVar[Sequence[Condition]] = ()
    skew: ClassVar[Skew | None] = None
    can_start: ClassVar[Sequence[Condition]] = ()
    keep_running: ClassVar[Sequence[Condition]] = ()
    record: ClassVar[Sequence[str]] = ()

    _machine: _Machine = PrivateAttr(default_factory=_Machine)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Tell Badger the names, and the bounds that are known without the machine."""
        super().__pydantic_init_subclass__(**options)
        check_declarations(cls)
        if "knobs" in vars(cls) and "variables" not in vars(cls):
            own = {name: knob.bounds if isinstance(knob, Knob) else None for name, knob in cls.knobs.items()}
            cls.variables = {name: list(bounds or ()) for name, bounds in own.items()}
        if "measures" in vars(cls) and "observables" not in vars(cls):
            cls.observables = list(cls.measures)

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        # Badger gives this one, and no other, while it lists plugins: then the machine must not be asked.
        self._listed = "params" in parameters

    _listed: bool = PrivateAttr(default=False)

    # -- declarations, with the parameters in their places -----------------------------------------------------------

    def pv(self, name: str) -> str:
        """Give the PV of a variable, or of an observable that is one PV.

        :raises SettingsError: when its parameter is empty.
        """
        if name in self.knobs:
            return self._knob(name).setpoint
        if isinstance(what := self.measures.get(name), str):
            return self._filled(name, what)  # type: ignore[no-any-return]
        if name not in type(self).model_fields or not (name in self.variables or name in self.observables):
            return name
        text = getattr(self, name)
        if not isinstance(text, str) or not text.strip():
            raise SettingsError(f"environment {self.name}: parameter {name} names no PV")
        return text.strip()

    def _filled(self, name: str, declaration: Any) -> Any:
        try:
            return filled(declaration, {field: getattr(self, field) for field in type(self).model_fields})
        except ValueError as error:
            raise SettingsError(f"environment {self.name}: {name}: {error}") from None

    def _knob(self, name: str) -> Knob:
        declared = self.knobs.get(name)
        if declared is None:
            return Knob(self.pv(name))
        knob: Knob = self._filled(name, Knob(declared) if isinstance(declared, str) else declared)
        return knob

    def _measure(self, name: str) -> Measurable:
        declared = self.measures.get(name)
        if declared is None:
            # Just a name may be anything, also what never changes: it is read as it is.
            return Observable(self.pv(name), fresh=False, reduce="none")
        what: Measurable = self._filled(name, Observable(declared) if isinstance(declared, str) else declared)
        return what

    def _knobs(self, names: Sequence[str]) -> dict[str, Knob]:
        knobs = {name: self._knob(name) for name in names}
        seen: dict[str, str] = {}
        for name, knob in knobs.items():
            if knob.setpoint in seen:
                raise SettingsError(
                    f"environment {self.name}: two variables of this step stand for {knob.setpoint}: "
                    f"{seen[knob.setpoint]} and {name}"
                )
            seen[knob.setpoint] = name
        return knobs

    def recorded_pvs(self) -> list[str]:
        """List the PVs of which every update is recorded while a run goes on."""
        return [str(self._filled("record", pv)) for pv in self.record]

    def pvs(self) -> list[str]:
        """List every PV that it stands on: setpoints, readbacks, status, what is measured, conditions.

        :raises SettingsError: when a parameter is empty.
        """
        named: list[str | None] = []
        for name in dict.fromkeys([*self.knobs, *self.variables]):
            knob = self._knob(name)
            named += [knob.setpoint, knob.readback, knob.done]
        for name in dict.fromkeys([*self.measures, *self.observables]):
            measure = self._measure(name)
            for leaf in measure.parts.values() if isinstance(measure, Expression) else [measure]:
                named += [leaf.pv, leaf.rate if isinstance(leaf, Buffer) and isinstance(leaf.rate, str) else None]
        for condition in (*self.conditions, *self.can_start, *self.keep_running):
            named.append(self._filled("a condition", condition).pv)
        return list(dict.fromkeys(pv for pv in named if pv is not None))

    # -- the machine --------------------------------------------------------------------------------------------------

    def _interface(self) -> ControlInterface:
        if self.interface is None:
            raise BadgerNoInterfaceError
        if not isinstance(self.interface, ControlInterface):
            raise SettingsError(f"environment {self.name} needs an interface of badger-k2eg, not {self.interface.name}")
        return self.interface

    def _attached(self) -> _Machine:
        """Give the living parts, for the options that are in force now."""
        interface, machine = self._interface(), self._machine
        if machine.control is not interface.control:
            if machine.sampler is not None:
                machine.sampler.close()
            machine.control = interface.control
            machine.mover = Mover(interface.control, self._write)
            machine.sampler = Sampler(interface.control)
            running.tell(self, interface.attachment)
            interface.attachment.guard(
                *(
                    [self._filled("a condition", condition) for condition in conditions]
                    for conditions in (self.can_start, self.keep_running)
                )
            )
        return machine

    def _write(self, values: Mapping[str, Any], validators: Mapping[str, Any], deadline: Deadline) -> SetReport:
        # Through the interface, so that Badger's own recording has it too.
        report: SetReport = self._interface().set_values(values, validators)
        return report

    @property
    def last_samples(self) -> dict[str, Sample]:
        """What was measured last: each value with its readings, and whether it is partial."""
        return dict(self._machine.samples)

    # -- what Badger asks ---------------------------------------------------------------------------------------------

    def get_variables(self, variable_names: Sequence[str]) -> dict[str, Any]:
        """Read variables: their setpoints."""
        pvs = {name: self.pv(name) for name in variable_names}
        values = self._interface().get_values(list(dict.fromkeys(pvs.values())))
        return {name: values[pv] for name, pv in pvs.items()}

    def set_variables(self, variable_inputs: Mapping[str, float]) -> None:
        """Turn knobs, and return when the machine has arrived and settled.

        :raises SetError: when one of them does not end as asked.
        :raises SettingsError: when two of them stand for the same PV.
        """
        knobs = self._knobs(list(variable_inputs))
        if isinstance(interface := self._interface(), ReplayInterface):
            # Nothing turns: there is no way to come by, and nothing to settle.
            interface.set_values({knobs[name].setpoint: value for name, value in variable_inputs.items()})
            return
        machine = self._attached()
        assert machine.mover is not None  # noqa: S101 - made together with the control
        try:
            with self._interface().attachment.point(variable_inputs):
                machine.mover.move(variable_inputs, knobs)
        finally:
            # After a failed move too: what was measured before it says nothing about now.
            machine.moved_at = clock.monotonic()

    def get_observables(self, observable_names: Sequence[str]) -> dict[str, Any]:
        """Wait for the conditions, and measure.

        :raises ConditionNotMet: when one does not come true in its time.
        :raises ReadError: when an observable cannot be measured, unless ``on_read_error`` is ``nan``.
        """
        wanted = {name: self._measure(name) for name in observable_names}
        interface = self._interface()
        self._machine.samples = {}
        try:
            if isinstance(interface, ReplayInterface):
                values = interface.observe({n: m.pv if isinstance(m, Observable) else "" for n, m in wanted.items()})
            else:
                values = self._measured(wanted)
        except ReadError as error:
            if interface.settings.on_read_error != "nan":
                self._tell(error.partial, error.errors)
                raise
            logger.warning("%s: NaN in its place", error)
            values = {name: error.partial.get(name, math.nan) for name in wanted}
        recording.observed(interface, values)
        self._tell(values)
        return values

    def _measured(self, wanted: Mapping[str, Measurable]) -> dict[str, Any]:
        machine = self._attached()
        control, sampler = machine.control, machine.sampler
        assert control is not None and sampler is not None  # noqa: S101 - made together
        wait_for(control.reader, [self._filled("a condition", condition) for condition in self.conditions])
        # Where nothing was moved, what is measured must be from after this call.
        since = None if control.settings.read_only else machine.moved_at
        machine.samples = sampler.measure(wanted, since=since, skew=self.skew)
        return {name: sample.value for name, sample in machine.samples.items()}

    def _tell(self, values: Mapping[str, Any], errors: Mapping[str, PvError] | None = None) -> None:
        if (ours := run.current()) is not None:
            samples = self._machine.samples
            ours.evaluations.observed(values, {name: sample.readings for name, sample in samples.items()}, errors)

    def get_bounds(self, variable_names: Sequence[str]) -> dict[str, list[float]]:
        """Give bounds: those of ``variables`` first (Badger patches them in), the knob's own, or the record's.

        While Badger lists plugins the machine is not asked, and bounds that it alone knows are a placeholder.

        :raises ReadError: naming the records that do not answer.
        :raises SettingsError: for a record without drive limits: then the knob must have bounds of its own.
        """
        known = {name: self.variables[name] for name in variable_names if self.variables.get(name)}
        asked = self._knobs([name for name in variable_names if name not in known])
        limits = {knob.setpoint: _NOT_ASKED for knob in asked.values()}
        if asked and not self._listed:
            mover = self._attached().mover
            assert mover is not None  # noqa: S101 - made together with the control
            limits = mover.bounds.find(asked.values())
        bounds: dict[str, list[float]] = {}
        for name in variable_names:
            if name in known:
                bounds[name] = [float(end) for end in known[name]]
                continue
            pv = asked[name].setpoint
            if limits[pv].low is None or limits[pv].high is None:
                raise SettingsError(
                    f"environment {self.name}: {pv} has no drive limits; give the knob {name} bounds=(low, high)"
                )
            else:
                bounds[name] = [float(limits[pv].low or 0.0), float(limits[pv].high or 0.0)]
        return bounds

    def get_info(self, variable_names: Sequence[str]) -> InterfaceInfo:
        """Describe variables for Badger's window, each with its PV."""
        pvs = {name: self.pv(name) for name in variable_names}
        info = self._interface().get_info(list(dict.fromkeys(pvs.values())))
        return {**info, "vars": {name: {"pv": pv, **info["vars"][pv]} for name, pv in pvs.items()}}
