"""How a run ends with its process: by signals, by an error, by an exit. Each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from badger_k2eg.journal import Journal
from badger_k2eg.journal.recorded_run import RecordedRun

HEAD = """
import os, signal, sys, threading, time
from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
memory = MemoryBackend({"A": 1.0, "B": 2.0})
control = run.Attachment().attach(Control(memory))
memory.on_put("A", lambda value: print("A", value, flush=True))
def at(seconds, number):
    threading.Thread(target=lambda: (time.sleep(seconds), os.kill(os.getpid(), number)), daemon=True).start()
run.declare()
control.set({"A": 5.0})
def never(**words):
    from badger_k2eg.core.futures import sleep
    sleep(60)
def wait_in_a_call():
    with run.inside():
        control.set({"B": 6.0}, {"B": never})
"""

Ended = tuple[int, str, RecordedRun]


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Ended]:
    """Runs a program; gives exit code, output, and the record of its run."""
    places = {"BADGER_K2EG_JOURNAL_DIR": str(tmp_path / "journal"), "BADGER_K2EG_LOCK_DIR": str(tmp_path / "locks")}

    def run(body: str, **environment: str) -> Ended:
        command = [sys.executable, "-W", "error", "-c", HEAD + body]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=150, env={**os.environ, **places, **environment}
        )
        journal = Journal(tmp_path / "journal")
        return done.returncode, done.stdout + done.stderr, journal.run("last")

    return run


QUICK = {"BADGER_K2EG_RUN_RESTORE_TIMEOUT": "3"}
RESTORE = QUICK | {"BADGER_K2EG_RUN_ON_CANCELLED": "restore", "BADGER_K2EG_RUN_ON_EXCEPTION": "restore"}


@pytest.mark.parametrize("policy", ["leave", "restore"])
@pytest.mark.parametrize("body", ["wait_in_a_call()", "time.sleep(30)"], ids=["in a call", "between two calls"])
def test_sigterm_ends_run_and_process(body: str, policy: str, process: Callable[..., Ended]) -> None:
    code, output, recorded = process(f"at(0.5, signal.SIGTERM)\n{body}", BADGER_K2EG_RUN_ON_CANCELLED=policy, **QUICK)
    assert code == -signal.SIGTERM
    assert recorded.reason == "stopped"
    # The validator of the other PV never ends; that keeps nothing from its place.
    assert [line for line in output.splitlines() if line[0] == "A"] == ["A 5.0"] + ["A 1.0"] * (policy == "restore")


@pytest.mark.parametrize("body", ["wait_in_a_call()", "time.sleep(30)"], ids=["in a call", "between two calls"])
def test_ctrl_c_is_a_keyboard_interrupt_for_the_program(body: str, process: Callable[..., Ended]) -> None:
    program = f"""
at(0.5, signal.SIGINT)
try:
    {body}
except KeyboardInterrupt:
    print("interrupted", flush=True)
while run.current() is not None:
    time.sleep(0.01)
control.get(["A"])
with run.inside():
    pass
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
"""
    code, output, recorded = process(program, **RESTORE)
    assert (code, recorded.reason) == (0, "stopped")
    lines = [line for line in output.splitlines() if not line.startswith("run ")]
    assert sorted(lines) == ["A 1.0", "A 5.0", "True", "interrupted"]


def test_a_handler_of_the_programs_own_has_its_turn(process: Callable[..., Ended]) -> None:
    program = """
run.end()
signal.signal(signal.SIGTERM, lambda number, frame: print("theirs", run.current(), flush=True))
run.declare()
control.set({"A": 7.0})
at(0.5, signal.SIGTERM)
try:
    wait_in_a_call()
except Exception as error:
    print(type(error).__name__, flush=True)
"""
    code, output, recorded = process(program)
    assert (code, recorded.reason) == (0, "stopped")
    assert output.splitlines() == ["A 5.0", "A 7.0", "theirs None", "CallCancelled"]


def test_a_program_that_fails(process: Callable[..., Ended]) -> None:
    code, output, recorded = process("raise RuntimeError('the vacuum')", **RESTORE)
    assert (code, recorded.reason) == (1, "failed")
    assert "RuntimeError: the vacuum" in output
    assert "A 1.0" in output.splitlines()


def test_a_program_that_just_ends(process: Callable[..., Ended]) -> None:
    code, output, recorded = process("", **RESTORE)
    assert (code, output, recorded.reason) == (0, "A 5.0\n", "success")


def test_in_a_thread_it_goes_without_signals_and_says_so(process: Callable[..., Ended]) -> None:
    program = """
run.end()
run.declare()
thread = threading.Thread(target=control.set, args=({"A": 7.0},))
thread.start()
thread.join()
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    code, output, recorded = process(program)
    assert (code, recorded.reason) == (0, "success")
    assert output.splitlines() == ["A 5.0", "A 7.0", "True"]
    assert [r.name for r in recorded.records() if r.kind == "event"] == ["no signals"]


def test_a_forked_child_has_neither_run_nor_handlers(process: Callable[..., Ended]) -> None:
    program = """
child = os.fork()
if child == 0:
    fine = run.current() is None and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    os._exit(0 if fine else 1)
print(os.waitpid(child, 0)[1], run.current() is not None, signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
"""
    code, output, recorded = process(program)
    assert (code, recorded.reason) == (0, "success")
    assert output.splitlines() == ["A 5.0", "0 True True"]
