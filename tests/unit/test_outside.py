"""What is set outside of a run is locked and on record: a put from the shell, a procedure, the undoing of a run."""

from __future__ import annotations

import errno
import getpass
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from badger_k2eg import cli, run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core.records import Record, RecordKind
from badger_k2eg.journal import Journal
from badger_k2eg.run.pv_locks import locks
from badger_k2eg.run.restore import Restore
from badger_k2eg.run.restore_plan import Fate

Invoke = Callable[..., Result]

HOLDER = """
import sys, time
from badger_k2eg.run.pv_locks import locks
locks().take(sys.argv[1:], run="their-run")
print("READY", flush=True)
time.sleep(60)
"""


@contextmanager
def another_run(*pvs: str) -> Iterator[str]:
    """A run of another process that holds PVs; gives how it is told."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, *pvs], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "READY\n"
        yield f"is locked by {getpass.getuser()}@{socket.gethostname()} (process {process.pid}, run their-run, since "
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryBackend:
    """The machine of every command."""
    machine = MemoryBackend({"A": 1.0, "B": 2.0})
    machine.add("C", 3.0, units="mm", limits=(-5.0, 5.0))
    for place in ("badger_k2eg.cli.connection_options.connect", "badger_k2eg.control.connect"):
        monkeypatch.setattr(place, lambda way: machine)
    return machine


@pytest.fixture
def invoke(memory: MemoryBackend, journal: Journal) -> Invoke:
    return lambda *words: CliRunner().invoke(cli.main, list(words))


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def about(journal: Journal, pv: str) -> list[Record]:
    return [record for record in journal.records() if record.pv == pv]


# -- put --------------------------------------------------------------------------------------------------------------


def test_a_put_is_on_record(invoke: Invoke, memory: MemoryBackend, journal: Journal) -> None:
    done = invoke("put", "A", "5", "C", "4")
    assert (done.exit_code, memory.value("A"), memory.value("C")) == (0, 5.0, 4.0), done.output
    told = [json.loads(line) for line in invoke("log", "query", "--pv", "A", "--json").stdout.splitlines()]
    assert [each["kind"] for each in told] == ["put", "setpoint"]
    last = told[-1]
    assert (last["asked"], last["data"]["before"], last["outcome"]) == (5.0, 1.0, "applied")
    assert (last["user"], last["host"], last["process"]) == (getpass.getuser(), socket.gethostname(), os.getpid())
    # What is no number within limits is read back.
    assert last["value"] == 5.0
    assert "A = 5 (5)  APPLIED" in invoke("log", "query", "--pv", "A", "--type", "setpoint").stdout
    assert "was 1" in invoke("log", "query", "--pv", "A", "--type", "setpoint").stdout
    # It is no run: what `last` is, it is still.
    (event,) = journal.events(("set",))
    assert (event.name, event.run, event.open, journal.runs()) == ("put", None, False, [])
    assert locks().locked() == {}


def test_what_a_run_has_locked_is_refused(invoke: Invoke, memory: MemoryBackend, journal: Journal) -> None:
    with another_run("B") as told:
        refused = invoke("put", "A", "5", "B", "6")
        assert refused.exit_code == 3
        assert refused.stderr.startswith(f"nothing was set: B = 6: B {told}")
        assert (refused.stderr.count("\n"), memory.puts) == (1, [])
        (record,) = about(journal, "B")
        assert (record.kind, record.outcome, record.asked) == (RecordKind.SETPOINT, "blocked", 6)
        assert told in (record.message or "")
        asked = invoke("put", "--json", "B", "6")
        assert (asked.exit_code, json.loads(asked.stdout)["B"]["outcome"]) == (3, "blocked")
        # What it has not locked may be set.
        assert invoke("put", "A", "5").exit_code == 0
    assert invoke("put", "B", "6").exit_code == 0
    assert memory.value("B") == 6.0


def test_by_force_and_on_record(invoke: Invoke, memory: MemoryBackend, journal: Journal) -> None:
    with another_run("B") as told:
        done = invoke("put", "--force", "A", "5", "B", "6")
        assert (done.exit_code, memory.value("A"), memory.value("B")) == (0, 5.0, 6.0), done.output
        owner = locks().owner("B")
        assert owner is not None and owner.run == "their-run"
    forced, *rest = about(journal, "B")
    assert (forced.kind, forced.name, forced.level) == (RecordKind.EVENT, "forced", 30)
    assert (forced.message or "").startswith(f"set all the same, by force: B {told}")
    assert rest[-1].outcome == "applied"
    assert "forced" not in [record.name for record in about(journal, "A")]


def test_force_is_for_locks_alone(invoke: Invoke, memory: MemoryBackend, journal: Journal) -> None:
    refused = invoke("put", "--force", "C", "99")
    assert (refused.exit_code, refused.stderr.count("\n"), memory.puts) == (3, 1, [])
    assert "drive limits" in refused.stderr


def test_read_only(invoke: Invoke, memory: MemoryBackend, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "yes")
    only = invoke("put", "A", "5", "B", "6")
    assert (only.exit_code, only.stdout) == (3, "A = 5: not set (read-only)\nB = 6: not set (read-only)\n")
    assert memory.puts == []
    assert [record.outcome for record in about(journal, "A")] == ["skipped"]
    with another_run("B"):
        # It disturbs nobody, and nobody it.
        assert "not set (read-only)" in invoke("put", "--force", "B", "6").stdout
    assert memory.puts == []


@pytest.mark.parametrize("words", [(), ("--force",)])
@pytest.mark.parametrize("reason", ["no place", "full disk"])
def test_no_record_no_put(
    reason: str,
    words: tuple[str, ...],
    invoke: Invoke,
    memory: MemoryBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if reason == "no place":
        (tmp_path / "journal").write_text("not a directory")
    else:
        monkeypatch.setattr("badger_k2eg.journal.writer.Writer._put", full_disk)
    done = invoke("put", *words, "A", "5")
    assert (done.exit_code, done.stderr.count("\n"), memory.puts) == (1, 1, []), done.stderr
    assert done.stderr.startswith("no record on disk, so nothing is set: the journal in ")


def test_without_a_journal(invoke: Invoke, memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_ENABLED", "no")
    assert (invoke("put", "A", "5").exit_code, memory.value("A")) == (0, 5.0)


# -- procedures -------------------------------------------------------------------------------------------------------


def test_a_procedure(
    invoke: Invoke, memory: MemoryBackend, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "procedure_of_this_test.py").write_text(
        "def turn(control):\n    for value in (4.0, 5.0):\n        control.set({'A': value, 'B': value})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    turn = ("procedure", "--quiet", "procedure_of_this_test:turn")
    with another_run("B") as told:
        refused = invoke(*turn)
        assert (refused.exit_code, refused.stderr.count("\n"), memory.puts) == (3, 1, [])
        assert f"B = 4.0: B {told}" in refused.stderr
        assert about(journal, "B")[-1].outcome == "blocked"
        forced = invoke(*turn, "--force")
        assert (forced.exit_code, memory.value("B")) == (0, 5.0), forced.output
    recorded = journal.run("last")
    assert (recorded.reason, recorded.manifest["force"]) == ("success", True)
    (event,) = [r for r in recorded.records() if r.name == "forced"]
    assert event.pv == "B" and told in (event.message or "")
    assert invoke(*turn).exit_code == 0


# -- the undoing of a run ---------------------------------------------------------------------------------------------


def test_a_restore(invoke: Invoke, memory: MemoryBackend, journal: Journal) -> None:
    run.Attachment().attach(Control(memory)).set({"A": 5.0, "B": 6.0})
    run.end()
    with another_run("B") as told:
        looked = invoke("runs", "restore", "last", "--dry-run", "--json")
        fates = {each["pv"]: (each["fate"], each["message"]) for each in json.loads(looked.stdout)["pvs"]}
        assert fates["A"] == ("to do", "") and fates["B"][0] == "blocked" and told in fates["B"][1]
        refused = invoke("runs", "restore", "last", "--yes")
        assert (refused.exit_code, memory.value("A"), memory.value("B")) == (3, 1.0, 6.0)
        assert f"\nB: blocked, B {told}" in refused.stdout
        forced = invoke("runs", "restore", "last", "--yes", "--force")
        assert (forced.exit_code, memory.value("B")) == (0, 2.0), forced.output
    recorded = journal.run("last")
    begins = [record.data for record in recorded.records() if record.kind is RecordKind.RESTORE_BEGIN]
    assert begins == [None, {"force": True}]
    (event,) = [record for record in recorded.records() if record.name == "forced"]
    assert event.pv == "B" and told in (event.message or "")
    last = [record for record in about(journal, "B") if record.kind is RecordKind.SETPOINT][-1]
    assert (last.run, last.asked, last.outcome, (last.data or {})["before"]) == (recorded.id, 2.0, "applied", 6.0)


def test_a_restore_writes_json_that_every_reader_takes(invoke: Invoke, memory: MemoryBackend, journal: Journal) -> None:
    """NaN and infinity are no numbers of JSON: they are texts, as in the other commands."""
    memory.add("W", [1.0, 2.0])
    run.Attachment().attach(Control(memory)).set({"A": 5.0, "W": [3.0, 4.0]})
    run.end()
    memory.post("A", math.nan)
    memory.post("W", [math.inf, 4.0])
    looked = invoke("runs", "restore", "last", "--dry-run", "--json")

    def refused(word: str) -> None:
        raise AssertionError(word)

    told = {each["pv"]: each["now"] for each in json.loads(looked.stdout, parse_constant=refused)["pvs"]}
    assert told == {"A": "nan", "W": ["inf", 4.0]}


def test_a_restore_is_not_kept_by_a_full_disk(memory: MemoryBackend, journal: Journal, monkeypatch: Any) -> None:
    run.Attachment().attach(Control(memory)).set({"A": 5.0})
    run.end()
    restore = Restore(Control(memory), journal, "last")
    monkeypatch.setattr("badger_k2eg.journal.writer.Writer._put", full_disk)
    restore.run()
    assert ([step.fate for step in restore.steps], memory.value("A")) == ([Fate.RESTORED], 1.0)
