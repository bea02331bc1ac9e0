"""``ConfiguredEnvironment``: a Badger environment whose Parameters hold the choice of its interface and its options.

Badger has no place for the parameters of an interface: its window shows none, and a saved routine loses them. Those of
an environment survive both. Imports badger.environment; touches no PV, and stays offline while it is listed.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Self

from badger.environment import Environment
from badger.interface import Interface
from pydantic import Field, ValidationError, field_validator, model_validator

from ..core.errors import SettingsError
from ..core.suggestions import close_to, did_you_mean
from ..plugins import plugin_root
from . import run_frames
from .interface import ControlInterface
from .interface_options import first_line
from .replay import ReplayInterface
from .session import plugin_names

#: The first choice of each option: keyword, environment variable and ini file of the interface decide.
AS_CONFIGURED = "as configured"
_POLICIES = ("leave", "restore")
_SAYS = {"yes": True, "no": False, AS_CONFIGURED: None}


class ConfiguredEnvironment(Environment):
    """An environment for our interfaces.

    Options have three values, because Badger stores every parameter of a routine, the untouched ones too: a stored "no"
    must not switch off what an operator switched on.

    :raises SettingsError: for an unknown parameter or a wrong value, in one line.
    """

    # Badger's window makes its entry from the default value, and empties it to None.
    interface_name: str | None = Field(
        AS_CONFIGURED, description="the interface to go through, or as configured: the first one of configs.yaml"
    )
    read_only: str | None = Field(
        AS_CONFIGURED, description="set nothing, only log it: yes, no or as configured; no lifts nothing"
    )
    parallel: str | None = Field(
        AS_CONFIGURED, description="send all setpoints of a step at once: yes, no or as configured"
    )
    timeout: str | None = Field(AS_CONFIGURED, description="seconds for one attempt, or as configured")
    after_stop: str | None = Field(
        AS_CONFIGURED,
        description="the setpoints of a run that is stopped: leave, restore or as configured",
    )
    after_failure: str | None = Field(
        AS_CONFIGURED, description="the setpoints of a run that fails: leave, restore or as configured"
    )

    replay_run: str | None = Field(
        AS_CONFIGURED, description="for the interface replay: the recorded run, by id or name, or last"
    )
    replay_matching: str | None = Field(
        AS_CONFIGURED, description="for the interface replay: strict, nearest or time, or as configured"
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Let the calls of an environment be frames of ours, whoever writes them."""
        super().__pydantic_init_subclass__(**options)
        run_frames.framed(cls)

    def __init__(self, **parameters: Any) -> None:
        known = type(self).model_fields
        # Badger itself adds "params" while it lists plugins.
        for name in parameters.keys() - known.keys() - {"params"}:
            hint = did_you_mean(name, known, "parameters")
            raise SettingsError(f"environment {self.name}: there is no parameter {name!r}; {hint}")
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            raise SettingsError(f"environment {self.name}: {first_line(error)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Take a changed parameter at once.

        :raises SettingsError: as in the constructor.
        """
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise SettingsError(f"environment {self.name}: {first_line(error)}") from None

    @field_validator("read_only", "parallel", mode="before")
    @classmethod
    def _three_valued(cls, value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        text = _words(value)
        if text not in _SAYS:
            raise ValueError(f"say yes, no or {AS_CONFIGURED}, not {value!r}")
        return text

    @field_validator("after_stop", "after_failure", mode="before")
    @classmethod
    def _policy(cls, value: Any) -> str:
        text = _words(value)
        if text not in (*_POLICIES, AS_CONFIGURED):
            raise ValueError(f"say {', '.join(_POLICIES)} or {AS_CONFIGURED}, not {value!r}")
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

    @field_validator("interface_name", mode="before")
    @classmethod
    def _known_interface(cls, value: Any) -> str:
        text = "" if value is None else str(value).strip()
        if text.lower() in ("", AS_CONFIGURED):
            return AS_CONFIGURED
        if text not in (names := interface_names()):
            # All of them, besides: who chooses one must know what there is.
            meant = f"did you mean {close!r}? " if (close := close_to(text, names)) else ""
            raise ValueError(f"there is no interface {text!r}; {meant}there are {', '.join(names)}")
        return text

    @model_validator(mode="after")
    def _configure_interface(self) -> Self:
        # Also after every assignment.
        wanted = self.interface_name or AS_CONFIGURED
        if wanted != AS_CONFIGURED and (self.interface is None or self.interface.name != wanted):
            # Not by assignment: that would come here again.
            self.__dict__["interface"] = interface_class(wanted)()
        if isinstance(self.interface, ReplayInterface):
            self.interface.choose(run=_chosen(self.replay_run), matching=_chosen(self.replay_matching))
        if isinstance(self.interface, ControlInterface):
            self.interface.configure(
                read_only=_SAYS[self.read_only or AS_CONFIGURED],
                parallel=_SAYS[self.parallel or AS_CONFIGURED],
                timeout=None if self.timeout in (None, AS_CONFIGURED) else float(self.timeout),
            )
            said = {"on_cancelled": self.after_stop, "on_exception": self.after_failure}
            self.interface.attachment.policies = {
                name: policy for name, policy in said.items() if policy not in (None, AS_CONFIGURED)
            }
        return self


def interface_names() -> list[str]:
    """List the interfaces there are: those of Badger's plugin root, or ours where Badger is not configured yet."""
    factory = sys.modules.get("badger.factory")
    names: list[str] = factory.list_intf() if factory is not None else plugin_names("interfaces")
    return sorted(names)


def interface_class(name: str) -> type[Interface]:
    """Find the class of an interface; one of ``interface_names``."""
    if (factory := sys.modules.get("badger.factory")) is not None:
        found: type[Interface] = factory.get_intf(name)[0]
        return found
    root = str(plugin_root())
    if root not in sys.path:
        # As Badger itself does it: plugins are imported as interfaces.NAME.
        sys.path.append(root)
    module_class: type[Interface] = importlib.import_module(f"interfaces.{name}").Interface
    return module_class


def _words(value: Any) -> str:
    text = "" if value is None else str(value).strip().lower()
    return text or AS_CONFIGURED


def _chosen(value: str | None) -> str | None:
    return None if _words(value) == AS_CONFIGURED else str(value).strip()
