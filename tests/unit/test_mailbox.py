"""A mailbox is bounded, keeps the last update, and its close waits for the callback."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from badger_k2eg.core.mailbox import Dispatcher, Mailbox

pytestmark = pytest.mark.real_time("threads hand over by events")

PATIENCE = 10.0


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    made = Dispatcher("test monitors")
    made.start()
    yield made
    made.close(PATIENCE)


def mailbox(dispatcher: Dispatcher, callback: Callable[[Any], None], depth: int = 16) -> tuple[Mailbox[Any], list[Any]]:
    closed: list[Any] = []
    return Mailbox(dispatcher, callback, depth, "A", closed.append), closed


class Slow:
    """A callback that takes its time until it is let go."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.inside = threading.Event()
        self.go = threading.Event()

    def __call__(self, update: Any) -> None:
        self.inside.set()
        assert self.go.wait(PATIENCE)
        self.seen.append(update)


def test_updates_come_in_order_in_the_thread_of_the_dispatcher(dispatcher: Dispatcher) -> None:
    seen: list[Any] = []
    done = threading.Event()

    def told(update: int) -> None:
        seen.append((update, threading.current_thread().name))
        if update == 9:
            done.set()

    box, _ = mailbox(dispatcher, told)
    for number in range(10):
        assert box.put(number)
    assert done.wait(PATIENCE)
    assert seen == [(number, "test monitors") for number in range(10)]


def test_a_slow_callback_loses_the_oldest_and_never_the_last(dispatcher: Dispatcher) -> None:
    slow = Slow()
    box, _ = mailbox(dispatcher, slow, depth=2)
    box.put(0)
    assert slow.inside.wait(PATIENCE)
    assert [box.put(number) for number in range(1, 6)] == [True, True, False, False, False]
    slow.go.set()
    dispatcher.close(PATIENCE)
    assert slow.seen == [0, 4, 5]


def test_one_update_is_kept_whatever_the_depth(dispatcher: Dispatcher) -> None:
    slow = Slow()
    box, _ = mailbox(dispatcher, slow, depth=0)
    box.put(0)
    assert slow.inside.wait(PATIENCE)
    box.put(1)
    box.put(2)
    slow.go.set()
    dispatcher.close(PATIENCE)
    assert slow.seen == [0, 2]


def test_close_waits_for_the_callback_and_none_begins_afterwards(dispatcher: Dispatcher) -> None:
    slow = Slow()
    box, closed = mailbox(dispatcher, slow)
    box.put(0)
    box.put(1)
    assert slow.inside.wait(PATIENCE)
    closing = threading.Thread(target=box.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    slow.go.set()
    closing.join(PATIENCE)
    assert not closing.is_alive() and slow.seen == [0]
    box.put(2)
    box.close()
    dispatcher.close(PATIENCE)
    assert slow.seen == [0] and closed == [box]


def test_a_callback_may_close_its_own_mailbox(dispatcher: Dispatcher) -> None:
    seen: list[Any] = []

    def told(update: int) -> None:
        seen.append(update)
        box.close()

    box, closed = mailbox(dispatcher, told)
    box.put(0)
    box.put(1)
    dispatcher.close(PATIENCE)
    assert seen == [0] and closed == [box]


def test_a_callback_that_fails_is_logged_and_the_next_update_comes(
    dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def told(update: int) -> None:
        seen.append(1 / update)

    box, _ = mailbox(dispatcher, told)
    box.put(0)
    box.put(2)
    dispatcher.close(PATIENCE)
    assert seen == [0.5] and "the callback for updates of A failed" in caplog.text


def test_a_forked_child_closes_what_a_callback_held_during_the_fork(dispatcher: Dispatcher) -> None:
    slow = Slow()
    box, _ = mailbox(dispatcher, slow)
    box.put(0)
    assert slow.inside.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        box.forget()
        box.close()
        os._exit(0 if box.closed else 1)
    slow.go.set()
    assert os.waitpid(child, 0)[1] == 0
