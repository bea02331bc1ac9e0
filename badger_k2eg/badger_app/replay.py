"""``ReplayInterface``: a recorded run in the machine's place. Nothing is reached, so nothing is ever written."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from pydantic import Field, ValidationError

from ..backends.replay import NotRecorded, ReplayBackend
from ..backends.replay.source import ReplaySettings, load, open_recording
from ..control import Control, Reader
from ..core.backend import Backend, Update
from ..core.deadline import Deadline
from ..core.errors import PvError, SettingsError, ValidationFailed, ValidatorCrashed
from ..core.futures import ABSENT, call
from ..core.model import PvAddress, Reading, SetReport, plain
from ..core.records import Record
from ..core.settings import Settings
from ..run import Attachment
from ..tuning import Condition, Knob, Measurable, Observable, Sample, Skew
from ..tuning.compute import failure_of
from .interface import ControlInterface
from .interface_options import first_line

logger = logging.getLogger("badger_k2eg")

#: There is no machine to wait for.
_AT_ONCE = {"put_attempts": 1, "put_interval": 0.0, "put_rate": None}
_NOT_VALID = (ValidationFailed.__name__, ValidatorCrashed.__name__)


class _Unrecorded(Attachment):
    """A tie to no run: a replay is not a run, takes no locks and leaves no record."""

    def attach(self, control: Control) -> Control:
        return control

    def unguarded(self, message: str, point: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        """Leave no record."""


class _ReplayReader(Reader):
    """A reader at the present point of a recorded run."""

    def __init__(self, replayed: ReplayBackend, settings: Settings) -> None:
        super().__init__(replayed, settings)
        self._replayed = replayed

    def updates(self, names: Iterable[str], deadline: Deadline | None = None) -> dict[str, Update]:
        """Read at the present point.

        :raises ReplayMismatch: in strict matching, when the run had no such point.
        """
        self._replayed.point()
        return super().updates(names, deadline)


class _ReplayControl(Control):
    """A control that sets nothing: it goes to recorded points. What failed at one fails again, validations too.

    :param replayed: the recorded run.
    """

    def __init__(self, replayed: ReplayBackend, settings: Settings) -> None:
        super().__init__(replayed, settings, reader=_ReplayReader(replayed, settings))
        self._replayed = replayed

    def set(self, values: Mapping[str, Any], validators: Mapping[str, Any] | None = None, **how: Any) -> Any:
        """Go to the recorded point of these setpoints; validators are not called: how each PV arrived is recorded.

        :raises SetError: as ``Control.set``, and as it was recorded.
        """
        callback = how.pop("callback", ABSENT)

        def work() -> SetReport:
            ended = self._replayed.expect({_name(pv): plain(value) for pv, value in values.items()})
            recorded = {pv: partial(_as_recorded, ended[_name(pv)]) for pv in values if _name(pv) in ended}
            report: SetReport = Control.set(self, values, recorded, **how)
            return report

        # In the background the deadline ends the task, and with it the call in it.
        parent = None if callback is ABSENT else how.pop("deadline", None) or self.life
        return call(work, callback, parent=parent, name="set")


class ReplayInterface(ControlInterface):
    """A recorded run in the machine's place: the same points give the same observables, and fail in the same way.

    :raises SettingsError: as ``ControlInterface``.
    """

    scheme: ClassVar[str] = "pva"

    run: str | None = Field(None, description=ReplaySettings.model_fields["run"].description)
    matching: str | None = Field(None, description=ReplaySettings.model_fields["matching"].description)
    speed: float | None = Field(None, description=ReplaySettings.model_fields["speed"].description)
    source: str | None = Field(None, description=ReplaySettings.model_fields["source"].description)

    def configure(self, *, run: str | None = None, matching: str | None = None, **options: Any) -> None:
        """Take the options of the environment, and the run and the matching that it chooses."""
        for name, value in (("run", run), ("matching", matching)):
            if value is not None and value != getattr(self, name):
                setattr(self, name, value)
        super().configure(**options)

    @property
    def address_variable(self) -> None:
        """None: nothing is searched."""
        return None

    @property
    def chosen(self) -> ReplaySettings:
        """The options in force: what is replayed, and how.

        :raises SettingsError: for a wrong option.
        """
        own = {name: value for name in ReplaySettings.model_fields if (value := getattr(self, name)) not in (None, "")}
        known = load()
        try:
            return ReplaySettings.model_validate(known.model_dump() | own)
        except ValidationError as error:
            raise SettingsError(f"interface {self.name}: {first_line(error)}") from None

    @property
    def replayed(self) -> ReplayBackend:
        """The recorded run, read at its first use.

        :raises NoSuchRecord: when the run does not exist.
        """
        backend: ReplayBackend = self._live.once("replayed", self._open)
        return backend

    def _open(self) -> ReplayBackend:
        chosen = self.chosen
        recording = open_recording(chosen)
        logger.info("replay of run %s, matching %s: nothing is set on any machine", recording.run, chosen.matching)
        return ReplayBackend(recording, chosen.matching, chosen.speed)

    def _open_backend(self) -> Backend:
        return self.replayed

    def _new_control(self, backend: Backend, settings: Settings) -> Control:
        # The interface's own settings hold too, except those that wait for a machine.
        at_once = settings.model_copy(update=_AT_ONCE)
        return _ReplayControl(self.replayed, at_once)

    def _make_attachment(self) -> Attachment:
        return _Unrecorded()

    def move(self, values: Mapping[str, float], knobs: Mapping[str, Knob]) -> SetReport:
        """Go to a recorded point: nothing turns, so there is nothing to approach and nothing to settle."""
        return self.set_values({knobs[name].setpoint: value for name, value in values.items()})

    def sample(
        self, wanted: Mapping[str, Measurable], conditions: Sequence[Condition] = (), skew: Skew | None = None
    ) -> dict[str, Sample]:
        """Return observables as they were measured at the present point; conditions are not waited for.

        :raises ReplayMismatch: in strict matching, when the run had no such point.
        :raises ReadError: when one could not be measured then, or is not in the record.
        """
        found: dict[str, Any] = {}
        errors: dict[str, PvError] = {}
        for name, what in wanted.items():
            update = self.replayed.observed(name)
            if update is None and isinstance(what, Observable):
                # Not measured under its name; perhaps read as a PV.
                update = self.control.updates([what.pv])[what.pv]
            if isinstance(update, Reading):
                found[name] = update.plain
            else:
                errors[name] = update or NotRecorded(name, f"run {self.replayed.recording.run} did not record it")
        if errors:
            raise failure_of(errors, found)
        return {name: Sample(value) for name, value in found.items()}

    def _give_back(self) -> None:
        # The next call begins at the start of the run again, or of another one.
        vars(self._live).pop("replayed", None)
        super()._give_back()


def _name(pv: str) -> str:
    try:
        return PvAddress.parse(pv).read_name
    except PvError:
        return pv


def _as_recorded(line: Record, **call: Any) -> Any:
    """Return what a validator returned then, or raise what it raised."""
    data = line.data or {}
    if data.get("error") in _NOT_VALID:
        raise ValueError(line.message or "did not arrive")
    return data.get("arrived")
