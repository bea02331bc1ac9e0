"""``ControlEnvironment``: an environment as a declaration of knobs, measures and conditions, with a formula at most.

Reaches PVs through its interface; stays offline while Badger lists it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from badger.errors import BadgerNoInterfaceError
from badger.interface import InterfaceInfo
from pydantic import PrivateAttr

from ..core.errors import SettingsError
from ..core.model import Limits
from ..run import Attachment
from ..tuning import Buffer, Condition, Expression, Knob, Measurable, Observable, Sample, Skew, filled
from . import run_frames
from .environment_checks import DeclaredMeta, check_declarations
from .environment_options import AS_CONFIGURED, ConfiguredEnvironment
from .interface import ControlInterface

__all__ = ["AS_CONFIGURED", "ControlEnvironment"]

#: Stands for the bounds of a record while Badger lists plugins: the machine must not be asked then, and Badger wants
#: numbers. No run uses them.
_NOT_ASKED = Limits(-1e9, 1e9)


class ControlEnvironment(ConfiguredEnvironment, metaclass=DeclaredMeta):
    """An environment for the interfaces of this package, declared in class attributes.

    ``knobs`` are its variables and ``measures`` its observables, by name; a text is a PV. ``{name}`` in a PV stands for
    the parameter (field) of that name. ``conditions`` are waited for before anything is measured;
    ``can_start`` must hold before the first set of a run and ``keep_running`` before every set: if one does not hold,
    nothing is set, and the error gives its reason. Of each PV in ``record`` every update is recorded during a run.
    Methods ``on_cancelled(run)`` and ``on_exception(run, error)``, if defined, are called when a run is stopped or
    fails, and may still set PVs. Instead of ``knobs`` and ``measures`` there may be Badger's own ``variables`` and
    ``observables``: each stands for the PV that the parameter of the same name holds, or else is a PV itself, as is one
    that a user adds in Badger's window.

    An observable of ``measures`` counts only when it was taken after the move (``tuning.Observable``); one of
    ``observables`` is read as it is. With ``skew`` they must also be of one instant, or of one pulse.

    :raises SettingsError: for an unknown parameter or a wrong value; the class itself, for a wrong name or declaration
        in its body. Each is one line.
    """

    knobs: ClassVar[Mapping[str, Knob | str]] = {}
    measures: ClassVar[Mapping[str, Measurable | str]] = {}
    conditions: ClassVar[Sequence[Condition]] = ()
    skew: ClassVar[Skew | None] = None
    can_start: ClassVar[Sequence[Condition]] = ()
    keep_running: ClassVar[Sequence[Condition]] = ()
    record: ClassVar[Sequence[str]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Give Badger the names, and the bounds that are known without the machine."""
        super().__pydantic_init_subclass__(**options)
        check_declarations(cls)
        if "knobs" in vars(cls) and "variables" not in vars(cls):
            own = {name: knob.bounds if isinstance(knob, Knob) else None for name, knob in cls.knobs.items()}
            cls.variables = {name: list(bounds or ()) for name, bounds in own.items()}
        if "measures" in vars(cls) and "observables" not in vars(cls):
            cls.observables = list(cls.measures)

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        # Badger gives this one alone, while it lists plugins: the machine must not be asked then.
        self._listed = "params" in parameters

    _listed: bool = PrivateAttr(default=False)

    # -- declarations, with the parameters filled in -----------------------------------------------------------------

    def pv(self, name: str) -> str:
        """Return the PV of a variable, or of an observable that is one PV.

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
            raise SettingsError(f"environment {self.name}: parameter {name} is empty; it must name a PV")
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
            # A mere name may be anything, also what never changes: it is read as it is.
            return Observable(self.pv(name), fresh=False, reduce="none")
        what: Measurable = self._filled(name, Observable(declared) if isinstance(declared, str) else declared)
        return what

    def _knobs(self, names: Sequence[str]) -> dict[str, Knob]:
        knobs = {name: self._knob(name) for name in names}
        seen: dict[str, str] = {}
        for name, knob in knobs.items():
            if knob.setpoint in seen:
                raise SettingsError(
                    f"environment {self.name}: two variables of this step are the PV {knob.setpoint}: "
                    f"{seen[knob.setpoint]} and {name}"
                )
            seen[knob.setpoint] = name
        return knobs

    def recorded_pvs(self) -> list[str]:
        """List the PVs of which every update is recorded during a run."""
        return [str(self._filled("record", pv)) for pv in self.record]

    def pvs(self) -> list[str]:
        """List every PV in use: setpoints, readbacks, status, observables, conditions.

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

    def _attached(self) -> ControlInterface:
        """Return the interface, with its run told what this environment is."""
        interface = self._interface()
        self._tell(interface.attachment)
        return interface

    def _tell(self, attachment: Attachment) -> None:
        attachment.about["environment"] = lambda: {"environment": run_frames.described(self)}
        attachment.may_set = lambda: list(run_frames.pvs_of(self, self.variables).values())
        attachment.record = self.recorded_pvs
        for name in ("on_cancelled", "on_exception"):
            if callable(hook := getattr(self, name, None)):
                attachment.hooks[name] = hook
        attachment.guard(self._filled_conditions(self.can_start), self._filled_conditions(self.keep_running))

    def _filled_conditions(self, conditions: Sequence[Condition]) -> list[Condition]:
        return [self._filled("a condition", condition) for condition in conditions]

    @property
    def last_samples(self) -> dict[str, Sample]:
        """What was measured last: each value with its readings, and whether it is partial."""
        return self._interface().last_samples

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
        interface = self._attached()
        with interface.attachment.point(variable_inputs):
            interface.move(variable_inputs, knobs)

    def get_observables(self, observable_names: Sequence[str]) -> dict[str, Any]:
        """Wait for the conditions, and measure.

        :raises ConditionNotMet: when one does not hold in time.
        :raises ReadError: when an observable cannot be measured, unless ``on_read_error`` is ``nan``.
        """
        wanted = {name: self._measure(name) for name in observable_names}
        return self._attached().measure(wanted, self._filled_conditions(self.conditions), self.skew)

    def get_bounds(self, variable_names: Sequence[str]) -> dict[str, list[float]]:
        """Return bounds: those of ``variables`` first (Badger patches them in), the knob's own, or the record's.

        While Badger lists plugins the machine is not asked, and bounds that it alone knows are a placeholder.

        :raises ReadError: naming the records that do not answer.
        :raises SettingsError: for a record without drive limits, if the knob has no bounds of its own.
        """
        known = {name: self.variables[name] for name in variable_names if self.variables.get(name)}
        asked = self._knobs([name for name in variable_names if name not in known])
        limits = {knob.setpoint: _NOT_ASKED for knob in asked.values()}
        if asked and not self._listed:
            limits = self._attached().bounds(asked.values())
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
