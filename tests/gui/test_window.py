"""Badger's own window, opened by ``badger-k2eg gui``: choose, run, stop, run again; mistakes; no machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from badger_k2eg import plugin_root
from badger_k2eg.badger_app.session import ROOTS
from badger_k2eg.k2eg.environment import ENVIRONMENT_VARIABLE, FOLDER_VARIABLE
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.soft_ioc import client_environment
from examples.first_ioc.part import FirstIoc
from examples.virtual_injector.part import VirtualInjector
from tests.rig.fault_server import FaultServer
from tests.rig.pace import pace

from .conftest import PICTURES, Command, Window

pytestmark = [pytest.mark.gui, pytest.mark.slow, pytest.mark.timeout(300)]

#: Where each run begins.
MAGNETS = {"SOL1": 1.04, "QUAD:1": 0.1, "QUAD:2": 0.35, "QUAD:3": -0.4}
#: For pictures with something to see.
SHOWN: dict[str, float] = {"evaluations": 25, "ranges": 0.8} if PICTURES else {}
ARCHIVE = "home/.local/share/Badger/archive"
STARTS = int(os.environ.get("GUI_STARTS", "2"))


@pytest.mark.extended
def test_three_runs_in_one_window(window: Window, command: Command, injector: VirtualInjector, tmp_path: Path) -> None:
    notes = window("three_runs", injector.client_environment, **SHOWN)
    # Live values: the ranges are a part around the present ones, within the limits.
    assert len(notes["bounds"]) == 10
    if not PICTURES:
        assert notes["bounds"]["SOL1"] == pytest.approx([0.988, 1.092])
        assert notes["bounds"]["QUAD3"] == pytest.approx([-0.42, -0.38])
    assert [float(text) for text in notes["first point"]] == pytest.approx([1.04, 0.1, 0.35, -0.4])
    assert [number >= least for number, least in zip(notes.all("evaluations"), (8, 2, 2), strict=True)] == [True] * 3
    assert notes.all("dialog") == [None, None, None]
    # Stop leaves the magnets where they are, or puts them back, as the Parameters say.
    before, after = notes.all("magnets")[0]
    assert after != pytest.approx(before)
    before, after = notes.all("magnets")[2]
    assert after == pytest.approx(before)
    recorded = json.loads(command("runs", "list", "--json", client=injector.client_environment))
    assert [run["reason"] for run in recorded] == ["stopped"] * 3
    # Stop does not wait for the evaluation, nor for ever.
    assert max(notes.all("stop took")) < 20
    if not PICTURES:
        archive = tmp_path / ARCHIVE
        assert len(list(archive.glob("*/*/*/virtual_injector-*.yaml"))) == 3
        # Each run has its own routine in the archive, however close they are.
        for run, data in zip(recorded, notes.all("data"), strict=True):
            again = tmp_path / f"{run['run']}.yaml"
            words = ("rerun", run["run"], "--archive", str(archive), "--save", str(again))
            command(*words, client=injector.client_environment)
            points = yaml.safe_load(again.read_text())["initial_points"]
            for magnet, values in data.items():
                assert magnet == "spot" or list(points[magnet].values())[: len(values)] == values[: len(points[magnet])]


@pytest.fixture
def through_gateway(injector: VirtualInjector) -> Iterator[dict[str, str]]:
    """The variables by which the injector is reached both ways."""
    with GatewayProcess("--allow-write", f"{injector.prefix}:*", epics=injector.client_environment) as gateway:
        variables = {FOLDER_VARIABLE: str(gateway.folder), ENVIRONMENT_VARIABLE: gateway.environment_name}
        yield injector.client_environment | variables


def test_direct_then_gateway_then_replay_in_one_window(
    window: Window, command: Command, injector: VirtualInjector, through_gateway: dict[str, str], tmp_path: Path
) -> None:
    notes = window("three_ways", through_gateway, **{"evaluations": 5, **SHOWN})
    assert notes.all("dialog") == [None, None]
    direct, gateway, replay = notes.all("data")
    # Put back after the first run, the magnets begin the second where they began the first.
    for name, value in MAGNETS.items():
        magnet = name.replace(":", "")
        assert direct[magnet][0] == pytest.approx(value) and gateway[magnet][0] == pytest.approx(value)
        assert len(set(gateway[magnet])) > 1
    # The same points again give what was measured then, to the last digit. The window may not have heard of the last.
    done = len(direct["spot"])
    assert done >= 5
    assert {name: values[:done] for name, values in replay.items()} == direct
    assert gateway["spot"] != direct["spot"]
    recorded = json.loads(command("runs", "list", "--json", client=through_gateway))
    # A replay leaves no record.
    assert [run["reason"] for run in recorded] == ["stopped", "stopped"]
    assert magnets(command, injector) == pytest.approx(list(MAGNETS.values()))
    shown = [json.loads(command("runs", "show", run["run"], "--json", client=through_gateway)) for run in recorded]
    assert shown[0]["manifest"]["way"] == "pva"
    assert shown[1]["manifest"]["way"]["environment"] == through_gateway[ENVIRONMENT_VARIABLE]
    if not PICTURES:
        # The routine is in the archive alone. Its points, without the machine.
        run = recorded[1]["run"]
        words = ("rerun", run, "--archive", str(tmp_path / ARCHIVE), "--evaluations", "5", "--json", "--no-plot")
        said = command(*words, "--set", "interface_name=replay", "--set", f"replay_run={run}", client={})
        again = json.loads(said)["evaluations"]
        # The window rounds what it shows.
        assert [each["objectives"]["spot"] for each in again] == pytest.approx(gateway["spot"][:5], rel=1e-9)


@pytest.mark.extended
@pytest.mark.parametrize("number", range(1, STARTS + 1))
def test_every_start_runs_and_stops_both_ways(window: Window, through_gateway: dict[str, str], number: int) -> None:
    # Without what is imported before the first fork, three starts of eight hang. The last child is forked while the
    # window has a Kafka client, whose threads it does not inherit.
    window("direct_and_gateway", through_gateway)


@pytest.mark.extended
def test_a_killed_child_is_told_by_the_next_run_and_undone(
    window: Window, command: Command, injector: VirtualInjector
) -> None:
    client = injector.client_environment
    notes = window("child_killed", client)
    lost, second = json.loads(command("runs", "list", "--json", client=client))
    assert notes["state"] == "crashed"
    assert (lost["reason"], second["reason"]) == ("lost", "stopped")
    assert f"run {lost['run']} of " in notes.said
    assert f"to put back what it set: badger-k2eg runs restore {lost['run']} --to start" in notes.said
    assert magnets(command, injector) != pytest.approx(list(MAGNETS.values()))
    command("runs", "restore", lost["run"], "--to", "start", "--yes", client=client)
    assert magnets(command, injector) == pytest.approx(list(MAGNETS.values()))


def magnets(command: Command, injector: VirtualInjector) -> list[float]:
    pvs = [injector.pv(f"{magnet}:BCTRL") for magnet in MAGNETS]
    told = json.loads(command("get", "--json", *pvs, client=injector.client_environment))
    return [told[pv]["value"] for pv in pvs]


@pytest.mark.extended
def test_what_the_window_tells_of_the_environments(window: Window, injector: VirtualInjector) -> None:
    with FirstIoc("FIRST") as first:
        notes = window("look", client_environment(injector, first))
    assert {"interface_name", "read_only", "parallel", "timeout", "prefix"} <= set(notes["parameters"])
    info = notes["info"]
    assert (info["pv:"], info["connected:"], info["units:"]) == ("INJ:SOL1:BCTRL", "yes", "kG")
    assert (info["limits:"], info["alarm:"]) == ("0.7 to 1.2", "no alarm")
    assert float(info["value:"]) > 0.7
    for name, text, has_picture in notes.all("docs"):
        # Markdown's marks do not show, nothing is swallowed after a fenced block, and the picture is there.
        assert "**" not in text and "```" not in text
        assert "Parameters\n" in text and "Docstrings\n" in text
        assert has_picture, name


@pytest.mark.extended
def test_a_machine_that_is_not_there_costs_one_timeout(window: Window) -> None:
    # Another prefix than the environment's own, which nobody serves.
    with VirtualInjector() as machine:
        notes = window("no_machine", machine.client_environment, prefix=machine.prefix)
    # Ten variables, 3 s for one attempt.
    for what in ("choosing", "info", "ticking", "run"):
        assert 2.5 < notes[f"{what} took"] < 2 * 3.0 * pace(), what
    assert "INJ:SOL1:BCTRL: no answer within 3 s" in notes["warning"]
    assert "Refresh" in notes["warning"]
    assert notes["bounds without"]["SOL1"] == [0.7, 1.2]
    assert "SOL1:BCTRL: no answer within 3 s" in notes["ticking without"]
    assert "SOL1:BCTRL: no answer within 3 s" in notes["run without"]
    assert notes["run button"] == ["Run", True, False]


def test_mistakes_are_told_in_one_line_before_the_run(window: Window, injector: VirtualInjector) -> None:
    notes = window("mistakes", injector.client_environment)
    for told in (notes["misspelt"], notes["misspelt, on a click"]):
        assert "interface_name: there is no interface 'epics_pav'; did you mean 'epics_pva'? there are " in told
        assert len(told.splitlines()) == 1
    assert notes["emptied"] == "SettingsError: environment virtual_injector: SOL1: parameter prefix is empty"
    assert notes.all("running") == [False, False]


def test_a_failed_set_asks_and_retry_puts_nothing_twice(window: Window, fault_server: FaultServer) -> None:
    # A lost put is not mended by ours here.
    client = {**fault_server.client_environment, "BADGER_K2EG_PUT_ATTEMPTS": "1"}
    notes = window("retry", client, prefix=fault_server.prefix)
    (first, puts_1), (second, puts_2), (third, puts_3) = notes.all("asked")
    # In one line, and not below a page of traceback.
    assert f"PutUnknown: {fault_server.pv('LOSTONCE')}" in first
    assert "Traceback" not in first + second + third
    # The lost one is sent again, and then is there: only the refused one is asked for a third time.
    assert (puts_1, puts_2, puts_3) == ([1, 0], [2, 1], [2, 2])
    for text in (second, third):
        assert "rejected by the server: out of range" in text
    assert notes["evaluations"] == 0


@pytest.mark.extended
def test_other_plugins_for_one_session_and_ctrl_c(window: Window, tmp_path: Path) -> None:
    root = tmp_path / "plugins"
    for kind in ("interfaces", "environments"):
        shutil.copytree(plugin_root() / kind, root / kind)
    (broken := root / "environments" / "broken").mkdir()
    (broken / "__init__.py").write_text("import no_such_package\n")
    (broken / "configs.yaml").write_text("name: broken\ninterface: [epics_pva]\n")
    # The user's own configuration has no plugins at all, and stays as it is.
    places = {name: str(tmp_path / name.lower()) for name in ("BADGER_PLUGIN_ROOT", *ROOTS)}
    for place in places.values():
        Path(place).mkdir()
    (config := tmp_path / "theirs.yaml").write_text(yaml.safe_dump(places))
    notes = window("interrupted", client_environment(), "--config", str(config), "--plugin-root", str(root))
    assert "broken" in notes["environments"] and "pv_template" in notes["environments"]
    assert "No module named 'no_such_package'" in notes["does not load"]
    assert config.read_text() == yaml.safe_dump(places)


@pytest.mark.extended
def test_a_window_that_is_killed_takes_its_run_along(
    window: Window, command: Command, injector: VirtualInjector
) -> None:
    # That no child is left, the fixture looks at.
    window("terminated", injector.client_environment)
    # Where they were before the run.
    assert magnets(command, injector) == pytest.approx(list(MAGNETS.values()))
    (run,) = json.loads(command("runs", "list", "--json", client=injector.client_environment))
    assert (run["reason"], run["state"]) == ("stopped", "stopped")
