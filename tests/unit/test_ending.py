"""What Ctrl-C and SIGTERM do to a command that sets PVs."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import pytest

from badger_k2eg.cli.signals import Ended, stopped_by_signals


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_both_stop_it_and_get_their_handlers_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    heard: list[tuple[str, int]] = []
    with stopped_by_signals(lambda name, code: heard.append((name, code))):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [("Ctrl-C", 130), ("SIGTERM", 143)]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.usefixtures("handlers")
def test_what_is_ignored_stays_so() -> None:
    """A shell lets a job of a script in the background ignore Ctrl-C, which is meant for the one in front."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    heard: list[tuple[str, int]] = []
    with stopped_by_signals(lambda name, code: heard.append((name, code))):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [("SIGTERM", 143)]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("handlers")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_the_command_ends_as_it_would_without_it() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    heard: list[tuple[str, int]] = []
    with stopped_by_signals(lambda name, code: heard.append((name, code))):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            # What comes earlier, Python forgets after a fork.
            os.write(writer, b"ready")
            while True:  # by the machine's clock: the virtual one would be at any end at once
                select.select([], [], [], 0.1)
        os.read(reader, 5)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert heard == []


def test_a_signal_at_any_instant_ends_the_wait_for_it() -> None:
    """A handler runs between any two instructions of the thread that is about to wait."""
    for instant in range(200):
        ended, passed = Ended(), 0

        def at_each(frame: FrameType, event: str, argument: object) -> object:
            nonlocal passed
            frame.f_trace_opcodes = True
            if event == "opcode":
                if passed == instant:  # noqa: B023 - called in this turn only
                    ended.set()  # noqa: B023
                passed += 1
            return at_each

        before = sys.gettrace()
        sys.settrace(at_each)
        try:
            told = ended.wait(0.0)
        finally:
            sys.settrace(before)
        assert ended.is_set() or instant >= passed
        if instant >= passed:
            assert not told
            return
        assert ended.wait(60.0)
    raise AssertionError("it never just waits")
