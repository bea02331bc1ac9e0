"""``badger-k2eg doctor``: the table, its JSON, and the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from badger_k2eg.cli import doctor_checks
from badger_k2eg.cli.doctor_checks import badger as badger_check
from badger_k2eg.cli.doctor_checks import window as window_check
from badger_k2eg.testing.soft_ioc import SoftIoc
from examples.first_ioc.part import FirstIoc
from tests.rig.pace import pace

from .routines import PATIENT

CLONE = Path(__file__).parents[2]


def doctor(*words: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "badger_k2eg.cli", "doctor", *words],
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, "HOME": str(home), "COLUMNS": "160", **PATIENT, **environment},
        stdin=subprocess.DEVNULL,
        timeout=150,
    )


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    told = json.loads(done.stdout)
    assert told["good"] == (done.returncode == 0)
    return {each["what"]: (each["status"], each["text"]) for each in told["findings"]}


def test_a_good_setup(tmp_path: Path, first_ioc: FirstIoc) -> None:
    done = doctor("--environment", "pv_template", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout and done.stderr == ""
    assert "all is well" in done.stdout
    assert re.search(r"✓ │ Badger +│ 1\.6", done.stdout)
    assert re.search(r"interfaces +│ .*epics_pva", done.stdout)
    # Two setpoints and a size.
    assert re.search(r"pv_template +│ answering: 3 of 3", done.stdout)
    # It has written nothing, not even a configuration.
    assert list(tmp_path.iterdir()) == []


def test_pvs_that_do_not_answer_cost_one_timeout_and_are_named(tmp_path: Path, soft_ioc: SoftIoc) -> None:
    dead = [f"NOBODY:{number}" for number in range(20)]
    done = doctor("--json", soft_ioc.pv("DBL"), soft_ioc.pv("UDF"), *dead, home=tmp_path, BADGER_K2EG_TIMEOUT="5")
    assert done.returncode == 1
    found = findings(done)
    status, text = found["PVs"]
    # An alarm is the machine's affair: it answers.
    assert (status, text.split(",")[0]) == ("bad", "answering: 2 of 22")
    assert float(re.findall(r"after ([\d.]+) s", text)[0]) < 10.0 * pace()
    assert found[soft_ioc.pv("UDF")][0] == "note"
    assert {found[pv][0] for pv in dead} == {"bad"}
    assert "EPICS_PVA_ADDR_LIST" in found


def test_parameters_of_the_environment_count(tmp_path: Path, soft_ioc: SoftIoc) -> None:
    pvs = [word for name in ("x0", "x1", "f") for word in ("--set", f"{name}={soft_ioc.pv('DBL')}")]
    assert findings(doctor("--json", "--environment", "pv_template", *pvs, home=tmp_path))["pv_template"][0] == "good"
    done = doctor("--json", "--environment", "pv_template", "--set", "x3=1", home=tmp_path)
    assert done.returncode == 1
    assert "there is no parameter 'x3'" in findings(done)["pv_template"][1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--environment", "pv_templat"), "there is no environment 'pv_templat'; did you mean 'pv_template'?"),
        (("pv_template",), "pv_template is an environment, not a PV: --environment pv_template"),
        (("not a PV",), "not a PV: malformed name"),
        (("--enviroment", "x"), "Did you mean '--environment'?"),
        (("--set", "x0=1"), "--set is for the parameters of an --environment"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = doctor(*words, home=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_misspelt_option_is_a_finding_and_nothing_is_read(tmp_path: Path) -> None:
    done = doctor("--json", "NOBODY:1", home=tmp_path, BADGER_K2EG_REDONLY="yes")
    found = findings(done)
    assert done.returncode == 1
    assert found["options"][0] == "bad" and "did you mean 'read_only'?" in found["options"][1]
    assert "NOBODY:1" not in found


@pytest.mark.parametrize("variable", ["BADGER_K2EG_POLICY", "BADGER_K2EG_CONFIG"])
def test_a_policy_that_cannot_be_read_is_a_finding_and_nothing_is_read(tmp_path: Path, variable: str) -> None:
    (file := tmp_path / "site.ini").write_text("[Badger_k2eg]\nread_only = yes\n")
    done = doctor("--json", "NOBODY:1", home=tmp_path, **{variable: str(file)})
    found = findings(done)
    assert done.returncode == 1
    reason = f"{file}: unknown section [Badger_k2eg]; did you mean [badger_k2eg]?"
    assert found["options"] == ("bad", reason)
    assert "NOBODY:1" not in found


def test_a_broken_configuration_is_a_finding(tmp_path: Path) -> None:
    (file := tmp_path / "broken.yaml").write_text("a: [")
    done = doctor("--json", "--config", str(file), home=tmp_path)
    assert (done.returncode, findings(done)["configuration"][0]) == (1, "bad")


def test_folders_that_cannot_be_used_are_findings(tmp_path: Path) -> None:
    (archive := tmp_path / "archive").write_text("a file, where a folder should be")
    roots = {"PLUGIN_ROOT": tmp_path, "ARCHIVE_ROOT": archive, "TEMPLATE_ROOT": "x", "LOGBOOK_ROOT": "x"}
    file = tmp_path / "badger.yaml"
    file.write_text("".join(f"BADGER_{name}: {folder}\n" for name, folder in roots.items()))
    done = doctor("--json", "--config", str(file), home=tmp_path)
    found = findings(done)
    assert done.returncode == 1
    assert found["plugin root"][0] == "bad" and "none of the interfaces of badger-k2eg" in found["plugin root"][1]
    assert found["archive"][0] == "bad" and str(archive) in found["archive"][1]


# -- single checks ----------------------------------------------------------------------------------------------------


def only(module: Any) -> dict[str, tuple[str, str]]:
    return {each.what: (each.status, each.text) for each in module.check(doctor_checks.Subject())}


@pytest.mark.parametrize(
    ("version", "status"),
    [("1.6.0", "good"), ("1.6.7", "good"), ("1.6.1rc2", "good"), ("1.7.0", "bad"), ("1.5.9", "bad"), ("2.0", "bad")],
)
def test_a_badger_that_was_not_tested_is_told(version: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    found, text = only(badger_check)["Badger"]
    assert found == status
    assert version in text
    assert found == "good" or "pip install 'badger-opt>=1.6,<1.7'" in text


def test_the_range_is_the_one_that_is_pinned() -> None:
    lower, upper = badger_check.TESTED
    assert f'badger = ["badger-opt>={lower},<{upper}"]' in (CLONE / "pyproject.toml").read_text()


def test_a_qt_that_does_not_load_is_bad_and_no_display_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_check, "display_problem", lambda: "there is no display")
    assert only(window_check)["display"] == ("note", "there is no display")
    monkeypatch.setattr(window_check, "qt_problem", lambda: "apt install libgl1")
    assert only(window_check) == {"Qt": ("bad", "apt install libgl1")}


def test_addresses_that_lead_nowhere_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from badger_k2eg.cli.doctor_checks import pvs

    monkeypatch.setenv("EPICS_PVA_ADDR_LIST", "")
    monkeypatch.setenv("EPICS_PVA_AUTO_ADDR_LIST", "NO")
    assert only(pvs)["EPICS_PVA_ADDR_LIST"][0] == "bad"
    monkeypatch.setenv("EPICS_PVA_ADDR_LIST", "ioc1:5076 ioc2")
    assert only(pvs)["EPICS_PVA_ADDR_LIST"] == ("good", "PVs are searched for at ioc1:5076, ioc2")


def test_the_table_is_made_of_every_module() -> None:
    from badger_k2eg.cli.doctor import doctor as command

    folder = Path(doctor_checks.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(doctor_checks.MODULES)
    assert "[PV]..." in CliRunner().invoke(command, ["--help"]).output


def test_every_pv_of_an_environment_is_looked_at() -> None:
    from environments.fel_linac import Environment

    pvs = Environment(linac="L", detector="D").pvs()
    assert len(pvs) == len(set(pvs))
    # Setpoint, readback, status, buffer, its rate, a part of a formula, a condition.
    kinds = ("L:QUAD:1:BCTRL", "L:QUAD:1:BACT", "L:QUAD:1:STATMSG", "L:D:ENRCHSTBR", "L:BEAM:RATE", "L:BEAM:PERMIT")
    assert set(kinds) <= set(pvs), pvs
