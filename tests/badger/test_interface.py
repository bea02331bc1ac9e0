"""Rows P1, P2, P4, P7 and B5 through the interface, over a real IOC."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control.validators import wait_for_readback, within
from badger_k2eg.core.model import Outcome
from badger_k2eg.core.settings import Options, Settings
from badger_k2eg.errors import PutTimeout, ReadError, SetpointBlocked, SettingsError, ValidationFailed
from badger_k2eg.testing.soft_ioc import SoftIoc
from interfaces.epics_pva import Interface
from tests.rig.fault_server import FaultServer
from tests.rig.pace import pace

RunPython = Callable[..., subprocess.CompletedProcess[str]]

# -- P1: options, and a constructor that does nothing -----------------------------------------------------------------

_OFFLINE = """
import sys, time
from interfaces.epics_pva import Interface
Interface()
forbidden = ("socket.", "open", "os.", "_thread.start_new_thread", "subprocess.", "ctypes.", "import")
seen = []
def hook(event, args):
    if event.startswith(forbidden):
        seen.append((event, str(args)[:100]))
        raise RuntimeError(event)
sys.addaudithook(hook)
began = time.perf_counter()
Interface()
Interface(read_only=True, limits="QUAD:*=0..1", timeout=5)
seconds = (time.perf_counter() - began) / 2
assert not seen, seen
try:
    open("/etc/hostname")
except RuntimeError:
    print(seconds)
"""


def test_a_constructor_opens_nothing_and_takes_less_than_50_ms(run_python: RunPython, tmp_path: Path) -> None:
    # There is an ini file to be opened, by whom it must not.
    (tmp_path / "options.ini").write_text("[badger_k2eg]\ntimeout = 5\n")
    done = run_python(_OFFLINE, env={**os.environ, "BADGER_K2EG_CONFIG": str(tmp_path / "options.ini")})
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.05 * pace()


def test_the_first_constructor_takes_less_than_50_ms_too(run_python: RunPython) -> None:
    done = run_python(
        "import time; from interfaces.epics_pva import Interface\n"
        "began = time.perf_counter(); Interface(); print(time.perf_counter() - began)"
    )
    assert float(done.stdout) < 0.05 * pace(), done.stderr


def test_the_fields_show_the_defaults_that_are_in_force() -> None:
    shown = {name: info.get("default") for name, info in Interface.model_json_schema()["properties"].items()}
    assert shown.keys() == Options.model_fields.keys()
    assert (shown["read_only"], shown["parallel"], shown["timeout"]) == (False, False, 3.0)
    assert (shown["put_attempts"], shown["retry_delay"], shown["on_read_error"]) == (2, 1.0, "raise")
    assert Interface().settings == Settings()
    json.dumps(shown)
    assert all(field.description for field in Interface.model_fields.values())


def test_an_untouched_default_gives_way_to_a_variable_and_a_keyword_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BADGER_K2EG_TIMEOUT", "7")
    monkeypatch.setenv("BADGER_K2EG_PARALLEL", "yes")
    assert Interface().settings.timeout == 7.0
    assert Interface(timeout=4, parallel=None).settings.timeout == 4.0
    assert Interface(timeout=4, parallel=None).settings.parallel is True
    assert Interface(parallel=False).settings.parallel is False


def test_restrictions_only_tighten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "yes")
    ini = tmp_path / "options.ini"
    ini.write_text("[badger_k2eg]\nallow = QUAD:*\nmax_step = 0.5\n")
    monkeypatch.setenv("BADGER_K2EG_CONFIG", str(ini))
    settings = Interface(read_only=False, allow="*", max_step=2.0).settings
    assert settings.read_only
    assert not settings.allows("SOL:1")
    assert settings.step_of("QUAD:1") == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"red_only": True}, "there is no option 'red_only'; did you mean 'read_only'?"),
        ({"elephants": 3}, "there is no option 'elephants'; options are read_only,"),
        ({"timeout": "soon"}, "option timeout = 'soon': "),
        ({"timeout": 0}, "positive number of seconds"),
        ({"put_attempts": 0}, "option put_attempts = 0: "),
        ({"on_read_error": "ignore"}, "option on_read_error = 'ignore': "),
        ({"limits": {"Q": (3, 1)}}, "the limits of Q are reversed"),
        ({"limits": "Q=1"}, "is not a range"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        Interface(**options)
    assert isinstance(caught.value, SettingsError)
    assert "\n" not in str(caught.value)


def test_a_wrong_variable_is_warned_about_once_and_an_error_at_the_first_use(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("badger_k2eg.badger_app.interface_options._warned", set())
    monkeypatch.setenv("BADGER_K2EG_REDONLY", "yes")
    with caplog.at_level(logging.WARNING, "badger_k2eg"):
        interface = Interface()
        Interface()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("badger_k2eg", "WARNING")
    assert "BADGER_K2EG_REDONLY" in record.getMessage()
    assert "did you mean 'read_only'" in record.getMessage()
    for call in (lambda: interface.get_values(["X"]), lambda: interface.set_values({"X": 1.0})):
        with pytest.raises(SettingsError, match="BADGER_K2EG_REDONLY"):
            call()
    monkeypatch.delenv("BADGER_K2EG_REDONLY")
    assert interface.get_values([]) == {}


def test_a_changed_option_counts_at_once_and_none_takes_it_back(memory_context: MemoryBackend) -> None:
    memory_context.add("X", 0.0)
    interface = Interface(context=memory_context)
    interface.set_value("X", 1.0)
    interface.read_only = True
    assert interface.last_report is not None, "still known"
    interface.set_value("X", 2.0)
    assert memory_context.value("X") == 1.0
    interface.read_only = None
    interface.set_value("X", 2.0)
    assert memory_context.value("X") == 2.0
    with pytest.raises(SettingsError, match="option timeout = -3"):
        interface.timeout = -3


# -- P2, P4, P7 -------------------------------------------------------------------------------------------------------


def test_read_only_changes_nothing_and_says_what_it_would_have_set(
    soft_ioc: SoftIoc, restored: Callable[[str, Any], str], caplog: pytest.LogCaptureFixture
) -> None:
    pvs = {restored("DBL", 1.5): 2.0, restored("FREE", 1.0): 3.0}
    interface = Interface(read_only=True)
    called: list[str] = []
    with caplog.at_level(logging.INFO, "badger_k2eg"):
        interface.set_values(pvs, configs={pv: partial(_note, called) for pv in pvs})
    (record,) = [record for record in caplog.records if record.name == "badger_k2eg"]
    assert record.levelname == "INFO"
    assert all(f"{pv} = {value}" in record.getMessage() for pv, value in pvs.items())
    assert [result.outcome for result in interface.last_report.values()] == [Outcome.SKIPPED] * 2
    assert called == []
    assert list(interface.get_values(list(pvs)).values()) == [1.5, 1.0]
    with pytest.raises(SetpointBlocked, match="drive limits"):
        interface.set_value(soft_ioc.pv("DBL"), 99.0)


def _note(called: list[str], *, set_pv: str, set_value: float, context: Any, timeout: float) -> float:
    called.append(set_pv)
    return float(context.get(set_pv, timeout=timeout).real) + set_value


def test_validators_are_called_by_the_convention(restored: Callable[[str, Any], str]) -> None:
    pv, called = restored("DBL", 1.5), []
    interface = Interface()
    assert interface.set_value(pv, 2.0, validation_function=partial(_note, called)) == 4.0
    assert interface.set_value(pv, 2.5) == 2.5
    report = interface.set_values({pv: 3.0}, configs={pv: partial(_note, called), "ELSE": partial(_note, called)})
    assert report[pv].arrived == 6.0
    assert called == [pv, pv]
    interface.set_values({pv: 1.0})
    interface.set_values(channel_inputs={pv: 1.5}, configs=None)
    assert interface.get_value(pv) == 1.5


def test_the_shipped_validators_wait_for_the_readback(soft_ioc: SoftIoc) -> None:
    setpoints = {soft_ioc.pv(f"SP:{i:03d}"): i + 1.0 for i in range(3)}
    configs = {
        pv: partial(wait_for_readback, readback_pv=pv.replace("SP", "RB"), tolerance=0.01, count_down=5, offset=0)
        for pv in setpoints
    }
    interface = Interface(parallel=True)
    interface.set_values(setpoints, configs=configs)
    assert list(interface.get_values([pv.replace("SP", "RB") for pv in setpoints]).values()) == [1.0, 2.0, 3.0]
    first = next(iter(setpoints))
    arrived = interface.set_value(first, 0.0, within(first.replace("SP", "RB"), tolerance=0.01))
    assert arrived == pytest.approx(0.0, abs=0.01)
    assert type(arrived) is float


def test_a_failed_validation_is_a_value_error_that_says_all(soft_ioc: SoftIoc) -> None:
    interface, pv = Interface(), soft_ioc.pv("STICK:SP")
    validator = partial(wait_for_readback, readback_pv=soft_ioc.pv("STICK:RB"), tolerance=0.1, count_down=0.3, offset=0)
    with pytest.raises(ValueError, match=r"wanted 1 \+-0.1, last seen 0, waited 0.3 s") as caught:
        interface.set_value(pv, 1.0, validation_function=validator)
    assert isinstance(caught.value, ValidationFailed)
    assert caught.value.report == interface.last_report
    assert caught.value.report[pv].outcome is Outcome.APPLIED
    with pytest.raises(ValidationFailed):
        interface.set_values({pv: 0.0, soft_ioc.pv("NOISY:SP"): 0.0}, configs={pv: _never})


def _never(*, set_pv: str, set_value: float, context: Any, timeout: float) -> None:
    raise ValueError("no")


def test_a_put_that_times_out_twice_is_a_timeout_error(faults: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("badger_k2eg.core.futures.sleep", lambda delay, deadline=None: pauses.append(delay))
    interface, pv = Interface(timeout=1.0), faults.pv("LOST")
    with pytest.raises(TimeoutError, match=r"LOST = 1.0: .*1 s.*tried 2 times") as caught:
        interface.set_values({pv: 1.0})
    assert isinstance(caught.value, PutTimeout)
    assert (pauses[0], caught.value.report[pv].attempts) == (1.0, 2)
    assert interface.get_value(faults.pv("PUTS:LOST")) == 2


# -- values, errors, info ---------------------------------------------------------------------------------------------


def test_values_are_plain(soft_ioc: SoftIoc) -> None:
    names = [soft_ioc.pv(name) for name in ("DBL", "INT", "STR", "ENUM", "WF", "SWF")]
    values = Interface().get_values(names)
    assert list(values) == names
    assert [type(value) for value in values.values()] == [float, int, str, int, list, list]
    assert values[soft_ioc.pv("WF")] == [1.0, 2.5, -3.25]
    assert Interface().get_values([]) == {}
    reading = Interface().get_readings([soft_ioc.pv("DBL")])[soft_ioc.pv("DBL")]
    assert (reading.units, reading.limits.high) == ("mm", 5.0)


def test_a_dead_pv_is_named_in_the_error_that_badgers_window_knows(soft_ioc: SoftIoc) -> None:
    from badger.errors import BadgerInterfaceChannelError

    dead = soft_ioc.pv("NOBODY")
    with pytest.raises(TimeoutError, match=dead) as caught:
        Interface().get_values([soft_ioc.pv("INT"), dead], timeout=0.5)
    assert isinstance(caught.value, ReadError)
    assert isinstance(caught.value, BadgerInterfaceChannelError)
    assert caught.value.partial == {soft_ioc.pv("INT"): 42}
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.partial) == (str(caught.value), caught.value.partial)
    values = Interface(on_read_error="nan", timeout=0.5).get_values([soft_ioc.pv("INT"), dead])
    assert values[soft_ioc.pv("INT")] == 42
    assert values[dead] != values[dead]


def test_a_pv_that_answers_without_a_reading_is_not_called_missing(soft_ioc: SoftIoc) -> None:
    from badger.errors import BadgerInterfaceChannelError

    with pytest.raises(ValueError, match="never processed") as caught:
        Interface().get_value(soft_ioc.pv("UDF"))
    assert not isinstance(caught.value, BadgerInterfaceChannelError)


@pytest.mark.parametrize(
    "wrong", [lambda i: i.get_values("PV"), lambda i: i.set_values(["PV"]), lambda i: i.set_values({}, 3)]
)
def test_a_wrong_argument_is_named(wrong: Callable[[Interface], Any]) -> None:
    with pytest.raises(TypeError, match="not"):
        wrong(Interface(context=MemoryBackend()))


def test_info_is_made_of_texts_and_survives_a_dead_pv(soft_ioc: SoftIoc) -> None:
    alive, major, never, dead = (soft_ioc.pv(name) for name in ("DBL", "MAJOR", "UDF", "NOBODY"))
    info = Interface(timeout=1.0).get_info([alive, major, never, dead])["vars"]
    assert info[alive]["units"] == "mm"
    assert info[alive]["limits"] == "-5 to 5"
    assert info[alive]["connected"] == "yes"
    assert info[alive]["value"] == "1.500"
    assert info[major]["alarm"].startswith("major")
    assert (info[never]["connected"], info[dead]["connected"]) == ("yes", "no")
    assert all(type(text) is str for about in info.values() for text in about.values())
    assert {tuple(about) for about in info.values()} == {tuple(info[alive])}, "the same rows for every PV"


def test_info_survives_a_wrong_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BADGER_K2EG_TIMEOUT", "soon")
    info = Interface().get_info(["X"])
    assert "BADGER_K2EG_TIMEOUT" in info["vars"]["X"]["alarm"]


# -- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda i: pickle.loads(pickle.dumps(i)), lambda i: i.model_copy()]
)
def test_a_copy_has_the_options_and_its_own_client(soft_ioc: SoftIoc, copied: Callable[[Interface], Interface]) -> None:
    original = Interface(timeout=5, limits={soft_ioc.pv("DBL"): (0, 3)})
    original.configure(read_only=True)
    original.get_values([soft_ioc.pv("DBL")])
    twin = copied(original)
    assert twin.model_fields_set == {"timeout", "limits"}
    assert twin.settings == original.settings
    assert twin.settings.read_only
    assert twin.control is not original.control
    assert twin._logs == original._logs
    assert twin._logs is not original._logs
    assert twin.get_value(soft_ioc.pv("INT")) == 42
    assert original.model_dump()["timeout"] == 5.0


def test_a_copy_never_leaves_the_simulated_machine(memory_context: MemoryBackend) -> None:
    memory_context.add("X", 1.0)
    interface = Interface(context=memory_context)
    interface.get_value("X")
    for twin in (copy.deepcopy(interface), copy.copy(interface)):
        twin.set_value("X", twin.get_value("X") + 1.0)
    assert memory_context.value("X") == 3.0
    # One that cannot come along is an error, not a way to the real machine.
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(interface)


def test_reset_forgets_failures_and_reads_the_options_again(
    memory_context: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_context.add("X", 0.0)
    memory_context.fault("X", "refused")
    interface = Interface(context=memory_context, max_failures=2)
    for _ in range(2):
        with pytest.raises(PermissionError):
            interface.set_value("X", 1.0)
    memory_context.fault("X", None)
    with pytest.raises(SetpointBlocked, match="paused"):
        interface.set_value("X", 1.0)
    monkeypatch.setenv("BADGER_K2EG_TIMEOUT", "9")
    interface.reset_interface()
    interface.set_value("X", 1.0)
    assert interface.settings.timeout == 9.0


# -- one PV, one name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ALIAS", "FREE.{}", "FREE."])
def test_limits_hold_whatever_a_pv_is_called(soft_ioc: SoftIoc, name: str) -> None:
    interface = Interface(limits={soft_ioc.pv("FREE"): (-1.0, 2.0)})
    with pytest.raises(SetpointBlocked, match="own limits"):
        interface.set_value(soft_ioc.pv(name), 4.0)
    assert interface.get_value(soft_ioc.pv("FREE")) == 1.0
