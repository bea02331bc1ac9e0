"""Do the PVs answer? All of them are asked at once: dead ones cost one timeout together."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from ...control import Control, connect
from ...deadline import Deadline
from ...errors import ControlError, PvInvalid, PvTimeout, SettingsError
from ...model import PvAddress, Reading
from ...settings import load
from . import Finding, Subject, bad, good, note

_AUTO = "EPICS_PVA_AUTO_ADDR_LIST"
_LIST = "EPICS_PVA_ADDR_LIST"


def check(subject: Subject) -> Iterator[Finding]:
    """Read them.

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
    from ...badger_app import runner

    with warnings.catch_warnings():
        # Of Badger's and Xopt's own libraries.
        warnings.simplefilter("ignore")
        try:
            runner.open_badger(folder, plugin_root=subject.plugin_root())
            environment = runner.load_environment(name, subject.parameters)
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


def _where() -> Finding:
    """Tell where PVs are searched for."""
    hosts = os.environ.get(_LIST, "").split()
    auto = os.environ.get(_AUTO, "YES").upper() != "NO"
    places = [*hosts, *(["the subnets of this host"] if auto else [])]
    if not places:
        return bad(_LIST, f"it is empty and {_AUTO} is NO: no PV can be found over PVAccess")
    return (good if hosts else note)(_LIST, f"PVs are searched for at {', '.join(places)}")
