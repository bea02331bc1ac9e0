"""Row B1: the plugins are listed and described offline, and fast; and what an import says without Badger."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.rig.pace import pace

CLONE = Path(__file__).resolve().parents[2]
PLUGINS = {kind: sorted(path.parent.name for path in CLONE.glob(f"{kind}/*/configs.yaml")) for kind in
           ("interfaces", "environments")}  # fmt: skip

#: Those that a plain session asks for; an extended one asks for all.
FIRST = (("env", "pv_template"),)

#: Nobody answers there: a plugin that asked would be seen by the time it takes.
NOWHERE = {
    "EPICS_PVA_ADDR_LIST": "127.0.0.1:1",
    "EPICS_PVA_AUTO_ADDR_LIST": "NO",
    "EPICS_CA_ADDR_LIST": "127.0.0.1:1",
    "EPICS_CA_AUTO_ADDR_LIST": "NO",
    "QT_QPA_PLATFORM": "offscreen",
}


class BadgerCommand:
    """`badger` with a plugin root."""

    def __init__(self, folder: Path, root: Path) -> None:
        folder.mkdir()
        self.config = folder / "badger.yaml"
        keys = ("TEMPLATE_ROOT", "LOGBOOK_ROOT", "ARCHIVE_ROOT", "LOG_DIRECTORY")
        settings = {f"BADGER_{key}": str(folder / key.lower()) for key in keys}
        self.config.write_text(json.dumps({"BADGER_PLUGIN_ROOT": str(root), **settings}))

    def __call__(self, *words: str) -> tuple[str, float, float]:
        """Give what it said, and its seconds of processor time and of the clock."""
        command = [sys.executable, "-m", "badger", "-cf", str(self.config), *words]
        began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **NOWHERE}, timeout=150)
        seconds, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, seconds


def _quick(times: list[tuple[float, float]], without: list[tuple[float, float]]) -> bool:
    (used, waited), (used_without, waited_without) = (map(min, zip(*each, strict=True)) for each in (times, without))
    return used < used_without + 1.0 and waited < waited_without + 3.0 * pace()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("word", "name"),
    [
        pytest.param(word, name, marks=() if (word, name) in FIRST else pytest.mark.extended)
        for word, kind in (("intf", "interfaces"), ("env", "environments"))
        for name in (None, *PLUGINS[kind])
    ],
)
def test_plugins_are_listed_and_described_within_a_second(word: str, name: str | None, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    empty = BadgerCommand(tmp_path / "a", tmp_path / "nothing")
    ours = BadgerCommand(tmp_path / "b", CLONE)
    without: list[tuple[float, float]] = []
    times: list[tuple[float, float]] = []
    # Best of up to three, side by side. Processor time is what a busy machine leaves as it is; a plugin that asked for
    # one PV would besides wait for three seconds.
    while not times or (len(times) < 3 and not _quick(times, without)):
        output, *seconds = ours(word, *([name] if name else []))
        times.append((seconds[0], seconds[1]))
        without.append(empty(word)[1:])
    assert _quick(times, without), (times, without)
    said = yaml.safe_load(output)
    if name is None:
        assert said == PLUGINS["interfaces" if word == "intf" else "environments"]
    else:
        assert said["name"] == name
        assert said["description"]
        assert said["params"]


def test_there_is_something_to_list() -> None:
    assert "epics_pva" in PLUGINS["interfaces"]
    assert "pv_template" in PLUGINS["environments"]


@pytest.mark.parametrize("name", [f"{kind}.{name}" for kind, names in PLUGINS.items() for name in names])
def test_a_plugin_imports_nothing_heavy(name: str, run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = (
        f"import sys, {name} as plugin\n"
        "getattr(plugin, 'Interface', getattr(plugin, 'Environment', None))()\n"
        "heavy = {'p4p', 'caproto', 'confluent_kafka', 'msgpack', 'pint', 'sqlite3', 'xopt', 'torch', 'matplotlib'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    done = run_python(code)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


@pytest.mark.parametrize("name", [f"{kind}.{name}" for kind, names in PLUGINS.items() for name in names])
def test_without_badger_an_import_says_what_to_install(
    name: str, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    code = f"""
import sys
class Hides:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "badger":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hides())
from badger_k2eg.errors import MissingExtra
try:
    import {name}
except MissingExtra as error:
    print(error)
"""
    done = run_python(code)
    assert "pip install 'badger-k2eg[badger]'" in done.stdout, done.stderr


@pytest.mark.parametrize("folder", [f"{kind}/{name}" for kind, names in PLUGINS.items() for name in names])
def test_every_plugin_has_what_badger_shows(folder: str) -> None:
    configs = yaml.safe_load((CLONE / folder / "configs.yaml").read_text())
    assert configs["name"] == Path(folder).name
    assert {"description", "version", "dependencies"} <= configs.keys()
    lines = (CLONE / folder / "README.md").read_text().splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")][1::2]
    if folder.startswith("environments"):
        assert isinstance(configs["interface"], list)
        # Badger's window loses what comes after a fence and an empty line, and spoils empty lines within one.
        assert all(lines[number + 1].strip() for number in fences if number + 1 < len(lines))


def test_a_wrong_ini_file_is_a_warning_while_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is read when the plugin is loaded, and not when an interface is made."""
    from badger_k2eg.badger_app import interface

    file = tmp_path / "site.ini"
    file.write_text("[badger_k2eg]\nreadonly = yes\n")
    monkeypatch.setenv("BADGER_K2EG_CONFIG", str(file))
    monkeypatch.setattr("badger_k2eg.badger_app.interface_options._warned", set())
    with caplog.at_level("WARNING", "badger_k2eg"):

        class Loaded(interface.ControlInterface):
            name = "loaded"
            scheme = "pva"

    (record,) = caplog.records
    Loaded()
    assert len(caplog.records) == 1
    assert str(file) in record.getMessage()
    assert "did you mean 'read_only'?" in record.getMessage()
