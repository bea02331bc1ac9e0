"""``ControlEnvironment``: its Parameters hold the options of its interface and the names of its PVs.

Badger has no place for the parameters of an interface: its window shows none, and a saved routine loses them. Those of
an environment survive both. Imports badger.environment; touches no PV by itself, and stays offline while it is listed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from badger.environment import Environment
from badger.errors import BadgerNoInterfaceError
from badger.interface import Interface, InterfaceInfo
from pydantic import Field, ValidationError, field_validator, model_validator

from ..errors import SettingsError
from .plugin import ControlInterface

#: The first choice of each option: keyword, environment variable and ini file of the interface decide.
AS_CONFIGURED = "as configured"
_SAYS = {"yes": True, "no": False, AS_CONFIGURED: None}


class ControlEnvironment(Environment):
    """An environment for our interfaces.

    A variable or observable stands for the PV that the parameter of the same name holds; without such a parameter its
    own name is the PV. Options have three values, because Badger stores every parameter of a routine, the untouched
    ones too: a stored "no" must not switch off what an operator switched on.

    :raises SettingsError: for an unknown parameter or a wrong value, in one line.
    """

    # Badger's window makes its entry from the default value, and empties it to None.
    read_only: str | None = Field(
        AS_CONFIGURED, description="set nothing, only log it: yes, no or as configured; no lifts nothing"
    )
    parallel: str | None = Field(
        AS_CONFIGURED, description="send all setpoints of a step at once: yes, no or as configured"
    )
    timeout: str | None = Field(AS_CONFIGURED, description="seconds for one attempt, or as configured")

    def __init__(self, **parameters: Any) -> None:
        known = type(self).model_fields
        # Badger itself adds "params" while it lists plugins.
        for name in parameters.keys() - known.keys() - {"params"}:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"parameters are {', '.join(known)}"
            raise SettingsError(f"environment {self.name}: there is no parameter {name!r}; {hint}")
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            raise SettingsError(f"environment {self.name}: {_first_line(error)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Take a changed parameter at once.

        :raises SettingsError: as in the constructor.
        """
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise SettingsError(f"environment {self.name}: {_first_line(error)}") from None

    @field_validator("read_only", "parallel", mode="before")
    @classmethod
    def _three_valued(cls, value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        text = _words(value)
        if text not in _SAYS:
            raise ValueError(f"say yes, no or {AS_CONFIGURED}, not {value!r}")
        return text

    @field_validator("timeout", mode="before")
    @classmethod
    def _seconds_or_as_configured(cls, value: Any) -> str:
        text = _words(value)
        if text != AS_CONFIGURED:
            try:
                float(text)
            except ValueError:
                raise ValueError(f"say a number of seconds or {AS_CONFIGURED}, not {value!r}") from None
        return text

    @model_validator(mode="after")
    def _configure_interface(self) -> Self:
        # Also after every assignment.
        if isinstance(self.interface, ControlInterface):
            self.interface.configure(
                read_only=_SAYS[self.read_only or AS_CONFIGURED],
                parallel=_SAYS[self.parallel or AS_CONFIGURED],
                timeout=None if self.timeout in (None, AS_CONFIGURED) else float(self.timeout),
            )
        return self

    # -- names ----------------------------------------------------------------------------------------------------

    def pv(self, name: str) -> str:
        """Give the PV that a variable or observable stands for.

        :raises SettingsError: when its parameter is empty.
        """
        if name not in type(self).model_fields or not (name in self.variables or name in self.observables):
            return name
        text = getattr(self, name)
        if not isinstance(text, str) or not text.strip():
            raise SettingsError(f"environment {self.name}: parameter {name} names no PV")
        return text.strip()

    def _interface(self) -> Interface:
        if self.interface is None:
            raise BadgerNoInterfaceError
        return self.interface

    def _read(self, names: Sequence[str]) -> dict[str, Any]:
        values = self._interface().get_values(list(dict.fromkeys(map(self.pv, names))))
        return {name: values[self.pv(name)] for name in names}

    # -- what Badger asks -----------------------------------------------------------------------------------------

    def get_variables(self, variable_names: Sequence[str]) -> dict[str, Any]:
        """Read variables."""
        return self._read(variable_names)

    def set_variables(self, variable_inputs: Mapping[str, float]) -> None:
        """Set variables.

        :raises SettingsError: when two of them stand for the same PV.
        """
        inputs: dict[str, float] = {}
        for name, value in variable_inputs.items():
            if (pv := self.pv(name)) in inputs:
                raise SettingsError(f"environment {self.name}: two variables of this step stand for {pv}")
            inputs[pv] = value
        self._interface().set_values(inputs)

    def get_observables(self, observable_names: Sequence[str]) -> dict[str, Any]:
        """Read observables."""
        return self._read(observable_names)

    def get_info(self, variable_names: Sequence[str]) -> InterfaceInfo:
        """Describe variables for Badger's window, each with its PV."""
        pvs = {name: self.pv(name) for name in variable_names}
        info = self._interface().get_info(list(dict.fromkeys(pvs.values())))
        return {**info, "vars": {name: {"pv": pv, **info["vars"][pv]} for name, pv in pvs.items()}}


def _words(value: Any) -> str:
    text = "" if value is None else str(value).strip().lower()
    return text or AS_CONFIGURED


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    return ": ".join([*map(str, first["loc"]), str(first["msg"]).removeprefix("Value error, ")])
