"""Badger's own window, opened by ``badger-k2eg gui``: choose, run, stop, run again; mistakes; no machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from badger_k2eg.badger_app.runner import ROOTS
from badger_k2eg.plugin_root import plugin_root
from badger_k2eg.testing.fault_server import FaultServer
from badger_k2eg.testing.processes import clean_environment
from badger_k2eg.testing.soft_ioc import client_environment
from examples.first_ioc.part import FirstIoc
from examples.virtual_injector.part import VirtualInjector

from .conftest import PICTURES, Window

pytestmark = [pytest.mark.gui, pytest.mark.slow, pytest.mark.timeout(300)]

STARTS = int(os.environ.get("GUI_STARTS", "5"))


def test_three_runs_in_one_window(window: Window, injector: VirtualInjector, tmp_path: Path) -> None:
    options = {"evaluations": 25, "ranges": 0.8} if PICTURES else {}
    notes = window("three_runs", injector.client_environment, **options)
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
    # Stop does not wait for the evaluation, nor for ever.
    assert max(notes.all("stop took")) < 20
    if not PICTURES:
        archive = tmp_path / "home/.local/share/Badger/archive"
        assert len(list(archive.glob("*/*/*/virtual_injector-*.yaml"))) == 3


@pytest.mark.parametrize("number", range(1, STARTS + 1))
def test_every_start_runs_and_stops(window: Window, injector: VirtualInjector, number: int) -> None:
    # Without what is imported before the first fork, three starts of eight hang.
    window("one_run", injector.client_environment)


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


def test_a_machine_that_is_not_there_costs_one_timeout(window: Window) -> None:
    # Another prefix than the environment's own, which nobody serves.
    with VirtualInjector() as machine:
        notes = window("no_machine", machine.client_environment, prefix=machine.prefix)
    # Ten variables, 3 s for one attempt.
    for what in ("choosing", "info", "ticking", "run"):
        assert 2.5 < notes[f"{what} took"] < 2 * 3.0, what
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


def test_a_window_that_is_killed_takes_its_run_along(window: Window, injector: VirtualInjector) -> None:
    # That no child is left, the fixture looks at.
    window("terminated", injector.client_environment)
    pv = injector.pv("SOL1:BCTRL")
    command = [sys.executable, "-m", "badger_k2eg.cli", "get", "--json", pv]
    environment = clean_environment(injector.client_environment)
    said = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=50, check=True).stdout
    # Where it was before the run.
    assert json.loads(said)[pv]["value"] == pytest.approx(1.04)
