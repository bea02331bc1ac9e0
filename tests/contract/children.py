"""What runs in another process: in a forked child, or in a spawned one, which imports this module."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.rig.pace import pace

_HANGS = 3
"""How many times as long as it should take a child may take, before it is taken to hang."""


def in_fork(function: Callable[[], Any], seconds: float = 5.0) -> tuple[Any, float]:
    """Fork, run the function in the child, and give its answer with the seconds it took from the fork on.

    :raises AssertionError: when the child has not answered in time. One that hangs is killed.
    """
    reader, writer = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _answer(writer, function)
    os.close(writer)
    try:
        forked = time.monotonic() - began
        # The time for the fork itself, which waits for puts in flight, is not the child's.
        ready, _, _ = select.select([reader], [], [], _HANGS * seconds)
        data = os.read(reader, 1 << 20) if ready else b""
        took = time.monotonic() - began - forked
    finally:
        os.close(reader)
        if not ready:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert ready, f"the child has not answered within {_HANGS * seconds} s"
    assert took < seconds * pace(), f"the child took {took} s to answer, not {seconds} s"
    assert data and status == 0, f"the child ended with status {status} and said {data!r}"
    answer = json.loads(data)
    assert "error" not in answer, answer
    return answer["value"], took


def _answer(writer: int, function: Callable[[], Any]) -> None:
    """Say what the function gives, and end this process as multiprocessing does: without the parent's exit handlers."""
    try:
        answer = {"value": function()}
    except BaseException as error:  # whatever it is, the parent shall hear of it
        answer = {"error": repr(error)}
    with contextlib.suppress(BaseException):
        os.write(writer, json.dumps(answer).encode())
    os._exit(0)


def read_in_spawned_child(way: Any, name: str, queue: Any) -> None:
    """Read a PV and set it, with a control made here."""
    from badger_k2eg.control import Control, connect

    control = Control(connect(way))
    control.set({name: 2.25})
    queue.put(control.get([name]))
    control.close()
    control.backend.close()
