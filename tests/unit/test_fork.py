"""The registry of what must not live through a fork: who is called, when, and that no order of locks can hang it."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from badger_k2eg.core import fork

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(function: Callable[[], str] = lambda: "") -> str:
    """Fork, and give what the function says in the child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, function().encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = b"".join(iter(lambda: os.read(reader, 4096), b""))
    os.close(reader)
    assert os.waitpid(child, 0)[1] == 0
    return said.decode()


class Participant:
    """Writes down what it is told."""

    def __init__(self, name: str, steps: list[str], do: Callable[[str], Any] = lambda step: None) -> None:
        self.name, self.steps, self._do = name, steps, do

    def _note(self, step: str) -> None:
        self.steps.append(f"{step} {self.name}")
        self._do(step)

    def before_fork(self) -> None:
        self._note("before")

    def after_fork_in_parent(self) -> None:
        self._note("parent")

    def after_fork_in_child(self) -> None:
        self._note("child")


@pytest.fixture
def steps() -> list[str]:
    return []


@pytest.fixture
def register() -> Any:
    made: list[Participant] = []

    def add(participant: Participant) -> Participant:
        made.append(participant)
        fork.register(participant)
        return participant

    yield add
    for participant in made:
        fork.unregister(participant)


def test_users_go_before_what_they_use_and_come_back_after_it(steps: list[str], register: Any) -> None:
    register(Participant("used", steps))
    register(Participant("user", steps))
    said = in_child(lambda: ",".join(steps))
    assert said == "before user,before used,child used,child user"
    assert steps == ["before user", "before used", "parent used", "parent user"]


def test_who_is_unregistered_or_gone_is_not_called(steps: list[str], register: Any) -> None:
    stays = register(Participant("stays", steps))
    leaves = register(Participant("leaves", steps))
    fork.unregister(leaves)
    fork.unregister(leaves)  # idempotent
    fork.register(Participant("garbage", steps))
    gc.collect()
    in_child()
    assert steps == ["before stays", "parent stays"]
    assert stays is not None


@pytest.mark.parametrize("step", ["before", "parent", "child"])
def test_one_that_fails_keeps_nobody_from_his_turn(
    steps: list[str], register: Any, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    def fail(now: str) -> None:
        if now == step:
            raise RuntimeError("broken")

    register(Participant("first", steps))
    register(Participant("fails", steps, fail))
    register(Participant("last", steps))
    said = in_child(lambda: ",".join(steps[3:]))
    assert said == "child first,child fails,child last"
    assert steps[:3] == ["before last", "before fails", "before first"] and len(steps) == 6
    if step != "child":
        assert any("broken" in str(r.exc_info) for r in caplog.records if r.levelno == logging.ERROR)


def test_one_that_registers_while_it_holds_a_lock_that_the_fork_waits_for(steps: list[str], register: Any) -> None:
    """A thread makes a client, which registers itself, inside the lock of a pool, which is registered too."""
    lock, inside = threading.Lock(), threading.Event()

    def wait(step: str) -> None:
        if step == "before":
            inside.set()
            lock.acquire()
        else:
            lock.release()

    def make() -> None:
        with lock:
            holds.set()
            assert inside.wait(10.0)
            register(Participant("made", steps))

    holds = threading.Event()
    register(Participant("pool", steps, wait))
    thread = threading.Thread(target=make)
    thread.start()
    assert holds.wait(10.0)
    said = in_child(lambda: ",".join(steps))
    thread.join(10.0)
    # The newcomer is prepared too, although it came after the fork had begun.
    assert said == "before pool,before made,child made,child pool"
    assert steps == ["before pool", "before made", "parent made", "parent pool"]


def test_one_that_leaves_during_the_fork_is_still_told_of_its_end(steps: list[str], register: Any) -> None:
    leaves = Participant("leaves", steps)
    register(leaves)
    register(Participant("other", steps, lambda step: fork.unregister(leaves) if step == "before" else None))
    in_child()
    assert steps[:1] == ["before other"] and ("before leaves" in steps) == ("parent leaves" in steps)


def test_two_threads_may_fork_at_once(steps: list[str], register: Any) -> None:
    lock = threading.Lock()
    register(Participant("lock", steps, lambda step: lock.acquire() if step == "before" else lock.release()))
    threads = [threading.Thread(target=in_child) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert not any(thread.is_alive() for thread in threads)
    assert steps == ["before lock", "parent lock"] * 4


def test_a_lock_is_free_in_the_child_and_whole_in_the_parent() -> None:
    lock = fork.Lock()
    stop, turns = threading.Event(), []

    def use() -> None:
        while not stop.is_set():
            with lock:
                turns.append(1)

    thread = threading.Thread(target=use)
    thread.start()

    def child() -> str:
        with lock:
            return "free"

    try:
        assert [in_child(child) for _ in range(10)] == ["free"] * 10
    finally:
        stop.set()
        thread.join(10.0)
    with lock:
        assert turns
