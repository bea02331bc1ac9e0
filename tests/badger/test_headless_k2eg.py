"""One environment on two transports: run headless through the gateway, again from its record, and put back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.errors import SetpointBlocked
from badger_k2eg.k2eg.environment import ENVIRONMENT_VARIABLE, FOLDER_VARIABLE
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.plugin import SessionPorts
from examples.first_ioc.part import FirstIoc
from examples.virtual_injector.part import VirtualInjector
from interfaces.epics_pva import Interface

from .routines import SETPOINTS, START, command, vocs, written

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

Said = Callable[..., dict[str, Any]]


@pytest.fixture
def injector(epics_environment: SessionPorts) -> Iterator[VirtualInjector]:
    # On ports that the gateway of this session reaches.
    ports = epics_environment.factory.pop()
    with VirtualInjector(ports=ports) as machine:
        yield machine
    epics_environment.factory.append(ports)


@pytest.fixture
def said(gateway: GatewayProcess, plugin_root: Path, tmp_path: Path) -> Said:
    """Gives a function that runs ``badger-k2eg WORD... --json``, and gives what it said."""
    variables = {
        FOLDER_VARIABLE: str(gateway.folder),
        ENVIRONMENT_VARIABLE: gateway.environment_name,
        "BADGER_K2EG_JOURNAL_DIR": str(tmp_path / "journal"),
    }

    def run(*words: str | Path, **options: str) -> dict[str, Any]:
        if words[0] == "run":
            words = (*words, "--no-plot", "--quiet", "--plugin-root", plugin_root)
        done = command(*words, "--json", folder=tmp_path, **variables, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    return run


def through_both(said: Said, routine: Path, evaluations: int, *parameters: str) -> list[dict[str, Any]]:
    """Run a routine through the gateway, and its record again; gives what was measured, the same both times."""
    chosen = [word for parameter in parameters for word in ("--set", parameter)]
    words = ("run", routine, "--evaluations", str(evaluations), *chosen, "--set")
    first = said(*words, "interface_name=k2eg")
    assert len(first["evaluations"]) == evaluations
    assert {each["was_set"] for each in first["evaluations"]} == {True}
    again = said(*words, "interface_name=replay", BADGER_K2EG_REPLAY_RUN=first["run"])
    assert again["evaluations"] == first["evaluations"]
    shown = said("runs", "show", first["run"])
    assert shown["manifest"]["way"]["environment"] == "gateway"
    found: list[dict[str, Any]] = first["evaluations"]
    return found


def put_back(said: Said, machine: Interface, before: dict[str, float]) -> None:
    """Undo the last run, through the gateway."""
    assert machine.get_values(list(before)) != pytest.approx(before)
    told = said("runs", "restore", "last", "--yes")
    assert told["exit_code"] == 0
    assert machine.get_values(list(before)) == pytest.approx(before)


@pytest.mark.extended
def test_the_handwritten_environment(said: Said, first_ioc: FirstIoc, tmp_path: Path) -> None:
    machine = Interface()
    machine.set_values(START)
    points = [dict(zip(SETPOINTS, point, strict=True)) for point in ((-0.6, 0.8), (0.0, 0.8), (-0.6, 0.2))]
    wanted = {
        "variables": {name: [-2, 2] for name in SETPOINTS},
        "objectives": {"FIRST:BEAM:SIZE": "MINIMIZE"},
    }
    routine = written(
        tmp_path, environment={"name": "handwritten_environment"}, vocs=vocs(**wanted), initial_points=points
    )
    found = through_both(said, routine, 5)
    assert [each["variables"] for each in found[:3]] == points
    put_back(said, machine, START)
    machine.reset_interface()


@pytest.mark.extended
@pytest.mark.parametrize(
    ("name", "parameter", "objective", "magnets"),
    [
        ("virtual_injector", "prefix", "spot", {"SOL1": ("SOL1", 0.95), "QUAD1": ("QUAD:1", 0.05)}),
        ("fel_linac", "linac", "pulse_energy", {"matching_1": ("QUAD:1", 0.05), "matching_2": ("QUAD:2", 0.4)}),
    ],
)
def test_environments_of_the_injector(
    name: str,
    parameter: str,
    objective: str,
    magnets: dict[str, tuple[str, float]],
    said: Said,
    injector: VirtualInjector,
    tmp_path: Path,
) -> None:
    machine = Interface()
    before = machine.get_values([injector.pv(f"{pv}:BCTRL") for pv, _ in magnets.values()])
    point = {variable: value for variable, (_, value) in magnets.items()}
    ranges = {variable: [value - 0.1, value + 0.1] for variable, value in point.items()}
    second = {variable: value + 0.03 for variable, value in point.items()}
    routine = written(
        tmp_path,
        environment={"name": name},
        vocs=vocs(variables=ranges, objectives={objective: "MINIMIZE"}),
        generator={"name": "random"},
        initial_points=[point, second],
    )
    found = through_both(said, routine, 2, f"{parameter}={injector.prefix}")
    assert [each["variables"] for each in found] == [point, second]
    assert found[0]["objectives"] != found[1]["objectives"]
    put_back(said, machine, before)
    machine.reset_interface()


@pytest.mark.usefixtures("badger_config", "quiet")
def test_limits_of_the_files_interface_hold_on_another_one(memory: MemoryBackend, tmp_path: Path) -> None:
    from badger_k2eg.badger_app.headless import load_routine

    # As Badger saves it: every option, and those of k2eg that epics_pva does not have.
    saved = {"name": "k2eg", "environment": "lcls", "app_name": None, "timeout": 12.0, "limits": {SETPOINTS[0]: [0, 1]}}
    file = written(tmp_path, environment={"name": "pv_template", "interface": saved})
    for chosen, timeout in (("epics_pva", 3.0), ("k2eg", 12.0)):
        interface = load_routine(file, {"interface_name": chosen}, context=memory).environment.interface
        assert (interface.name, interface.settings.timeout) == (chosen, timeout)
        with pytest.raises(SetpointBlocked, match="own limits"):
            interface.set_values({SETPOINTS[0]: 1.5})


def test_a_misspelt_interface_of_a_handwritten_environment_is_one_line(plugin_root: Path, tmp_path: Path) -> None:
    routine = written(
        tmp_path,
        environment={"name": "handwritten_environment"},
        vocs=vocs(variables={name: [-2, 2] for name in SETPOINTS}, objectives={"FIRST:BEAM:SIZE": "MINIMIZE"}),
    )
    done = command("run", routine, "--set", "interface_name=k2ge", "--plugin-root", plugin_root, folder=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "there is no interface 'k2ge'; did you mean 'k2eg'?" in done.stderr
