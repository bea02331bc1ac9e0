"""``ReplayInterface``: a recorded run in the machine's place. Nothing is reached, so nothing is ever written."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

from pydantic import Field, ValidationError

from ..backends.replay import ReplayBackend
from ..backends.replay.source import ReplaySettings, load, open_recording
from ..control import Control, Reader
from ..core.backend import Backend, Update
from ..core.deadline import Deadline
from ..core.errors import PvError, SettingsError, ValidationFailed, ValidatorCrashed
from ..core.model import PvAddress, Reading, SetReport, plain
from ..core.records import Record
from ..core.settings import Settings
from ..run import Attachment
from ..tuning.compute import failure_of
from .interface import ControlInterface
from .interface_options import first_line

logger = logging.getLogger("badger_k2eg")

#: There is no machine to wait for.
_AT_ONCE = {"put_attempts": 1, "put_interval": 0.0, "put_rate": None}
_NOT_VALID = (ValidationFailed.__name__, ValidatorCrashed.__name__)


class _Unrecorded(Attachment):
    """Ties a control to no run: a replay is none, takes no locks and leaves no record."""

    def attach(self, control: Control) -> Control:
        return control

    def unguarded(self, message: str, point: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        """Leave no record of this either."""


class _ReplayControl(Control):
    """Sets nothing: it goes to recorded points. What failed at one fails again, validations too."""

    def _set(
        self,
        values: Mapping[str, Any],
        validators: Mapping[str, Any],
        deadline: Deadline,
        settings: Settings,
        patience: float,
    ) -> SetReport:
        # The caller's validators are not called: how each PV arrived is recorded.
        ended = self.replayed.expect({_name(pv): plain(value) for pv, value in values.items()})
        recorded = {pv: partial(_as_then, ended[_name(pv)]) for pv in values if _name(pv) in ended}
        return super()._set(values, recorded, deadline, settings, patience)

    @property
    def replayed(self) -> ReplayBackend:
        """The recorded run."""
        assert isinstance(self.backend, ReplayBackend)  # noqa: S101 - made below
        return self.backend


class _ReplayReader(Reader):
    """Reads at the present point."""

    def updates(self, names: Iterable[str], deadline: Deadline | None = None) -> dict[str, Update]:
        """Read at the present point.

        :raises ReplayMismatch: in strict matching, when the run had no such point.
        """
        assert isinstance(self.backend, ReplayBackend)  # noqa: S101 - made below
        self.backend.point()
        return super().updates(names, deadline)


class ReplayInterface(ControlInterface):
    """A recorded run in the machine's place: the same points give the same observables, and fail in the same way.

    :raises SettingsError: as ``ControlInterface``.
    """

    scheme: ClassVar[str] = "pva"

    run: str | None = Field(None, description=ReplaySettings.model_fields["run"].description)
    matching: str | None = Field(None, description=ReplaySettings.model_fields["matching"].description)
    speed: float | None = Field(None, description=ReplaySettings.model_fields["speed"].description)
    source: str | None = Field(None, description=ReplaySettings.model_fields["source"].description)

    def choose(self, **chosen: Any) -> None:
        """Take another run, matching, speed or source; None leaves one as it is configured."""
        for name, value in chosen.items():
            if value is not None and value != getattr(self, name):
                setattr(self, name, value)

    @property
    def chosen(self) -> ReplaySettings:
        """What is replayed, and how.

        :raises SettingsError: naming the wrong option.
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

        :raises NoSuchRecord: when there is no such run.
        """
        backend: ReplayBackend = self._live.once("replayed", self._open)
        return backend

    def _open(self) -> ReplayBackend:
        chosen = self.chosen
        recording = open_recording(chosen)
        logger.info("replay of run %s, matching %s: nothing is set on any machine", recording.run, chosen.matching)
        return ReplayBackend(recording, chosen.matching, chosen.speed)

    def _make_control(self) -> Control:
        # Its own settings hold too, less what waits for a machine that is not there.
        self._live.once("backend", lambda: self.replayed)
        return super()._make_control()

    def _new_control(self, backend: Backend, settings: Settings) -> Control:
        at_once = settings.model_copy(update=_AT_ONCE)
        return _ReplayControl(backend, at_once, reader=_ReplayReader(backend, at_once))

    def _make_attachment(self) -> Attachment:
        return _Unrecorded()

    def observe(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """Give observables as they were measured at the present point.

        :param wanted: ``{observable: PV}``: what was not measured under its name is read as a PV; an empty one is not.
        :raises ReplayMismatch: in strict matching, when the run had no such point.
        :raises ReadError: when one could not be measured then, or is not in the record.
        """
        found: dict[str, Any] = {}
        errors: dict[str, PvError] = {}
        for name, pv in wanted.items():
            update = self.replayed.observed(name)
            if update is None:
                words = f"run {self.replayed.recording.run} did not record it"
                update = self.control.updates([pv])[pv] if pv else PvError(name, words)
            if isinstance(update, Reading):
                found[name] = update.plain
            else:
                errors[name] = update
        if errors:
            raise failure_of(errors, found)
        return found

    def _give_back(self) -> None:
        # From here on at the start of the run again, or in another one.
        vars(self._live).pop("replayed", None)
        super()._give_back()


def _name(pv: str) -> str:
    try:
        return PvAddress.parse(pv).read_name
    except PvError:
        return pv


def _as_then(line: Record, **call: Any) -> Any:
    """Stand for a validator: arrive, or not, as it was recorded."""
    data = line.data or {}
    if data.get("error") in _NOT_VALID:
        raise ValueError(line.message or "did not arrive")
    return data.get("arrived")
