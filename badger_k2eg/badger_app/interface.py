"""``ControlInterface``: the base of our Badger interfaces. A plugin in ``interfaces/`` names its scheme, and no more.

Owns what Badger asks of an interface: options as fields, reads and sets of plain values, recording, variable info,
reset. Every read and set goes through ``Control``. Imports badger.interface, but no client library: `badger intf` stays
fast and offline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from badger.interface import Interface as BadgerInterface
from badger.interface import InterfaceInfo
from pydantic import PrivateAttr

from .. import run
from ..backends import Way
from ..control import Control, Reader, SynchronousCalls, connect
from ..core.backend import Backend
from ..core.deadline import Deadline, in_seconds
from ..core.errors import ReadError, SettingsError
from ..core.futures import ABSENT, Absent, Callback, Time, call
from ..core.model import Reading, SetReport
from ..core.settings import Options, Settings, from_environment, load
from ..run.manifest import recorded_way
from . import recording
from .channel import in_badgers_words
from .info import describe, describe_all
from .interface_options import normalised, option, warn_of

#: Seconds that the window may be held up for the info on a variable.
_INFO_TIMEOUT = 3.0


class _Live:
    """What an interface uses and no copy of it may share: left out of every copy and pickle, but for the context.

    A copy that forgot a context somebody gave (a mock, a simulated machine) would speak to the real one.
    """

    def __init__(self, context: Any = None) -> None:
        self.context = context
        self.report: SetReport | None = None
        self.sets = 0

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Make a part at its first use; without a lock, which a fork might find held."""
        parts = vars(self)
        return parts[name] if name in parts else parts.setdefault(name, make())

    def __copy__(self) -> _Live:
        return _Live(self.context)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Live:
        return _Live(self.context)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Live, (self.context,)


class ControlInterface(SynchronousCalls, BadgerInterface):
    """PVs for Badger, through one ``Control``.

    Every call that waits takes ``timeout=`` (seconds or a Quantity, -1 for ever) and ``callback=``: given, or None, it
    returns a Future at once (``badger_k2eg.core.futures``).

    Options are fields, each of which may be given by keyword. One that is not given comes from the environment variable
    ``BADGER_K2EG_<OPTION>``, the ini file, or its default, in this order; restrictions only tighten. Nothing happens
    before the first get or set: a wrong environment variable is warned about here, and an error there.

    :param context: in place of our own client: a backend of ours (a simulated one, say), or any object with ``get`` and
        ``put`` as p4p's thread ``Context`` has them. It stays its owner's, who closes it.
    :raises SettingsError: for an unknown option or a wrong value, in one line.
    """

    #: What a bare PV name means.
    scheme: ClassVar[str]

    read_only: bool = option("read_only")
    parallel: bool = option("parallel")
    timeout: float = option("timeout")
    put_attempts: int = option("put_attempts")
    retry_delay: float = option("retry_delay")
    on_read_error: str = option("on_read_error")
    reject_severity: str = option("reject_severity")
    wait: tuple[str, ...] = option("wait")
    relative: tuple[str, ...] = option("relative")
    put_tolerance: dict[str, float] | None = option("put_tolerance")
    ramp: bool = option("ramp")
    allow: tuple[str, ...] | None = option("allow")
    limits: dict[str, tuple[int | float | None, int | float | None]] | None = option("limits")
    max_step: dict[str, float] | None = option("max_step")
    put_interval: float = option("put_interval")
    put_rate: float | None = option("put_rate")
    max_failures: int | None = option("max_failures")

    _logs: list[dict[str, Any]] = PrivateAttr(default_factory=list)
    _configured: dict[str, Any] = PrivateAttr(default_factory=dict)
    _live: _Live = PrivateAttr(default_factory=_Live)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Warn of a wrong option, in a file too, while Badger loads the plugin; the constructor reads no file."""
        super().__pydantic_init_subclass__(**options)
        warn_of(load)

    def __init__(self, context: Any = None, **options: Any) -> None:
        besides = self._besides()
        own = {name: options.pop(name) for name in besides if name in options}
        # Before pydantic sees them: its message is four lines long, and it would ignore an unknown name.
        super().__init__(**normalised(options, besides))
        self._live = _Live(context)
        for name, value in own.items():
            setattr(self, name, value)
        warn_of(from_environment)

    def __setattr__(self, name: str, value: Any) -> None:
        """Take a changed option at once; None gives it back to the other sources."""
        if name not in Options.model_fields:
            super().__setattr__(name, value)
            if name in self._besides():
                self._give_back()
            return
        given = normalised({name: value})
        super().__setattr__(name, given.get(name, type(self).model_fields[name].get_default()))
        if not given:
            self.model_fields_set.discard(name)
        self._rebuild()

    def __copy__(self) -> ControlInterface:
        """Copy the options; the copy has its own client, counters and record."""
        copied: ControlInterface = super().__copy__()
        copied._live = _Live(self._live.context)
        copied._logs = list(self._logs)
        copied._configured = dict(self._configured)
        return copied

    @classmethod
    def _besides(cls) -> list[str]:
        """Name the options that only this kind of interface has: they say which client is meant."""
        return [name for name in cls.model_fields if name not in ControlInterface.model_fields]

    # -- what is in force -----------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The options in force, whatever they come from.

        :raises SettingsError: for a wrong option in the environment or the ini file.
        """
        return self.control.settings

    @property
    def control(self) -> Control:
        """The write path of this interface, made at its first use."""
        control: Control = self._live.once("control", self._make_control)
        return control

    @property
    def last_report(self) -> SetReport | None:
        """What became of the last set, also when it raised; None before the first."""
        control: Control | None = vars(self._live).get("control")
        return self._live.report if control is None else control.last_report

    @property
    def sets(self) -> int:
        """How many calls to set have come through this interface, in read-only too, and those that failed."""
        control: Control | None = vars(self._live).get("control")
        return int(self._live.sets + (0 if control is None else control.sets))

    def configure(
        self, *, read_only: bool | None = None, parallel: bool | None = None, timeout: float | None = None
    ) -> None:
        """Take the options of the environment that uses this interface; None leaves one as it is configured.

        They are stronger than the interface's own, but ``read_only=False`` lifts nothing.

        :raises SettingsError: for a wrong value.
        """
        configured = normalised({"read_only": read_only, "parallel": parallel, "timeout": timeout})
        if configured != self._configured:
            self._configured = configured
            self._rebuild()

    def _way(self) -> Way:
        """Say what leads to the PVs."""
        return self.scheme

    def _make_control(self) -> Control:
        own = {name: getattr(self, name) for name in self.model_fields_set & Options.model_fields.keys()}
        together = own | self._configured
        if own.get("read_only"):
            together["read_only"] = True
        settings = load(together, defaults={"timeout": type(self).model_fields["timeout"].get_default()})
        backend: Backend = self._live.once("backend", lambda: connect(self._way(), self._live.context))
        control = self.attachment.attach(self._new_control(backend, settings))
        control.last_report = self._live.report
        return control

    def _new_control(self, backend: Backend, settings: Settings) -> Control:
        return Control(backend, settings)

    @property
    def attachment(self) -> run.Attachment:
        """What ties this interface to the run of its process."""
        attachment: run.Attachment = self._live.once("attachment", self._make_attachment)
        return attachment

    def _make_attachment(self) -> run.Attachment:
        # Somebody's own context is a simulation or a test; its PVs only look like the machine's.
        return run.Attachment(self._manifest, locks=self._live.context is None)

    def _manifest(self) -> dict[str, Any]:
        options = self.settings.model_dump(mode="json", exclude_defaults=True)
        way = recorded_way(self._way())
        return {"interface": self.name, "way": way, "read_only": self.settings.read_only, "options": options}

    def _rebuild(self) -> None:
        """Let the next call find other options; client and last report stay."""
        control: Control | None = vars(self._live).pop("control", None)
        if control is not None:
            self._live.report = control.last_report
            self._live.sets += control.sets
            control.close()

    def _give_back(self) -> None:
        """Let the next call lease a client anew, perhaps another one."""
        backend: Backend | None = vars(self._live).pop("backend", None)
        self._rebuild()
        if backend is not None and self._live.context is None:
            backend.close()

    # -- reading and setting --------------------------------------------------------------------------------------

    def _begin(self, work: Callable[[], Any], callback: Callback | Absent | None, name: str) -> Any:
        """Do a call of this interface, here or in the background."""

        def enclosed() -> Any:
            with self._enclosed():
                return work()

        return call(enclosed, callback, parent=None if callback is ABSENT else self.control.life, name=name)

    @property
    def _reader(self) -> Reader:
        return self.control.reader

    def _get_one(self, pv: str, timeout: Time) -> Any:
        return self.control.get([pv], timeout=timeout)[pv]

    def _enclosed(self) -> AbstractContextManager[None]:
        return run.inside()

    def get_values(
        self, channel_names: Sequence[str], timeout: Time = None, callback: Callback | Absent | None = ABSENT
    ) -> Any:
        """Read PVs.

        :param timeout: seconds for this call, or a Quantity; None takes the option's.
        :returns: ``{name: value}`` of builtin Python types; arrays are lists, an enum is its index.
        :raises ReadError: by the first PV that cannot be read (a TimeoutError where it does not answer); ``.partial``
            has the values of the others. With ``on_read_error="nan"`` NaN stands in the place of a value instead.
        """
        names, seconds = _names(channel_names), None if timeout is None else in_seconds(timeout)
        return self._begin(lambda: self._get_values(names, seconds), callback, "get_values")

    def _get_values(self, names: list[str], seconds: float | None) -> dict[str, Any]:
        try:
            values = recording.get_values(self, names, _deadline(seconds))
        except ReadError as error:
            raise in_badgers_words(error) from None
        # Badger's record holds that dict, and its environments write into what they get.
        return {name: recording.recordable(value) for name, value in values.items()}

    def get_value(self, channel_name: str, timeout: Time = None, callback: Callback | Absent | None = ABSENT) -> Any:
        """Read one PV, as ``get_values`` does."""
        seconds = None if timeout is None else in_seconds(timeout)
        return self._begin(lambda: self._get_values([channel_name], seconds)[channel_name], callback, "get_value")

    def get_readings(
        self, channel_names: Sequence[str], timeout: Time = None, callback: Callback | Absent | None = ABSENT
    ) -> Any:
        """Read PVs with all that comes with their values: unit, timestamp, severity, limits, pulse id, description.

        :returns: ``{name: Reading}``; a Reading can be calculated with, and has its ``quantity``.
        :raises ReadError: as ``get_values``, whatever ``on_read_error`` is.
        """
        names, seconds = _names(channel_names), None if timeout is None else in_seconds(timeout)

        def read() -> dict[str, Reading]:
            try:
                return self.control.read(names, _deadline(seconds))
            except ReadError as error:
                raise in_badgers_words(error) from None

        return self._begin(read, callback, "get_readings")

    def set_values(
        self,
        channel_inputs: Mapping[str, Any],
        configs: Mapping[str, Any] | None = None,
        timeout: Time = None,
        callback: Callback | Absent | None = ABSENT,
    ) -> Any:
        """Set PVs, and wait until each has arrived where ``configs`` has a validator for it.

        :param channel_inputs: ``{pv: value}``, set in this order unless ``parallel``; a Quantity is converted into the
            PV's unit, a number is taken in it.
        :param timeout: seconds for the whole call, or a Quantity; None leaves it to the attempts' own timeouts.
        :param configs: ``{set pv: functools.partial}``, called with ``set_pv=, set_value=, context=, timeout=``.
        :returns: what became of each, a SetReport; Badger itself does not look at it.
        :raises SetError: SetpointBlocked or ValidationFailed (ValueErrors), PutTimeout or PutUnknown (TimeoutErrors),
            PutRefused (a PermissionError) and so on, by the first PV that did not end as asked; ``.report`` tells all.
        """
        return self._put(channel_inputs, configs or {}, timeout=timeout, callback=callback)

    def _put(self, values: Mapping[str, Any], validators: Mapping[str, Any], **how: Any) -> Any:
        for what, given in (("set_values", values), ("configs=", validators)):
            if not isinstance(given, Mapping):
                raise TypeError(f"{what} takes a dict by PV, not {given!r}")
        recorded = {str(name): recording.recordable(value) for name, value in values.items()}
        callback = how.pop("callback", ABSENT)
        if how.get("timeout") is not None:
            how["timeout"] = in_seconds(how["timeout"])
        return self._begin(
            lambda: recording.set_values(self, recorded, values, validators, how), callback, "set_values"
        )

    def set_value(
        self,
        channel_name: str,
        channel_value: Any,
        validation_function: Any = None,
        timeout: Time = None,
        callback: Callback | Absent | None = ABSENT,
    ) -> Any:
        """Set one PV, as ``set_values`` does.

        :param validation_function: its validator.
        :returns: what the validator returned (the readback, for the shipped ones), or else the value set.
        """
        configs = {} if validation_function is None else {channel_name: validation_function}
        seconds = None if timeout is None else in_seconds(timeout)

        def put() -> Any:
            result = self._put({channel_name: channel_value}, configs, timeout=seconds)[channel_name]
            return result.asked if result.arrived is None else recording.recordable(result.arrived)

        return self._begin(put, callback, "set_value")

    # -- Badger's other questions ---------------------------------------------------------------------------------

    def get_info(self, channels: Sequence[str]) -> InterfaceInfo:
        """Describe PVs for Badger's window: units, limits, alarm, connected, value; all of them texts.

        Ends within three seconds, and raises nothing about a PV or an option: the window could not bear it.

        :returns: ``vars`` by name of the PV, as Badger's window looks them up.
        """
        about = {"name": self.name}
        try:
            settings = self.settings
            about["read_only"] = "yes" if settings.read_only else "no"
            seconds = min(settings.timeout, _INFO_TIMEOUT) if settings.timeout > 0.0 else _INFO_TIMEOUT
            variables = describe_all(self.control.updates(list(channels), Deadline(seconds)))
        except SettingsError as error:
            variables = {name: describe(error) for name in channels}
        return {"interface": about, "vars": variables}

    def reset_interface(self) -> None:
        """Begin anew: options are read again, failures forgotten, the client is given back and leased at the next call.

        Badger calls it in the process that is about to run a routine: the next set opens its run.
        """
        run.declare()
        self._give_back()
        self._live.report = None


def _names(channel_names: Sequence[str]) -> list[str]:
    if isinstance(channel_names, str):
        raise TypeError(f"a list of PVs is expected, not the text {channel_names!r}; for one PV there is get_value")
    return list(channel_names)


def _deadline(timeout: float | None) -> Deadline | None:
    return None if timeout is None else Deadline(timeout)
