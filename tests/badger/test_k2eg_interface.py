"""The interface ``k2eg``, as environments use it, over the gateway and a real IOC."""

from __future__ import annotations

import copy
import pickle
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from badger_k2eg.control.validators import wait_for_readback
from badger_k2eg.core.model import Outcome
from badger_k2eg.errors import ReadTimeout, SetpointBlocked, SettingsError
from badger_k2eg.k2eg.environment import APP_NAME_VARIABLE, ENVIRONMENT_VARIABLE, FOLDER_VARIABLE
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.ports import free_port
from badger_k2eg.testing.soft_ioc import SoftIoc
from interfaces.k2eg import Interface
from tests.rig.pace import pace

RunPython = Callable[..., subprocess.CompletedProcess[str]]

_OFFLINE = """
import sys, time
from interfaces.k2eg import Interface
Interface()
began = time.perf_counter()
Interface(environment="anything", app_name="tuning")
seconds = time.perf_counter() - began
assert not {"confluent_kafka", "p4p"} & set(sys.modules)
print(seconds)
"""


@pytest.fixture
def interface(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[Interface]:
    monkeypatch.setenv(FOLDER_VARIABLE, str(gateway.folder))
    made = Interface(environment=gateway.environment_name, app_name="badger")
    yield made
    made.reset_interface()


def test_a_constructor_is_offline_and_fast(run_python: RunPython) -> None:
    done = run_python(_OFFLINE)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.05 * pace()


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Interface().timeout == 12.0 and Interface(timeout=5).timeout == 5.0
    assert Interface().settings.timeout == 12.0
    monkeypatch.setenv("BADGER_K2EG_TIMEOUT", "20")
    assert Interface().settings.timeout == 20.0
    for name, value in ((ENVIRONMENT_VARIABLE, "lcls"), (APP_NAME_VARIABLE, "night")):
        monkeypatch.setenv(name, value)
    way = Interface()._way()
    assert (way.environment, way.app_name) == ("lcls", "night")
    way = Interface(environment="facet", app_name="day")._way()
    assert (way.environment, way.app_name) == ("facet", "day")


def test_words_that_there_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="no option 'enviroment'; did you mean 'environment'"):
        Interface(enviroment="x")
    with pytest.raises(SettingsError, match="no option 'timeot'; did you mean 'timeout'"):
        Interface(timeot=3)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(SettingsError, match="K2EG environment 'lcls'"):
        Interface(environment="lcls").get_value("X")


def test_reads_and_validated_sets(interface: Interface, soft_ioc: SoftIoc) -> None:
    setpoint, readback, dbl = (soft_ioc.pv(name) for name in ("SP:000", "RB:000", "DBL"))
    assert interface.get_values([dbl, f"ca://{dbl}"]) == {dbl: 1.5, f"ca://{dbl}": 1.5}
    assert interface.get_readings([dbl])[dbl].units == "mm"
    validator = partial(wait_for_readback, readback_pv=readback, tolerance=0.01, count_down=10)
    report = interface.set_values({setpoint: 1.25}, configs={setpoint: validator})
    assert report[setpoint].outcome is Outcome.APPLIED and report[setpoint].arrived == pytest.approx(1.25)
    assert interface.set_value(setpoint, 0.0, validation_function=validator) == pytest.approx(0.0)
    with pytest.raises(SetpointBlocked, match="drive limits"):
        interface.set_values({dbl: 99.0})
    assert interface.get_info([dbl])["vars"][dbl]["connected"] == "yes"


def test_a_foreign_validator_runs_unchanged(interface: Interface, soft_ioc: SoftIoc) -> None:
    pv = soft_ioc.pv("FREE")

    def check(factor: float, *, set_pv: str, set_value: float, context: Any, timeout: float) -> float:
        return float(context.get(set_pv, timeout=timeout).real) * factor

    assert interface.set_value(pv, 2.0, validation_function=partial(check, 3.0)) == 6.0
    interface.set_value(pv, 1.0)


def test_read_only(interface: Interface, soft_ioc: SoftIoc) -> None:
    pv = soft_ioc.pv("FREE")
    interface.read_only = True
    assert interface.set_values({pv: 7.0})[pv].outcome is Outcome.SKIPPED
    assert interface.get_value(pv) == 1.0


def test_copies_keep_their_environment_and_a_change_of_it_counts_at_once(
    interface: Interface, soft_ioc: SoftIoc, gateway: GatewayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pv = soft_ioc.pv("DBL")
    assert interface.get_value(pv) == 1.5
    for other in (copy.copy(interface), copy.deepcopy(interface), pickle.loads(pickle.dumps(interface))):
        assert other.environment == gateway.environment_name and other.get_value(pv) == 1.5
    (gateway.folder / "gone.ini").write_text(
        f"[DEFAULT]\nkafka_broker_url = 127.0.0.1:{free_port()}\nk2eg_cmd_topic = cmd\n"
    )
    interface.environment = "gone"
    with pytest.raises(ReadTimeout, match=r"127\.0\.0\.1"):
        interface.get_value(pv, timeout=0.5)
    interface.environment = gateway.environment_name
    assert interface.get_value(pv) == 1.5


def test_an_environment_chooses_it_by_its_parameter(
    gateway: GatewayProcess, soft_ioc: SoftIoc, badger_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from badger_k2eg.badger_app.environment_options import ConfiguredEnvironment, interface_names

    class Environment(ConfiguredEnvironment):
        name = "for_this_test"

    assert {"epics_pva", "k2eg"} <= set(interface_names())
    monkeypatch.setenv(FOLDER_VARIABLE, str(gateway.folder))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, gateway.environment_name)
    made = Environment(interface_name="k2eg", read_only="yes", timeout="5")
    assert made.interface.name == "k2eg" and made.interface.settings.read_only
    assert made.interface.settings.timeout == 5.0
    assert made.interface.get_value(soft_ioc.pv("DBL")) == 1.5
    made.interface.reset_interface()


@pytest.mark.parametrize("name", ["k2eg", "epics_pva"])
def test_the_hint_at_epics_addresses_is_for_those_who_search_themselves(name: str) -> None:
    import interfaces.epics_pva
    from badger_k2eg.badger_app.session import reaching
    from badger_k2eg.core.errors import PvNotConnected, ReadError, read_failure

    chosen = Interface() if name == "k2eg" else interfaces.epics_pva.Interface()
    error = PvNotConnected("A", "the broker does not answer")
    with pytest.raises(ReadError) as raised, reaching(SimpleNamespace(interface=chosen)):  # type: ignore[arg-type]
        raise read_failure({"A": error}, {}, str(error))
    assert ("EPICS_PVA_ADDR_LIST" in str(raised.value)) is (name == "epics_pva")
