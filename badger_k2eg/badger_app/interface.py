"""Badger interfaces over one ``Control``: ``ControlInterface``, and ``K2egInterface`` for PVs behind a K2EG gateway.

A plugin in ``interfaces/`` adds a name and a scheme, and nothing else. No client library is imported before the first
read or set, so that listing plugins is fast and works offline.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar, overload

from badger.errors import BadgerInterfaceChannelError
from badger.interface import Interface as BadgerInterface
from badger.interface import InterfaceInfo
from pydantic import Field, PrivateAttr

from .. import run
from ..backends import ThroughK2eg, Way
from ..control import Control, Reader, SynchronousCalls, connect
from ..core import clock
from ..core.backend import Backend
from ..core.deadline import Deadline, in_seconds
from ..core.errors import PvError, ReadError, ReadTimeout, SettingsError
from ..core.futures import ABSENT, Absent, Callback, Future, Time, call
from ..core.model import Limits, Reading, SetReport
from ..core.settings import Options, Settings, from_environment, load
from ..k2eg.environment import default_app_name, default_environment
from ..run.manifest import recorded_way
from ..tuning import Condition, Knob, Measurable, Mover, Sample, Sampler, Skew, wait_for
from .interface_options import describe, normalised, option, warn_of
from .recording import RecordingSink, read_entry, recordable

logger = logging.getLogger("badger_k2eg")

T = TypeVar("T")

#: Seconds that Badger's window may be held up for the info on a variable.
_INFO_TIMEOUT = 3.0
#: Above the ten seconds that a gateway itself waits for a PV, so that its own answer is heard.
_K2EG_TIMEOUT = 12.0
#: The environment variables with the addresses at which PVs are searched.
_ADDRESSES = {"pva": "EPICS_PVA_ADDR_LIST", "ca": "EPICS_CA_ADDR_LIST"}


class ChannelNotFound(ReadTimeout, BadgerInterfaceChannelError):
    """A PV that does not answer. Badger's window knows this error, and explains it in plain words."""


class _Live:
    """What an interface uses and no copy or pickle of it may share, except for the context.

    A copy that forgot the context given by its user (a mock, a simulated machine) would reach the real machine.
    """

    def __init__(self, context: Any = None) -> None:
        self.context = context
        self.report: SetReport | None = None
        self.sets = 0
        self.samples: dict[str, Sample] = {}
        #: Monotonic seconds at which the last move had settled; None before the first.
        self.moved_at: float | None = None

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Make a part at its first use; without a lock, which might be held during a fork."""
        parts = vars(self)
        part: T = parts[name] if name in parts else parts.setdefault(name, make())
        return part

    def __copy__(self) -> _Live:
        return _Live(self.context)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Live:
        return _Live(self.context)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Live, (self.context,)


class ControlInterface(SynchronousCalls, BadgerInterface):
    """PVs for Badger, through one ``Control``.

    Every call that waits takes ``timeout=`` (seconds or a Quantity, -1 for ever) and ``callback=``: if that is given,
    even as None, the call returns a Future at once (``badger_k2eg.core.futures``).

    Options are fields, each of which may be given by keyword. One that is not given comes from the environment variable
    ``BADGER_K2EG_<OPTION>``, the ini file, or its default, in this order; restrictions only tighten. Nothing happens
    before the first read or set: a wrong environment variable is a warning until then, and an error there.

    :param context: used in place of our own client: a ``MemoryBackend`` (a simulated machine), or any object with
        ``get`` and ``put`` like those of p4p's thread ``Context``. It stays its owner's, who closes it.
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
        """Take a changed option at once; None leaves it to the other sources again."""
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
        """List the options that only this kind of interface has: they say which client is meant."""
        return [name for name in cls.model_fields if name not in ControlInterface.model_fields]

    # -- what is in force -----------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The options in force, from all sources.

        :raises SettingsError: for a wrong option in the environment or the ini file.
        """
        return self.control.settings

    @property
    def control(self) -> Control:
        """The write path of this interface, made at its first use."""
        return self._live.once("control", self._make_control)

    @property
    def last_report(self) -> SetReport | None:
        """The outcome of the last set, also when it raised; None before the first."""
        control: Control | None = vars(self._live).get("control")
        return self._live.report if control is None else control.last_report

    @property
    def sets(self) -> int:
        """The number of calls to set, including those in read-only mode and those that failed."""
        control: Control | None = vars(self._live).get("control")
        return self._live.sets + (0 if control is None else control.sets)

    @property
    def address_variable(self) -> str | None:
        """The environment variable that says where this host searches for PVs; None if it does not search."""
        return _ADDRESSES.get(self.scheme)

    @property
    def attachment(self) -> run.Attachment:
        """The tie between this interface and the run of its process."""
        return self._live.once("attachment", self._make_attachment)

    def configure(
        self,
        *,
        read_only: bool | None = None,
        parallel: bool | None = None,
        timeout: float | None = None,
        run: str | None = None,
        matching: str | None = None,
    ) -> None:
        """Take the options of the environment that uses this interface; None leaves one as it is configured.

        They take precedence over the interface's own, but ``read_only=False`` lifts nothing.

        :param run: the recorded run, for an interface that replays one; this one ignores it.
        :param matching: likewise, how a recorded point is found.
        :raises SettingsError: for a wrong value.
        """
        configured = normalised({"read_only": read_only, "parallel": parallel, "timeout": timeout})
        if configured != self._configured:
            self._configured = configured
            self._rebuild()

    def _way(self) -> Way:
        """Return the way to the PVs."""
        return self.scheme

    def _make_control(self) -> Control:
        own = {name: getattr(self, name) for name in self.model_fields_set & Options.model_fields.keys()}
        together = own | self._configured
        if own.get("read_only"):
            together["read_only"] = True
        settings = load(together, defaults={"timeout": type(self).model_fields["timeout"].get_default()})
        backend = self._live.once("backend", self._open_backend)
        control = self.attachment.attach(self._new_control(backend, settings))
        control.sink = RecordingSink(control.sink, self._note)
        control.last_report = self._live.report
        return control

    def _open_backend(self) -> Backend:
        return connect(self._way(), self._live.context)

    def _new_control(self, backend: Backend, settings: Settings) -> Control:
        return Control(backend, settings)

    def _make_attachment(self) -> run.Attachment:
        # A context given by the user is a simulation or a test; its PVs only look like the machine's.
        return run.Attachment(self._manifest, locks=self._live.context is None)

    def _manifest(self) -> dict[str, Any]:
        options = self.settings.model_dump(mode="json", exclude_defaults=True)
        way = recorded_way(self._way())
        return {"interface": self.name, "way": way, "read_only": self.settings.read_only, "options": options}

    def _note(self, entry: dict[str, Any]) -> None:
        self._logs.append(entry)

    def _rebuild(self) -> None:
        """Let the next call find other options; client and last report stay."""
        parts = vars(self._live)
        parts.pop("mover", None)
        sampler: Sampler | None = parts.pop("sampler", None)
        if sampler is not None:
            sampler.close()
        control: Control | None = parts.pop("control", None)
        if control is not None:
            self._live.report = control.last_report
            self._live.sets += control.sets
            control.close()

    def _give_back(self) -> None:
        """Let the next call lease a new client, perhaps another one."""
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

    @overload
    def get_values(self, channel_names: Sequence[str], timeout: Time = ...) -> dict[str, Any]: ...
    @overload
    def get_values(
        self, channel_names: Sequence[str], timeout: Time = ..., *, callback: Callback | None
    ) -> Future[dict[str, Any]]: ...
    def get_values(
        self, channel_names: Sequence[str], timeout: Time = None, callback: Callback | Absent | None = ABSENT
    ) -> Any:
        """Read PVs.

        :param timeout: seconds for this call, or a Quantity; None takes the option's.
        :returns: ``{name: value}`` of builtin Python types; arrays are lists, an enum is its index.
        :raises ReadError: for the first PV that cannot be read (a TimeoutError if it does not answer); ``.partial`` has
            the values of the others. With ``on_read_error="nan"`` a value that cannot be read is NaN instead.
        """
        names, seconds = _names(channel_names), None if timeout is None else in_seconds(timeout)
        return self._begin(lambda: self._read(self.control.get, names, seconds), callback, "get_values")

    @overload
    def get_value(self, channel_name: str, timeout: Time = ...) -> Any: ...
    @overload
    def get_value(self, channel_name: str, timeout: Time = ..., *, callback: Callback | None) -> Future[Any]: ...
    def get_value(self, channel_name: str, timeout: Time = None, callback: Callback | Absent | None = ABSENT) -> Any:
        """Read one PV, as ``get_values`` does."""
        name, seconds = channel_name, None if timeout is None else in_seconds(timeout)
        return self._begin(lambda: self._read(self.control.get, [name], seconds)[name], callback, "get_value")

    @overload
    def get_readings(self, channel_names: Sequence[str], timeout: Time = ...) -> dict[str, Reading]: ...
    @overload
    def get_readings(
        self, channel_names: Sequence[str], timeout: Time = ..., *, callback: Callback | None
    ) -> Future[dict[str, Reading]]: ...
    def get_readings(
        self, channel_names: Sequence[str], timeout: Time = None, callback: Callback | Absent | None = ABSENT
    ) -> Any:
        """Read PVs with all that comes with their values: unit, timestamp, severity, limits, pulse id, description.

        :returns: ``{name: Reading}``; a Reading can be calculated with, and has its ``quantity``.
        :raises ReadError: as ``get_values``, whatever ``on_read_error`` is.
        """
        names, seconds = _names(channel_names), None if timeout is None else in_seconds(timeout)
        return self._begin(lambda: self._read(self.control.read, names, seconds), callback, "get_readings")

    @staticmethod
    def _read(read: Callable[..., dict[str, T]], names: list[str], seconds: float | None) -> dict[str, T]:
        try:
            return read(names, None if seconds is None else Deadline(seconds))
        except ReadTimeout as error:
            found = ChannelNotFound(str(error), error.partial, error.errors)
            raise found.with_traceback(error.__traceback__) from None

    @overload
    def set_values(
        self, channel_inputs: Mapping[str, Any], configs: Mapping[str, Any] | None = ..., timeout: Time = ...
    ) -> SetReport: ...
    @overload
    def set_values(
        self,
        channel_inputs: Mapping[str, Any],
        configs: Mapping[str, Any] | None = ...,
        timeout: Time = ...,
        *,
        callback: Callback | None,
    ) -> Future[SetReport]: ...
    def set_values(
        self,
        channel_inputs: Mapping[str, Any],
        configs: Mapping[str, Any] | None = None,
        timeout: Time = None,
        callback: Callback | Absent | None = ABSENT,
    ) -> Any:
        """Set PVs, and wait until each has arrived for which ``configs`` has a validator.

        :param channel_inputs: ``{pv: value}``, set in this order unless ``parallel``; a Quantity is converted into the
            PV's unit, a number is taken in it.
        :param timeout: seconds for the whole call, or a Quantity; None leaves it to the attempts' own timeouts.
        :param configs: ``{set pv: functools.partial}``, called with ``set_pv=, set_value=, context=, timeout=``.
        :returns: the outcome for each PV; Badger itself does not look at it.
        :raises SetError: SetpointBlocked or ValidationFailed (ValueErrors), PutTimeout or PutUnknown (TimeoutErrors),
            PutRefused (a PermissionError) and so on, for the first PV that did not end as asked; ``.report`` has all.
        """
        return self._put(channel_inputs, configs or {}, timeout=timeout, callback=callback)

    def _put(self, values: Mapping[str, Any], validators: Mapping[str, Any], **how: Any) -> Any:
        for what, given in (("set_values", values), ("configs=", validators)):
            if not isinstance(given, Mapping):
                raise TypeError(f"{what} takes a dict with PVs as keys, not {given!r}")
        callback = how.pop("callback", ABSENT)
        if how.get("timeout") is not None:
            how["timeout"] = in_seconds(how["timeout"])
        return self._begin(lambda: self.control.set(values, validators, **how), callback, "set_values")

    @overload
    def set_value(
        self, channel_name: str, channel_value: Any, validation_function: Any = ..., timeout: Time = ...
    ) -> Any: ...
    @overload
    def set_value(
        self,
        channel_name: str,
        channel_value: Any,
        validation_function: Any = ...,
        timeout: Time = ...,
        *,
        callback: Callback | None,
    ) -> Future[Any]: ...
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
        :returns: the validator's result (the readback, for those of this package), or else the value set.
        """
        configs = {} if validation_function is None else {channel_name: validation_function}
        seconds = None if timeout is None else in_seconds(timeout)

        def put() -> Any:
            result = self._put({channel_name: channel_value}, configs, timeout=seconds)[channel_name]
            return result.asked if result.arrived is None else recordable(result.arrived)

        return self._begin(put, callback, "set_value")

    # -- knobs and observables ------------------------------------------------------------------------------------

    @property
    def last_samples(self) -> dict[str, Sample]:
        """The samples of the last measurement, each with its readings; empty if it failed."""
        return dict(self._live.samples)

    @property
    def _mover(self) -> Mover:
        return self._live.once("mover", lambda: Mover(self.control))

    @property
    def _sampler(self) -> Sampler:
        return self._live.once("sampler", lambda: Sampler(self.control))

    def bounds(self, knobs: Iterable[Knob]) -> dict[str, Limits]:
        """Return how far knobs may be turned, by setpoint PV; a PV that does not answer is missing."""
        return self._mover.bounds.find(knobs)

    def move(self, values: Mapping[str, float], knobs: Mapping[str, Knob]) -> SetReport:
        """Turn knobs, and return when the machine has arrived and settled.

        :param values: by the names of ``knobs``.
        :raises SetError: as ``set_values``.
        """
        try:
            with self._enclosed():
                return self._mover.move(values, knobs)
        finally:
            # After a failed move too: what was measured before it says nothing about now.
            self._live.moved_at = clock.monotonic()

    def sample(
        self, wanted: Mapping[str, Measurable], conditions: Sequence[Condition] = (), skew: Skew | None = None
    ) -> dict[str, Sample]:
        """Wait for conditions, and take samples of observables since the last move.

        :raises ConditionNotMet: when a condition does not hold in time.
        :raises ReadError: when an observable cannot be measured.
        """
        wait_for(self.control.reader, conditions)
        # Where nothing was moved, what is measured must be from after this call.
        since = None if self.settings.read_only else self._live.moved_at
        return self._sampler.measure(wanted, since=since, skew=skew)

    def measure(
        self, wanted: Mapping[str, Measurable], conditions: Sequence[Condition] = (), skew: Skew | None = None
    ) -> dict[str, Any]:
        """Return the values of observables, and put them on record.

        :raises ConditionNotMet: as ``sample``.
        :raises ReadError: as ``sample``; with ``on_read_error="nan"`` a value that cannot be measured is NaN instead.
        """
        self._live.samples = {}
        try:
            with self._enclosed():
                self._live.samples = self.sample(wanted, conditions, skew)
            values = {name: sample.value for name, sample in self._live.samples.items()}
        except ReadError as error:
            if self.settings.on_read_error != "nan":
                self._observed(error.partial, error.errors)
                raise
            logger.warning("%s: NaN in its place", error)
            values = {name: error.partial.get(name, math.nan) for name in wanted}
        self._note(read_entry(values))
        self._observed(values)
        return values

    def _observed(self, values: Mapping[str, Any], errors: Mapping[str, PvError] | None = None) -> None:
        if (present := run.current()) is not None:
            readings = {name: sample.readings for name, sample in self._live.samples.items()}
            present.evaluations.observed(values, readings, errors)

    # -- Badger's other questions ---------------------------------------------------------------------------------

    def get_info(self, channels: Sequence[str]) -> InterfaceInfo:
        """Describe PVs for Badger's window: units, limits, alarm, connected, value; all of them texts.

        Ends within three seconds, and raises no error about a PV or an option: the window could not handle one.

        :returns: ``vars`` by name of the PV, as Badger's window looks them up.
        """
        about = {"name": self.name}
        try:
            settings = self.settings
            about["read_only"] = "yes" if settings.read_only else "no"
            seconds = min(settings.timeout, _INFO_TIMEOUT) if settings.timeout > 0.0 else _INFO_TIMEOUT
            updates = self.control.updates(list(channels), Deadline(seconds))
            variables = {name: describe(update) for name, update in updates.items()}
        except SettingsError as error:
            variables = {name: describe(error) for name in channels}
        return {"interface": about, "vars": variables}

    def reset_interface(self) -> None:
        """Forget failures, give the client back, and read options and lease a client again at the next call.

        Badger calls it in the process that is about to run a routine: the next set opens its run.
        """
        run.declare()
        self._give_back()
        self._live.report = None


class K2egInterface(ControlInterface):
    """PVs for Badger through the K2EG gateways of an environment; otherwise like ``ControlInterface``.

    :raises SettingsError: for a wrong option; at the first read or set for an environment that does not exist, or that
        cannot be read.
    """

    scheme = "pva"

    environment: str | None = Field(
        None, description="the K2EG environment (NAME.ini); else K2EG_CLI_DEFAULT_ENVIRONMENT says, else local"
    )
    app_name: str | None = Field(
        None, description="replies come on APP_NAME-reply; else K2EG_CLI_DEFAULT_APP_NAME says, else badger-k2eg"
    )
    timeout: float = Field(_K2EG_TIMEOUT, description=Options.model_fields["timeout"].description)

    @property
    def address_variable(self) -> None:
        """None: the gateway searches, not this host."""
        return None

    def _way(self) -> ThroughK2eg:
        return ThroughK2eg(self.environment or default_environment(), self.app_name or default_app_name())


def _names(channel_names: Sequence[str]) -> list[str]:
    if isinstance(channel_names, str):
        raise TypeError(f"get_values takes a list of PVs, not the text {channel_names!r}; for one PV use get_value")
    return list(channel_names)
