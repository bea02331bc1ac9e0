"""``badger-k2eg runs``: what a user types, and what comes; exports, and how a change is found out."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from badger_k2eg.core.records import Record
from badger_k2eg.journal import Journal, export
from badger_k2eg.journal.segments import listed

from .recorded import FIRST, SECOND, K, answer, command, record_run

# -- runs ------------------------------------------------------------------------------------------------------------


def test_list_is_one_list_of_objects(journal: Journal) -> None:
    record_run(journal, "20260103-open", 0, end=None)
    first, second, third = answer("runs", "list")
    assert (first["run"], first["reason"], first["evaluations"], first["best"]) == (FIRST, "success", 3, 3)
    assert (second["run"], second["reason"], second["ended"] > second["started"]) == (SECOND, "stopped", True)
    assert (third["run"], third["reason"], third["ended"], third["state"]) == ("20260103-open", None, None, "open")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["started"])
    shown = command("runs", "list").stdout
    assert FIRST in shown and "stopped" in shown and "open" in shown
    assert [run["run"] for run in answer("runs", "list", "--state", "stopped")] == [SECOND]
    assert [run["run"] for run in answer("runs", "list", "--limit", "1")] == ["20260103-open"]
    assert answer("runs", "list", "--until", "1h") == []
    journal.write(Record(kind=K.RUN_BEGIN, run="20260104-dead", process=2**22 + 1))
    crashed = answer("runs", "list", "--state", "open")[-1]
    assert (crashed["run"], crashed["state"], crashed["ended"]) == ("20260104-dead", "crashed", None)
    assert "open (crashed)" in command("runs", "list").stdout


def test_show_has_evaluations_baseline_and_the_slowest_pvs(journal: Journal) -> None:
    found = answer("runs", "show", FIRST)
    assert [each["asked"]["Q:1"] for each in found["evaluations"]] == [1.0, 2.0, 3.0]
    assert found["evaluations"][1]["readings"] == {"size": 5.0}
    assert [each["ok"] for each in found["evaluations"]] == [True, True, False]
    assert found["baseline"]["Q:1"]["value"] == 0.5
    tail = {"p95": pytest.approx(0.29), "p99": pytest.approx(0.298)}
    assert found["latencies"]["Q:1"] == {"count": 3, "p50": 0.2} | tail
    assert list(found["latencies"]) == ["Q:1", "Q:2"]
    assert (found["started"], found["reason"]) == (answer("runs", "list")[0]["started"], "success")
    shown = command("runs", "show", FIRST).stdout
    for words in ("environment  demo", "best         evaluation 3", "Q:2 refused", "200.0 ms", "0.5 kG"):
        assert words in shown


def test_a_wide_run_is_shown_in_part(journal: Journal) -> None:
    journal.write(Record(kind=K.RUN_BEGIN, run="wide"), Record(kind=K.EVALUATION_BEGIN, run="wide", evaluation=1))
    journal.write(*(Record(kind=K.PUT, run="wide", evaluation=1, pv=f"P:{n}", asked=1.0 * n) for n in range(40)))
    shown = command("runs", "show", "wide").stdout
    assert "P:5" in shown and "and 34 more setpoints and readings: --json has all" in shown
    assert len(answer("runs", "show", "wide")["evaluations"][0]["asked"]) == 40


def test_tags_notes_names_and_parents(journal: Journal) -> None:
    assert answer("runs", "tag", FIRST, "charge=0.25", "operator=Ada")["tags"] == {"charge": 0.25, "operator": "Ada"}
    command("runs", "tag", SECOND, "charge=0.5")
    for words, runs in (
        ("charge=0.2..0.3", [FIRST]),
        ("charge>0.25", [SECOND]),
        ("charge", [FIRST, SECOND]),
        ("operator=A*", [FIRST]),
    ):
        assert [run["run"] for run in answer("runs", "list", "--tag", words)] == runs
    assert answer("runs", "tag", FIRST, "--remove", "operator")["tags"] == {"charge": 0.25}
    command("runs", "note", FIRST, "beam was good")
    command("runs", "rename", FIRST, "golden")
    command("runs", "link", "last", "golden")
    assert answer("runs", "show", "last")["parent"] == FIRST
    shown = command("runs", "show", "golden").stdout
    assert "beam was good" in shown and "charge=0.25" in shown
    assert "a run cannot be its own ancestor" in command("runs", "link", FIRST, SECOND, code=1).stderr


def test_diff_of_two_runs(journal: Journal) -> None:
    found = answer("runs", "diff", FIRST, SECOND)
    assert found["setpoints"] == [
        {"pv": "Q:1", "unit": "kG", "left": 3.0, "right": 4.25, "difference": 1.25},
        {"pv": "Q:2", "unit": "kG", "left": -2.0, "right": -2.75, "difference": -0.75},
    ]
    assert found["manifest"] == []
    assert answer("runs", "diff", FIRST, SECOND, "--at", "start")["setpoints"] == []
    assert answer("runs", "diff", FIRST, SECOND, "--at", "1")["setpoints"][0]["right"] == 1.25
    assert "no difference" in command("runs", "diff", FIRST, FIRST).stdout
    assert "+1.25" in command("runs", "diff", FIRST, SECOND).stdout


def test_a_picture(journal: Journal, tmp_path: Path) -> None:
    command("runs", "plot", FIRST)
    picture = (tmp_path / f"{FIRST}.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    record_run(journal, "20260105-empty", 0)
    assert "nothing to draw" in command("runs", "plot", "last", code=2).stderr


# -- export, verify --------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(journal: Journal, tmp_path: Path) -> Path:
    (tmp_path / "screen.txt").write_text("a picture")
    command("runs", "attach", FIRST, "screen.txt")
    journal.write(Record(kind=K.SAMPLE, run=FIRST, pv="WAVE", value=[1.0, float("nan")]))
    command("runs", "export", FIRST)
    return tmp_path / f"{FIRST}.zip"


def test_an_export_has_everything_and_is_whole(journal: Journal, exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        names = set(archive.namelist())
        rows = list(csv.DictReader(io.StringIO(archive.read("puts.csv").decode())))
        evaluations = list(csv.DictReader(io.StringIO(archive.read("evaluations.csv").decode())))
        manifest = json.loads(archive.read("manifest.json"))
        samples = archive.read("samples.csv").decode()
        archive.extractall(tmp_path / "out")
    assert names == {
        "records.ndjson", "evaluations.csv", "puts.csv", "baseline.csv", "reads.csv", "samples.csv",
        "attachments/screen.txt", "manifest.json", "SHA256SUMS",
    }  # fmt: skip
    assert [(row["pv"], row["asked"], row["outcome"]) for row in rows][-1] == ("Q:2", "-3.0", "refused")
    assert [row["asked Q:1"] for row in evaluations] == ["1.0", "2.0", "3.0"] and evaluations[0]["read size"] == "10.0"
    assert (manifest["run"], manifest["reason"], manifest["schema"]) == (FIRST, "success", 1)
    assert '[1.0, {""$float"": ""nan""}]' in samples
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert command("runs", "verify", str(exported)).stdout == f"{exported}: whole\n"
    assert answer("runs", "verify", FIRST) == {"checked": f"run {FIRST}", "whole": True, "wrong": []}
    again = command("runs", "export", FIRST, code=2).stderr
    assert "is there already; --force writes over it" in again


def test_an_export_is_read_like_a_journal(journal: Journal, exported: Path) -> None:
    with export.opened(exported) as run:
        assert (run.id, run.reason, run.setpoints(2)) == (FIRST, "success", {"Q:1": 2.0, "Q:2": -2.0})
        assert [record.line for record in run.records()] == [r.line for r in journal.run(FIRST).records()]
        assert [each.readings for each in run.evaluations()] == [{"size": 10.0}, {"size": 5.0}, {"size": 10.0 / 3}]


def _change(file: Path, name: str, content: bytes | None) -> None:
    with zipfile.ZipFile(file) as archive:
        found = {each: archive.read(each) for each in archive.namelist()}
    if content is None:
        del found[name]
    else:
        found[name] = content
    with zipfile.ZipFile(file, "w") as archive:
        for each, text in found.items():
            archive.writestr(each, text)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("puts.csv", b"pv\n", "puts.csv: its checksum does not match"),
        ("records.ndjson", None, "records.ndjson: is missing, or damaged"),
        ("virus.exe", b"MZ", "virus.exe: does not belong to the export"),
    ],
)
def test_a_changed_export_is_found_out(exported: Path, name: str, content: bytes | None, said: str) -> None:
    _change(exported, name, content)
    done = command("runs", "verify", str(exported), code=1)
    assert done.stderr == f"{exported}: {said}\n"


def test_what_is_no_export_is_one_line(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"no zip at all")
    assert "is not an export of a run, or is damaged" in command("runs", "verify", "x.zip", code=1).stderr
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("a", b"b")
    assert "is not an export of a run: it has no manifest.json" in command("runs", "verify", "y.zip", code=1).stderr
    assert "No such file" in command("runs", "verify", "z.zip", code=2).stderr


def test_a_run_changed_by_hand_is_found_out(journal: Journal, exported: Path, folder: Path) -> None:
    path = listed(folder)[0].path
    path.write_bytes(path.read_bytes().replace(b'"asked":2.0', b'"asked":2.5', 1))
    (folder / "attachments" / FIRST / "screen.txt").write_text("another picture")
    done = command("runs", "verify", FIRST, code=1)
    said = [line for line in done.stderr.splitlines() if line.startswith("run ")]
    assert len(said) == 2
    assert re.search(r"line \d+ was edited by hand: its checksum does not match", said[0])
    assert said[1].endswith("screen.txt: its checksum does not match")
    assert "[edited by hand]" in command("log", "show", FIRST).stdout
