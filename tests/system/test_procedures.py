"""Procedures on the virtual injector: over PVAccess and through K2EG, and by the command with its run record."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from badger_k2eg.backends import ThroughK2eg
from badger_k2eg.control import Control, connect
from badger_k2eg.core.settings import Settings
from badger_k2eg.testing.plugin import SessionPorts
from badger_k2eg.testing.processes import clean_environment
from examples.virtual_injector import procedures
from examples.virtual_injector.lattice import MAGNETS
from examples.virtual_injector.part import VirtualInjector
from tests.rig.pace import pace
from tests.rig.waiting import eventually

if TYPE_CHECKING:
    from badger_k2eg.testing.broker import Broker
    from badger_k2eg.testing.gateway import GatewayProcess

MODULE = "examples.virtual_injector.procedures"


@pytest.fixture(scope="module")
def injector(epics_environment: SessionPorts) -> Iterator[VirtualInjector]:
    # On ports that the clients of this session know already: theirs is open by now.
    ports = epics_environment.factory.pop()
    try:
        with VirtualInjector(seed=1, ports=ports) as running:
            yield running
    finally:
        epics_environment.factory.append(ports)


@pytest.fixture(scope="module")
def gateway_to_it(injector: VirtualInjector, broker: Broker) -> Iterator[GatewayProcess]:
    from badger_k2eg.testing.gateway import GatewayProcess

    with GatewayProcess("--allow-write", "*", broker=broker, epics=injector.client_environment) as running:
        yield running


@pytest.fixture(params=["pva", "k2eg"])
def control(request: pytest.FixtureRequest, injector: VirtualInjector) -> Iterator[Control]:
    """The machine as just switched on, with supplies that are fast."""
    way: Any = "pva"
    if request.param == "k2eg":
        gateway: GatewayProcess = request.getfixturevalue("gateway_to_it")
        way = ThroughK2eg(gateway.environment_name, "procedures", str(gateway.folder))
    made = Control(connect(way), Settings(timeout=12.0))
    made.execute(injector.pv("SIM:RESET"))
    made.wait_until(lambda state: state.reading.label == "done", injector.pv("SIM:RESET"), 30.0)
    made.set({injector.pv(f"{name}:RATE"): 5.0 for name in ("QUAD:4", "QUAD:5", "QUAD:6")})
    yield made
    made.close()
    made.backend.close()


def test_a_quadrupole_scan_gives_the_emittance(control: Control, injector: VirtualInjector, tmp_path: Path) -> None:
    setpoint = injector.pv("QUAD:6:BCTRL")
    found = procedures.emittance(control, injector.prefix, points=6, samples=3)
    # 1.14 um without noise.
    assert found.normalized == pytest.approx(1.14e-6, rel=0.15)
    assert control.get([setpoint])[setpoint] == pytest.approx(MAGNETS["QUAD:6"].start), "put back"
    assert found.scan is not None and min(found.scan.column("size")) < 150.0
    assert found.scan.plot(tmp_path / "scan.png").stat().st_size > 5000


def test_degauss_and_a_map_of_two(control: Control, injector: VirtualInjector) -> None:
    values = procedures.degauss(control, "QUAD:4", injector.prefix, cycles=1)
    assert values == pytest.approx([0.4, -0.4, 0.0, -0.1])
    result = procedures.spot_map(control, injector.prefix, points=2)
    assert len(result.points) == 4 and (result.column("XRMS") > 0.0).all()


def test_the_beam_comes_back(control: Control, injector: VirtualInjector) -> None:
    permit, actual = injector.pv("BEAM:PERMIT"), injector.pv("BEAM:RATE_ACT")
    control.set({injector.pv("BEAM:RATE"): "0 Hz"})
    eventually(lambda: control.get([actual])[actual], 0.0)
    future = control.wait_until_new(permit, 0.1, callback=None)  # something else goes on beside it
    with pytest.raises(TimeoutError, match="RATE_ACT reads 0"):
        procedures.beam(control, injector.prefix, stable=0.2, timeout=1.0)
    control.set({injector.pv("BEAM:RATE"): "10 Hz"})
    assert procedures.beam(control, injector.prefix, stable=0.2)[permit].label == "OK"
    assert future.wait(20.0).done()


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(injector: VirtualInjector, tmp_path: Path) -> Callable[..., list[str]]:
    (tmp_path / "mine.py").write_text(
        "from badger_k2eg.core.futures import sleep\n"
        "def hold(control, pv, value=0.0):\n"
        "    control.set({pv: value})\n"
        "    print('holding', flush=True)\n"
        "    sleep(3600)\n"
        "def bare():\n"
        "    pass\n"
        "def wrong(control):\n"
        "    return 1 / 0\n"
    )
    return lambda *arguments: [sys.executable, "-m", "badger_k2eg.cli", "procedure", *arguments]


@pytest.fixture
def environment(injector: VirtualInjector, tmp_path: Path) -> dict[str, str]:
    own = {"XDG_CONFIG_HOME": str(tmp_path), "BADGER_K2EG_JOURNAL_DIR": str(tmp_path / "journal")}
    own["BADGER_K2EG_TIMEOUT"] = "20"  # a busy machine may need more than the usual three seconds to answer
    return clean_environment({**injector.client_environment, **own, "BADGER_K2EG_RUN_ON_CANCELLED": "restore"})


def run(words: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=150)


def runs(environment: dict[str, str]) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "badger_k2eg.cli", "runs", "list", "--json"]
    text = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=150, check=True).stdout
    try:
        listed = json.loads(text)
    except ValueError:
        listed = [json.loads(line) for line in text.splitlines()]
    return listed if isinstance(listed, list) else list(listed["runs"])


def test_the_command_leaves_the_record_of_a_run(
    command: Callable[..., list[str]], environment: dict[str, str], injector: VirtualInjector, tmp_path: Path
) -> None:
    words = command(f"{MODULE}:degauss", "--param", f"prefix={injector.prefix}", "--param", "cycles=1", "--json")
    done = run(words, environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[:2] == [0.4, -0.4] and "QUAD:4:BCTRL = 0.4" in done.stderr
    assert len(runs(environment)) == 1
    nothing = run(
        [*command(f"{MODULE}:degauss", "--param", f"prefix={injector.prefix}"), "--read-only"], environment, tmp_path
    )
    assert nothing.returncode == 0, nothing.stderr


def test_the_command_goes_through_k2eg_and_so_does_the_way_back(
    command: Callable[..., list[str]],
    environment: dict[str, str],
    injector: VirtualInjector,
    gateway_to_it: GatewayProcess,
    tmp_path: Path,
) -> None:
    # No address of the IOC: only the gateway knows it.
    through = {k: v for k, v in environment.items() if not k.startswith("EPICS_")}
    through |= {
        "K2EG_PYTHON_CONFIGURATION_PATH_FOLDER": str(gateway_to_it.folder),
        "EPICS_PVA_ADDR_LIST": "127.0.0.1:1",
    }
    parameters = ["--param", f"prefix={injector.prefix}", "--param", "cycles=1"]
    words = command(f"{MODULE}:degauss", *parameters, "--environment", gateway_to_it.environment_name)
    done = run(words, through, tmp_path)
    assert done.returncode == 0, done.stderr
    restore = [sys.executable, "-m", "badger_k2eg.cli", "runs", "restore", "last", "--to", "start", "--yes"]
    done = run(restore, through, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "QUAD:4:BCTRL" in done.stdout


def test_sigterm_stops_it_by_the_policy_of_the_run(
    command: Callable[..., list[str]], environment: dict[str, str], injector: VirtualInjector, tmp_path: Path
) -> None:
    pv = injector.pv("QUAD:5:BCTRL")
    with closing(Control(connect("pva"), Settings(timeout=20.0))) as control:
        before = control.get([pv])[pv]
        words = command("mine:hold", "--param", f"pv={pv}", "--param", "value=-0.2")
        with subprocess.Popen(
            words, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "holding\n"
            assert control.get([pv])[pv] == -0.2
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 143 and "stopped by SIGTERM" in errors and "Traceback" not in errors
        assert time.monotonic() - began < 10.0 * pace()
        assert control.get([pv])[pv] == before, "put back"
        control.backend.close()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["mine"], 2, "MODULE:FUNCTION"),
        (["no_such:f"], 2, "cannot be imported"),
        (["mine:hol"], 2, "did you mean 'hold'"),
        (["mine:bare"], 2, "takes no control"),
        (["mine:hold"], 2, "missing a required argument: 'pv'"),
        (["mine:hold", "--param", "pb=1"], 2, "parameters are pv, value"),
        (["mine:hold", "--param", "pv"], 2, "NAME=VALUE"),
        (["mine:hold", "--param", "pv={quad}", "--param", "value=9"], 3, "outside its drive limits"),
        (["mine:wrong"], 1, "division by zero"),
    ],
)
def test_a_mistake_is_one_line(
    command: Callable[..., list[str]],
    environment: dict[str, str],
    injector: VirtualInjector,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    words = [argument.format(quad=injector.pv("QUAD:5:BCTRL")) for argument in arguments]
    ended = run(command(*words), environment, tmp_path)
    assert ended.returncode == code, ended.stderr
    assert says in ended.stderr and "Traceback" not in ended.stderr
