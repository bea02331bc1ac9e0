"""``Waker``: lets the thread of a handle sleep until the library or another thread has something for it.

The library's own ``poll`` gives no such sleep: another thread cannot end it, and recent versions of confluent-kafka
wake up five times a second in it to look for signals. But librdkafka can write into a pipe when its queue is no longer
empty (``rd_kafka_queue_io_event_enable``): the thread sleeps on that pipe, and other threads write into it as well.

The Python handle does not publish its ``rd_kafka_t``; it is the first field after the object's header. It is used only
after it has proved to be one: it must contain the address of the Python object, which confluent-kafka has set as its
opaque. Where that fails, or where there is no ``poll``, the thread polls the library in short slices.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import sys
import threading
from typing import Any

from .handles import ConsumerHandle, c_function

logger = logging.getLogger("badger_k2eg.kafka")

# Seconds. A consumer must be polled now and then, or the broker takes its partitions away.
_LONGEST_SLEEP = 1.0
# Bytes of an rd_kafka_t that are searched for the opaque.
_SEARCHED = 16 * 1024
_POINTER = ctypes.c_void_p


class Waker:
    """Sleeps until there is something to poll, the time is over, or `wake` is called.

    The thread of the handle polls with `patience` until nothing is left, then calls `sleep`.

    :param handle: one that has just been made.
    :param slice_: seconds that a poll may wait where the library cannot wake the thread.
    :ivar patience: seconds that a poll of the handle shall wait.
    """

    def __init__(self, handle: Any, slice_: float) -> None:
        """Connect the pipe to the queue of the handle."""
        self.patience = slice_
        # Reentrant: a signal handler may call `wake` while this very thread is inside.
        self._lock = threading.RLock()
        # Plain numbers, closed by `close` alone: closed by the end of the interpreter, they could be given to another
        # file while the library still writes.
        self._ends: tuple[int, int] | None = None
        address = native_handle(handle) if hasattr(select, "poll") else None
        ends = _pipe() if address is not None else None
        if ends is None:
            logger.debug("librdkafka cannot wake a thread here; it is polled every %g s", slice_)
            return
        self._poll = select.poll()
        self._poll.register(ends[0], select.POLLIN)
        which = "queue_get_consumer" if isinstance(handle, ConsumerHandle) else "queue_get_main"
        self._queue = c_function(which, _POINTER, _POINTER)(address)
        self._ends = ends
        self._write_into(ends[1])
        self.patience = 0.0

    def sleep(self, seconds: float = _LONGEST_SLEEP) -> None:
        """Sleep until there is something to do, at most this long; not at all where poll does the waiting."""
        if self._ends is None:
            return
        if self._poll.poll(max(0.0, min(seconds, _LONGEST_SLEEP)) * 1000):
            with contextlib.suppress(BlockingIOError):
                os.read(self._ends[0], 4096)

    def wake(self) -> None:
        """End the sleep, or the next one. Any thread may call it; does nothing once closed."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._ends is not None:
                os.write(self._ends[1], b"\0")

    def close(self) -> None:
        """Disconnect from the queue. To be called by the thread, before the handle is closed."""
        with self._lock:
            ends, self._ends = self._ends, None
        if ends is None:
            return
        # The library writes with its lock on the queue held: never again when this returns.
        self._write_into(-1)
        c_function("queue_destroy", None, _POINTER)(self._queue)
        for end in ends:
            os.close(end)

    def _write_into(self, end: int) -> None:
        """Let the library write a byte when its queue is no longer empty; with -1, never again."""
        types = _POINTER, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
        c_function("queue_io_event_enable", None, *types)(self._queue, end, b"\0", 1)


def native_handle(handle: Any) -> int | None:
    """Return the address of the ``rd_kafka_t`` of a handle; None where it cannot be told for certain."""
    opaque = c_function("opaque", _POINTER, _POINTER)
    address = _POINTER.from_address(id(handle) + object.__basicsize__).value
    if opaque is None or not address:
        return None
    if id(handle).to_bytes(ctypes.sizeof(_POINTER), sys.byteorder) not in _memory(address, _SEARCHED):
        return None
    return address if opaque(address) == id(handle) else None


def _memory(address: int, size: int) -> bytes:
    """Return what is at an address; nothing where there is no memory: the system looks, and does not crash."""
    if (ends := _pipe()) is None:
        return b""
    try:
        return os.read(ends[0], os.write(ends[1], (ctypes.c_char * size).from_address(address)))
    except OSError:
        return b""
    finally:
        for end in ends:
            os.close(end)


def _pipe() -> tuple[int, int] | None:
    """Return the ends of a pipe that never blocks; None if this process has no files left."""
    try:
        ends = os.pipe()
    except OSError:
        return None
    for end in ends:
        os.set_blocking(end, False)
    return ends
