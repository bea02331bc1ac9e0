"""The clock of the package, and the virtual one of tests: exact, and never ahead of what a thread is about to do."""

from __future__ import annotations

import ast
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from badger_k2eg.core import clock, futures
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.errors import CallCancelled
from badger_k2eg.testing import virtual_clock as room
from badger_k2eg.testing.virtual_clock import VirtualClock

ROOT = Path(__file__).parents[2]
#: Two looks at the clock differ by a nanosecond.
NEARLY = 1e-6


# -- the machine's own ------------------------------------------------------------------------------------------------


@pytest.mark.real_time("it is looked at itself")
def test_the_machines_clock_is_the_standard_librarys() -> None:
    assert type(clock.event()) is threading.Event and type(clock.simple_queue()) is queue.SimpleQueue
    assert time.monotonic() <= clock.monotonic() <= time.monotonic()
    assert time.time_ns() <= clock.time_ns() <= time.time_ns() and abs(clock.time() - time.time()) < 60.0
    began = time.monotonic()
    clock.sleep(0.05)
    condition = threading.Condition()
    with condition:
        clock.wait(condition, 0.05)
    assert time.monotonic() - began >= 0.1


@pytest.mark.real_time("it is looked at itself")
def test_a_deadline_takes_as_long_as_it_says() -> None:
    began, deadline = time.monotonic(), Deadline(0.05)
    futures.sleep(30.0, deadline)
    assert time.monotonic() - began >= 0.05 and deadline.expired


# -- the virtual one --------------------------------------------------------------------------------------------------


def test_an_hour_takes_no_time(virtual_clock: VirtualClock) -> None:
    began, day, real = clock.monotonic(), clock.time_ns(), time.monotonic()
    clock.sleep(3600.0)
    assert clock.monotonic() - began == pytest.approx(3600.0, abs=NEARLY)
    assert clock.time_ns() - day == pytest.approx(3600e9, abs=1000) and time.monotonic() - real < 600.0


def test_each_thread_wakes_at_its_time(virtual_clock: VirtualClock) -> None:
    began, woke = clock.monotonic(), []
    delays = [0.5, 0.1, 20.0, 0.3, 0.1001]
    threads = [virtual_clock.later(delay, lambda: woke.append(clock.monotonic() - began)) for delay in delays]
    for thread in threads:
        thread.join()
    assert woke == [pytest.approx(delay, abs=NEARLY) for delay in sorted(delays)]


def test_nobody_who_is_at_work_is_overtaken(virtual_clock: VirtualClock) -> None:
    """Eight threads that compute, write to the disk and hand over to each other, and sleep between: all are exact."""
    wrong: list[float] = []
    turns = [threading.Lock() for _ in range(4)]

    def work(seed: int) -> None:
        random_ = random.Random(seed)
        for _ in range(15):
            pause = random_.uniform(1e-4, 1e-2)
            began = clock.monotonic()
            clock.sleep(pause)
            with turns[seed % 4]:
                if random_.random() < 0.2:
                    with open(os.devnull, "wb") as file:
                        file.write(b"x" * 4096)
                end = time.thread_time() + random_.uniform(0.0, 0.004)
                while time.thread_time() < end:
                    pass
            took = clock.monotonic() - began
            if abs(took - pause) > NEARLY:
                wrong.append(took - pause)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_queue_and_an_event(virtual_clock: VirtualClock) -> None:
    news, told = clock.simple_queue(), clock.event()
    began = clock.monotonic()
    for word in ("first", "second"):
        news.put(word)
    assert news.get() == "first" and news.get(timeout=9.0) == "second" and clock.monotonic() - began < NEARLY
    with pytest.raises(queue.Empty):
        news.get(block=False)
    with pytest.raises(queue.Empty):
        news.get(timeout=2.0)
    virtual_clock.later(1.0, lambda: news.put("third"))
    assert news.get(timeout=5.0) == "third" and clock.monotonic() - began == pytest.approx(3.0, abs=NEARLY)
    assert not told.wait(2.0) and not told.is_set()
    virtual_clock.later(1.0, told.set)
    assert told.wait() and told.wait(0.0) and clock.monotonic() - began == pytest.approx(6.0, abs=NEARLY)


def test_who_waits_for_ever_moves_no_time(virtual_clock: VirtualClock) -> None:
    began, deadline = clock.monotonic(), Deadline()
    timer = threading.Timer(0.2, deadline.cancel)
    timer.start()
    with pytest.raises(CallCancelled):
        futures.sleep(-1, deadline)
    assert clock.monotonic() - began < NEARLY
    timer.join()


def test_a_cancel_is_at_its_time(virtual_clock: VirtualClock) -> None:
    began, deadline = clock.monotonic(), Deadline(30.0)
    virtual_clock.later(0.25, deadline.cancel)
    with pytest.raises(CallCancelled):
        futures.sleep(10.0, deadline)
    assert clock.monotonic() - began == pytest.approx(0.25, abs=NEARLY)


def test_a_signal_in_a_wait(virtual_clock: VirtualClock) -> None:
    deadline = Deadline()
    previous = signal.signal(signal.SIGVTALRM, lambda number, frame: deadline.cancel())
    try:
        virtual_clock.later(5.0, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGVTALRM))
        with pytest.raises(CallCancelled):
            futures.sleep(60.0, deadline)
    finally:
        signal.signal(signal.SIGVTALRM, previous)


def test_it_stands_still_for_what_it_cannot_see(virtual_clock: VirtualClock) -> None:
    began, woke = clock.monotonic(), []
    virtual_clock.later(1.0, lambda: woke.append(clock.monotonic() - began))
    with virtual_clock.standstill(), virtual_clock.standstill():
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)"], check=True)
    assert not woke
    clock.sleep(1.0)
    assert woke == [pytest.approx(1.0, abs=NEARLY)]


def test_one_who_keeps_the_lock_of_another_while_he_sleeps(virtual_clock: VirtualClock) -> None:
    """As with the machine's clock, the other one goes on late; and time goes on."""
    began, condition, woke = clock.monotonic(), threading.Condition(), []

    def wait() -> None:
        with condition:
            clock.wait(condition, 1.0)
            woke.append(clock.monotonic() - began)

    waits = threading.Thread(target=wait)
    waits.start()
    clock.sleep(0.5)
    with condition:
        clock.sleep(2.0)
    waits.join()
    assert woke == [pytest.approx(2.5, abs=NEARLY)]


def test_a_forked_child_goes_on_by_itself(virtual_clock: VirtualClock) -> None:
    clock.sleep(100.0)
    began = clock.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            clock.sleep(50.0)
            status = 0 if abs(clock.monotonic() - began - 50.0) < NEARLY else 2
        finally:
            os._exit(status)
    with virtual_clock.standstill():
        assert os.waitpid(child, 0)[1] == 0
    clock.sleep(1.0)
    assert clock.monotonic() - began == pytest.approx(1.0, abs=NEARLY)


def test_where_the_kernel_does_not_tell_of_threads(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_TASKS", "/nowhere")
    began, told = clock.monotonic(), clock.event()
    clock.sleep(3600.0)
    assert clock.monotonic() - began == pytest.approx(3600.0, abs=NEARLY)
    virtual_clock.later(3600.0, told.set)
    assert not told.wait(1800.0) and told.wait()
    assert clock.monotonic() - began == pytest.approx(7200.0, abs=NEARLY)


@pytest.mark.real_time("it ends in the test")
def test_after_its_end_who_still_waits_goes_by_the_machines_clock() -> None:
    with VirtualClock() as virtual:
        told, end = clock.event(), clock.monotonic() + 5.0
        long = virtual.later(5.05, lambda: None)
        virtual.sleep(5.0)
        waits = threading.Thread(target=told.wait)
        waits.start()
    assert type(clock.event()) is threading.Event
    assert virtual.monotonic() >= end and not told.wait(0.01)
    told.set()
    for thread in (long, waits):
        thread.join(30.0)
        assert not thread.is_alive()
    virtual.close()


# -- nobody goes past it ----------------------------------------------------------------------------------------------

#: Who waits for somebody else, and for whom.
PAST_IT = {
    "core/clock.py": "it is the clock",
    "testing": "servers and processes of tests; the virtual clock itself",
    "kafka": "a broker, through librdkafka",
    "backends/ca": "servers, by select()",
    "backends/in_flight.py": "servers, through their clients",
    "cli": "a person, child processes, and how long real work takes",
}
_OF_TIME = {"monotonic", "monotonic_ns", "perf_counter", "sleep", "time", "time_ns"}


def uses_of_time(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found.append(f"line {node.lineno}: from time import")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "time" and node.attr in _OF_TIME:
                found.append(f"line {node.lineno}: time.{node.attr}")
            if node.value.id == "threading" and node.attr == "Timer":
                found.append(f"line {node.lineno}: threading.Timer")
    return found


def test_tests_wait_by_the_clock_alone() -> None:
    """In tests/unit and tests/contract; what they start as another process has its own time."""
    found = {}
    for folder in ("unit", "contract"):
        for path in sorted((ROOT / "tests" / folder).rglob("*.py")):
            uses = [use for use in uses_of_time(path) if use.endswith((".sleep", ".Timer", "import"))]
            if uses and path != Path(__file__):
                found[path.name] = uses
    assert not found, "ask badger_k2eg.core.clock instead"


def test_the_package_takes_its_time_from_the_clock_alone() -> None:
    package = ROOT / "badger_k2eg"
    found = {
        name: uses
        for path in sorted(package.rglob("*.py"))
        if not any(Path(name := path.relative_to(package).as_posix()).is_relative_to(past) for past in PAST_IT)
        and (uses := uses_of_time(path))
    }
    assert not found, "ask badger_k2eg.core.clock instead"
    assert all((package / past).exists() for past in PAST_IT)
