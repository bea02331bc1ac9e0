"""Releases a glibc resolver lock that a fork may leave held.

``getaddrinfo`` asks the kernel for the host's own addresses (AI_ADDRCONFIG), for about 0.1 ms with a lock held (glibc,
check_pf.c). In a child that is forked while another thread of its parent holds this lock, every look-up of an address
hangs for ever (measured with glibc 2.36: 3 of 7 forks beside two threads that look up addresses). librdkafka looks up
an address whenever it connects, in threads of its own, which cannot be held up for a fork; such a child would never
reach a broker. Looking up a name takes further locks, for microseconds; those are not handled.
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
# Seconds: looking up a number takes 0.1 ms; a child is held up this long at most.
_STEP, _LONGEST = 0.005, 1.0
# Steps for which it must have waited for the same lock: one that a living thread holds is free within one step.
_STEPS = 4


def release_orphaned() -> None:
    """Look up an address in this child, and release the lock if that hangs.

    To be called in the child before there is any other thread: the holder of the lock then does not exist here. The
    data that it guards is only ever replaced as a whole. If nothing can be found out or done, that is logged.
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
    except RuntimeError as error:  # no more threads are allowed
        logger.error("cannot check whether this forked process can look up addresses: %s", error)
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
            _release(last[0])
            waited.clear()
    logger.error("this forked process could not look up an address within %g s: it may not reach a broker", _LONGEST)


def _release(address: int) -> None:
    """Unlock a lock, and wake the thread that waits for it."""
    logger.info("a lock of the C library was inherited locked; it is released")
    ctypes.c_int.from_address(address).value = 0
    number = ctypes.c_long(_FUTEX[platform.machine()])
    ctypes.CDLL(None).syscall(number, ctypes.c_void_p(address), ctypes.c_int(_WAKE_PRIVATE), ctypes.c_int(1), None)


def _waits_for(thread: int | None) -> int | None:
    """Return the address of the lock inside the C library that a thread waits for."""
    try:
        call = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
        if len(call) < 4 or int(call[0]) != _FUTEX.get(platform.machine()):  # it runs, or waits for something else
            return None
        address, operation, value = (int(word, 16) for word in call[1:4])
        if operation & _OPERATION != _WAIT or value != _LOCKED_AND_WAITED_FOR or not _in_c_library(address):
            return None
    except (OSError, ValueError):  # not available on this system
        return None
    return address if ctypes.c_int.from_address(address).value == _LOCKED_AND_WAITED_FOR else None


def _in_c_library(address: int) -> bool:
    """Return whether an address belongs to the variables of the C library."""
    end = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split()
        first, last = (int(word, 16) for word in words[0].split("-"))
        # A nameless region that follows the library's file without a gap holds its variables.
        belongs = Path(words[5]).name.startswith(("libc.so", "libc-")) if len(words) > 5 else first == end
        end = last if belongs else 0
        if first <= address < last:
            return belongs
    return False


def _alone_with_one() -> bool:
    """Return whether this process has just one thread besides this one."""
    return len(os.listdir("/proc/self/task")) == 2


def _await_end(thread: int | None, until: float) -> None:
    """Wait until the system has removed a thread that has ended, so that the child has one thread."""
    while time.monotonic() < until and os.path.exists(f"/proc/self/task/{thread}"):
        time.sleep(_STEP / 10)
