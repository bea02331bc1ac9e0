"""``max_failures`` with many threads: an evaluation is its thread's own, fails once, and keeps its place in the row."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.control.rates import Failures
from badger_k2eg.core import futures
from badger_k2eg.core.model import Severity
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.errors import PutRefused, ReadError, SetpointBlocked


class Worker:
    """A thread that does one thing after the other, each when it is told to."""

    def __init__(self) -> None:
        self._work: queue.Queue[tuple[Callable[[], Any], Future[Any]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (told := self._work.get()) is not None:
            work, future = told
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

    def __call__(self, work: Callable[[], Any]) -> Any:
        """Let it do this, and wait."""
        future: Future[Any] = Future()
        self._work.put((work, future))
        return future.result(10.0)

    def end(self) -> None:
        self._work.put(None)
        self._thread.join()


@pytest.fixture
def memory() -> Iterator[MemoryBackend]:
    machine = MemoryBackend({"GOOD": 0.0, "REFUSED": 0.0, "OTHER": 0.0, "THIRD": 0.0})
    machine.fault("REFUSED", "refused")
    machine.add("INVALID", 0.0, severity=Severity.INVALID, message="LINK")
    yield machine
    machine.close()


@pytest.fixture
def control(memory: MemoryBackend) -> Control:
    return Control(memory, resolve([parse({"max_failures": 2, "timeout": 5.0}, str)]))


@pytest.fixture
def first() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.end()


@pytest.fixture
def second() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.end()


class Machine:
    """What a thread does, and whether it goes well."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def set(self, **how: Any) -> Any:
        return self.control.set({"GOOD": 1.0}, **how)

    def set_badly(self) -> None:
        with pytest.raises(PutRefused):
            self.control.set({"REFUSED": 1.0})

    def get(self) -> None:
        self.control.get(["GOOD"])

    def get_badly(self) -> None:
        with pytest.raises(ReadError):
            self.control.get(["INVALID"])

    def is_paused(self) -> None:
        with pytest.raises(SetpointBlocked, match="paused after 2 failed evaluations in a row"):
            self.control.set({"GOOD": 1.0})


@pytest.fixture
def machine(control: Control) -> Machine:
    return Machine(control)


def test_each_thread_fails_its_own_evaluation(machine: Machine, first: Worker, second: Worker) -> None:
    first(machine.set)
    second(machine.set)
    second(machine.get_badly)
    first(machine.get_badly)
    first(machine.is_paused)
    second(machine.is_paused)


def test_an_evaluation_fails_once_whatever_others_begin_meanwhile(
    machine: Machine, first: Worker, second: Worker
) -> None:
    first(machine.set)
    first(machine.get_badly)
    for _ in range(3):
        second(machine.set)
        first(machine.get_badly)
    second(machine.set)


def test_a_good_one_that_began_later_ends_the_row(machine: Machine, first: Worker, second: Worker) -> None:
    first(machine.set_badly)
    second(machine.set)
    second(machine.set)  # and now the one before is known to be good
    first(machine.set_badly)
    second(machine.set)
    second(machine.get_badly)
    second(machine.is_paused)


def test_a_good_one_that_began_before_does_not(machine: Machine, first: Worker, second: Worker) -> None:
    second(machine.set)
    first(machine.set_badly)
    second(machine.set)
    first(machine.set_badly)
    first(machine.is_paused)


def test_a_late_failure_of_an_old_one_does_not_count(machine: Machine, first: Worker, second: Worker) -> None:
    first(machine.set)
    second(machine.set)
    second(machine.set_badly)
    first(machine.get_badly)  # it began before one that was good
    second(machine.set)
    second(machine.get)


def test_what_is_only_read_is_no_evaluation(machine: Machine, first: Worker, second: Worker) -> None:
    for _ in range(3):
        first(machine.set)
        second(machine.get_badly)
    first(machine.set)


def test_a_pause_does_not_count_itself(machine: Machine, first: Worker, second: Worker) -> None:
    second(machine.set)
    first(machine.set_badly)
    first(machine.set_badly)
    for _ in range(3):
        first(machine.is_paused)
        first(machine.get_badly)
    machine.control.resume()
    first(machine.get_badly)  # of what was before
    first(machine.set)
    second(machine.set)


def test_a_set_in_the_background_is_of_the_thread_that_asked_for_it(machine: Machine) -> None:
    for _ in range(2):
        machine.set(callback=None).result(10.0)
        machine.get_badly()
    machine.is_paused()
    machine.control.resume()
    for _ in range(2):
        machine.set()
        with pytest.raises(ReadError):
            machine.control.get(["INVALID"], callback=None).result(10.0)
    machine.is_paused()


def test_a_task_in_the_background_has_evaluations_of_its_own(machine: Machine) -> None:
    def task() -> None:
        machine.set()
        machine.get_badly()

    machine.set()
    futures.background(task).result(10.0)
    machine.get_badly()
    machine.is_paused()


@pytest.mark.parametrize("aside", [False, True], ids=["alone", "in a thread of its own"])
def test_what_a_validator_sets_is_a_part_of_the_evaluation(machine: Machine, aside: bool) -> None:
    def validate(*, set_pv: str, set_value: float, context: Any, timeout: float) -> None:
        context.put("OTHER", set_value)

    machine.control.settings = machine.control.settings.model_copy(update={"parallel": aside})
    values = {"GOOD": 1.0, "THIRD": 1.0} if aside else {"GOOD": 1.0}
    for _ in range(2):
        machine.control.set(values, dict.fromkeys(values, validate))
        machine.get_badly()
    machine.is_paused()


def test_threads_at_the_same_time_lose_no_count() -> None:
    threads, rounds = 8, 300
    failures = Failures(threads * rounds)
    together = threading.Barrier(threads)

    def fail() -> None:
        together.wait(10.0)
        for _ in range(rounds):
            with pytest.raises(ZeroDivisionError), failures.counted() as paused:
                assert paused is None
                raise ZeroDivisionError

    workers = [threading.Thread(target=fail) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30.0)
    with failures.counted() as paused:
        assert paused is not None and f"paused after {threads * rounds} failed" in paused
