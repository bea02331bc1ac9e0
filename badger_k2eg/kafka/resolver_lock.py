"""A lock of the C library that a forked child may inherit locked, and how it is opened there. Imports nothing of ours.

``getaddrinfo`` asks the kernel for the host's own addresses (AI_ADDRCONFIG), for some 0.1 ms with a lock held (glibc,
check_pf.c). A child that is forked while another thread of its parent holds it never gets it: every look-up of an
address hangs there for ever (glibc 2.36: 3 of 7 forks beside two threads that look up addresses) [M]. librdkafka looks
one up whenever it connects, in threads of its own, which nobody can hold up for a fork; and such a child would never
reach a broker. The look-up of a name takes further locks, for microseconds; those are not seen to.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import socket
import sys
import threading
import time
from pathlib import Path

logger = logging.getLogger("badger_k2eg.kafka")

# The number of the system call on which a thread waits for a lock.
_FUTEX = {"x86_64": 202, "aarch64": 98}
_OPERATION, _WAIT, _WAKE_PRIVATE = 127, 0, 129
_LOCKED_AND_WAITED_FOR = 2
# Seconds: a look-up of a number takes 0.1 ms; the most that a child is held up.
_STEP, _LONGEST = 0.005, 1.0
# So many steps it must have waited for the same lock: one that somebody holds is free within one.
_STEPS = 4


def open_orphaned() -> None:
    """Look an address up in this child, and open the lock if that hangs.

    To be called in the child before there is any other thread: whoever holds the lock then does not exist here. What it
    guards is only ever replaced as a whole. Where it cannot be told or not be opened, that is logged.
    """
    if sys.platform != "linux":
        return
    done = threading.Event()

    def look_up() -> None:
        with contextlib.suppress(OSError):
            socket.getaddrinfo(b"127.0.0.1", 1, flags=socket.AI_ADDRCONFIG, type=socket.SOCK_STREAM)
        done.set()

    probe = threading.Thread(target=look_up, name="kafka probe", daemon=True)
    try:
        probe.start()
    except RuntimeError as error:  # no more threads for this user or container
        logger.error("whether this forked process can look up addresses is not known: %s", error)
        return
    until = time.monotonic() + _LONGEST
    waited: list[int | None] = []
    while time.monotonic() < until:
        if done.wait(_STEP):
            probe.join()
            _await_end(probe.native_id, until)
            return
        waited.append(_waits_for(probe.native_id))
        last = waited[-_STEPS:]
        if len(last) == _STEPS and last[0] is not None and len(set(last)) == 1 and _alone_with_one():
            _open(last[0])
            waited.clear()
    logger.error("this forked process could not look up an address within %g s: it may not reach a broker", _LONGEST)


def _open(address: int) -> None:
    logger.info("a lock of the C library was inherited locked; it is opened")
    ctypes.c_int.from_address(address).value = 0
    number = ctypes.c_long(_FUTEX[platform.machine()])
    ctypes.CDLL(None).syscall(number, ctypes.c_void_p(address), ctypes.c_int(_WAKE_PRIVATE), ctypes.c_int(1), None)


def _waits_for(thread: int | None) -> int | None:
    """Give the address of the lock inside the C library that a thread waits for."""
    try:
        call = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
        if len(call) < 4 or int(call[0]) != _FUTEX.get(platform.machine()):  # it runs, or waits for something else
            return None
        address, operation, value = (int(word, 16) for word in call[1:4])
        if operation & _OPERATION != _WAIT or value != _LOCKED_AND_WAITED_FOR or not _in_c_library(address):
            return None
    except (OSError, ValueError):  # not told on this system
        return None
    return address if ctypes.c_int.from_address(address).value == _LOCKED_AND_WAITED_FOR else None


def _in_c_library(address: int) -> bool:
    end = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split()
        first, last = (int(word, 16) for word in words[0].split("-"))
        # What follows the library's file without a gap and without a name are its variables.
        ours = Path(words[5]).name.startswith(("libc.so", "libc-")) if len(words) > 5 else first == end
        end = last if ours else 0
        if first <= address < last:
            return ours
    return False


def _alone_with_one() -> bool:
    return len(os.listdir("/proc/self/task")) == 2


def _await_end(thread: int | None, until: float) -> None:
    """Wait until the system has forgotten a thread that has ended, so that the child has one thread."""
    while time.monotonic() < until and os.path.exists(f"/proc/self/task/{thread}"):
        time.sleep(_STEP / 10)
