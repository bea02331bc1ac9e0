"""The machine: the K2EG gateway and its broker, and PVs with their units and the clocks of their IOCs.

All PVs are asked at once: dead ones cost one timeout together.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from ...control import Control, connect
from ...core.backend import Update
from ...core.deadline import Deadline
from ...core.errors import (
    ControlError,
    KafkaError,
    OperationTimeout,
    PvInvalid,
    PvTimeout,
    SettingsError,
)
from ...core.model import PvAddress, Reading
from ...core.settings import load
from ...core.units import FILE_VARIABLE, is_known
from ...k2eg.client import K2egClient
from ...k2eg.environment import (
    ENVIRONMENT_VARIABLE,
    FOLDER_VARIABLE,
    default_app_name,
    default_environment,
    load_environment,
)
from . import Finding, Subject, bad, clock, good, note

_BROKER_PATIENCE, _GATEWAY_PATIENCE = 3.0, 5.0
_AUTO = "EPICS_PVA_AUTO_ADDR_LIST"
_LIST = "EPICS_PVA_ADDR_LIST"
#: Seconds in which a PV may update, so that its record's time can be compared with ours.
_UPDATES = 2.0


def check(subject: Subject) -> Iterator[Finding]:
    """Check the gateway, and the PVs that are asked for.

    :raises PvNameError: for a name that cannot be one.
    """
    yield from gateway()
    yield from pvs(subject)


def gateway() -> Iterator[Finding]:
    """Check the broker and the gateway of the environment that the variables name; without them K2EG is not in use."""
    if not (os.environ.get(ENVIRONMENT_VARIABLE) or os.environ.get(FOLDER_VARIABLE)):
        yield note("K2EG", f"not set up; {FOLDER_VARIABLE} and {ENVIRONMENT_VARIABLE} would say where a gateway is")
        return
    try:
        environment = load_environment(default_environment())
        client = K2egClient(environment, default_app_name())
    except SettingsError as error:
        yield bad("K2EG", str(error))
        return
    yield good("K2EG", f"environment {environment.name}, commands on topic {environment.command_topic}")
    with client:
        try:
            client.open(_BROKER_PATIENCE)
        except (KafkaError, OperationTimeout, SettingsError) as error:
            yield bad("K2EG broker", str(error))
            return
        yield good("K2EG broker", environment.broker)
        began = time.monotonic()
        try:
            client.wait_for_backends(_GATEWAY_PATIENCE)
        except (KafkaError, OperationTimeout) as error:
            yield bad("K2EG gateway", f"{error}; start one, or see {ENVIRONMENT_VARIABLE}")
            return
        yield good("K2EG gateway", f"answers within {(time.monotonic() - began) * 1000:.0f} ms")
        yield clock("K2EG clock", f"broker {environment.broker}, or its gateway,", client.ahead)


def pvs(subject: Subject) -> Iterator[Finding]:
    """Check that the PVs answer, that their units are known, and that the clocks of their IOCs are right.

    :raises PvNameError: for a name that cannot be one.
    """
    yield _where()
    for name in subject.pvs:
        PvAddress.parse(name)
    try:
        settings = load()
    except SettingsError:
        # The check of the options tells it. Nothing may be read on other terms than the user's.
        return
    if subject.pvs:
        yield from _ask("PVs", Control(connect("pva"), settings), list(subject.pvs))
    if subject.environment is not None:
        with tempfile.TemporaryDirectory(prefix="badger-k2eg-doctor-") as folder:
            yield from _ask_environment(subject.environment, subject, Path(folder))


def _ask_environment(name: str, subject: Subject, folder: Path) -> Iterator[Finding]:
    from ...badger_app import session

    with warnings.catch_warnings():
        # Of Badger's and Xopt's own libraries.
        warnings.simplefilter("ignore")
        try:
            session.open_badger(folder, plugin_root=subject.plugin_root())
            environment = session.load_environment(name, subject.parameters)
        except ControlError as error:
            yield bad(name, str(error))
            return
    listed = getattr(environment, "pvs", None)
    names = listed() if listed else [*environment.variables, *environment.observables]
    control = getattr(environment.interface, "control", None)
    if not isinstance(control, Control):
        yield note(name, f"its interface {environment.interface.name} is not one of badger-k2eg: nothing was asked")
        return
    yield from _ask(name, control, names)


def _ask(what: str, control: Control, names: list[str]) -> Iterator[Finding]:
    """Read PVs; gives what is wrong with each, and how many answer."""
    began = time.monotonic()
    answers = control.updates(names, Deadline(control.settings.timeout))
    took = time.monotonic() - began
    wrong = {name: answer for name, answer in answers.items() if not isinstance(answer, Reading)}
    answering = len(names) - sum(not isinstance(answer, PvInvalid) for answer in wrong.values())
    text = f"answering: {answering} of {len(names)}, after {took:.1f} s"
    yield good(what, text) if answering == len(names) else bad(what, text)
    for name, answer in wrong.items():
        # It is connected: an alarm is the machine's affair.
        yield (note if isinstance(answer, PvInvalid) else bad)(name, str(answer).removeprefix(f"{name}: "))
    if answering == 0 and all(isinstance(answer, PvTimeout) for answer in wrong.values()):
        yield note(
            _LIST, "not one of them answers: say there where the IOCs are, HOST or HOST:PORT, with spaces between"
        )
    readings = {name: answer for name, answer in answers.items() if isinstance(answer, Reading)}
    if readings:
        yield from _units(f"{what}: units", readings)
        yield from _clocks(f"{what}: clock", control, list(readings))


def _units(what: str, readings: Mapping[str, Reading]) -> Iterator[Finding]:
    """Read the EGU texts; one that is not known is named with the PVs that have it."""
    unknown: dict[str, list[str]] = {}
    try:
        for name, reading in readings.items():
            if not is_known(reading.units):
                unknown.setdefault(reading.units, []).append(name)
    except SettingsError as error:
        yield bad(what, str(error))
        return
    for text, names in unknown.items():
        words = f"{text!r} of {', '.join(names)} is opaque: it is shown, and converts to nothing"
        yield note(what, f"{words}; {FILE_VARIABLE} names a file that explains it")
    if not unknown:
        texts = sorted({reading.units for reading in readings.values() if reading.units})
        yield good(what, f"all are known: {', '.join(texts) or 'none has one'}")


def _clocks(what: str, control: Control, names: list[str]) -> Iterator[Finding]:
    """Compare the time of fresh updates with this host's; what does not update tells nothing."""
    ahead: dict[str, float] = {}
    told: dict[str, int] = {}
    every = threading.Event()

    def hear(name: str, update: Update) -> None:
        if not isinstance(update, Reading) or (stamp := update.timestamp_ns) is None:
            return
        # The first one may be as old as it likes.
        if stamp != told.setdefault(name, stamp):
            ahead.setdefault(name, (stamp - time.time_ns()) * 1e-9)
            if len(ahead) == len(names):
                every.set()

    subscriptions = [control.monitor(name, partial(hear, name)) for name in names]
    try:
        every.wait(_UPDATES)
    finally:
        for subscription in subscriptions:
            subscription.close()
    if not ahead:
        yield note(what, f"no PV has updated within {_UPDATES:g} s: the time of its IOC cannot be compared")
        return
    name = max(ahead, key=lambda each: abs(ahead[each]))
    yield clock(what, f"{name}, the furthest of {len(ahead)} that updated," if len(ahead) > 1 else name, ahead[name])


def _where() -> Finding:
    """Return where PVs are searched for."""
    hosts = os.environ.get(_LIST, "").split()
    auto = os.environ.get(_AUTO, "YES").upper() != "NO"
    places = [*hosts, *(["the subnets of this host"] if auto else [])]
    if not places:
        return bad(_LIST, f"it is empty and {_AUTO} is NO: no PV can be found over PVAccess")
    return (good if hosts else note)(_LIST, f"PVs are searched for at {', '.join(places)}")
