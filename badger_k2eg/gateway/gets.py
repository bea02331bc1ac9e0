"""Gets of a gateway: PVs that are known to answer are read in batches, others one by one.

A batch of gets costs little more than one get, and lasts as long as its slowest PV. So only PVs that have answered
before are read together, with a short timeout.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Collection, Mapping

from ..control import Reader
from ..core import clock
from ..core.backend import Update
from ..core.deadline import Deadline
from ..core.errors import ControlError, PvError, PvTimeout
from ..core.model import PvAddress, Reading
from ..k2eg.codec import Get, PvUri, Reply, ValueReply, parse_uri
from .command_pool import CommandPool
from .pv_access import MALFORMED, TIMEOUT, address_of, failure

logger = logging.getLogger(__name__)

# Seconds for a batch: a PV that has just died delays the others of its batch by so much, once.
_TOGETHER = 0.25
# Gets that may wait for the current batch; beyond, no more commands are read.
_MOST_PENDING = 2_000
_ROOM = 0.002


class Gets:
    """Serves gets.

    :param answer: sends the reply to a command.
    """

    def __init__(self, reader: Reader, pool: CommandPool, answer: Callable[[Get, ValueReply | Reply], None]) -> None:
        """Read nothing yet."""
        self._reader = reader
        self._pool = pool
        self._answer = answer
        # Gets that wait for the current batch; None wakes the thread.
        self._pending: queue.SimpleQueue[Get | None] = clock.simple_queue()
        self._closed = False
        # PVs that answered the last get.
        self._known: set[PvAddress] = set()

    def start(self) -> None:
        """Start a thread for gets, which answers sooner than one of the pool."""
        threading.Thread(target=self._run, name="gateway gets", daemon=True).start()

    def add(self, command: Get) -> None:
        """Serve a get soon; block while too many are waiting."""
        while self._pending.qsize() >= _MOST_PENDING and not self._closed:
            clock.sleep(_ROOM)
        self._pending.put(command)

    def close(self) -> None:
        """Stop serving gets. Idempotent."""
        self._closed = True
        self._pending.put(None)

    def _run(self) -> None:
        """Serve the waiting gets, again and again."""
        while not self._closed:
            commands = [self._pending.get()]
            while not self._pending.empty():
                commands.append(self._pending.get())
            try:
                self._serve([command for command in commands if command is not None])
            except Exception:  # whatever it was, it must not end the thread of all gets
                logger.exception("a batch of gets failed")

    def _serve(self, commands: list[Get]) -> None:
        together: list[tuple[Get, PvUri]] = []
        for command in commands:
            if (uri := parse_uri(command.pv_name)) is None:
                self._answer(command, Reply(command.reply_id, -1, MALFORMED))
            elif address_of(uri) in self._known:
                together.append((command, uri))
            else:
                self._alone(command, uri)
        if not together:
            return
        updates = self._read({address_of(uri) for _, uri in together}, _TOGETHER)
        for command, uri in together:
            if isinstance(update := updates[address_of(uri)], PvTimeout):
                self._known.discard(address_of(uri))
                self._alone(command, uri)
            else:
                self._answer(command, _reply(command, uri, update))

    def _alone(self, command: Get, uri: PvUri) -> None:
        def serve() -> None:
            address = address_of(uri)
            update = self._read([address], TIMEOUT)[address]
            if isinstance(update, Reading):
                self._known.add(address)
            self._answer(command, _reply(command, uri, update))

        self._pool.submit(serve)

    def _read(self, addresses: Collection[PvAddress], seconds: float) -> Mapping[PvAddress, Update]:
        try:
            return self._reader.fetch(addresses, Deadline(seconds))
        except ControlError as error:
            # The same for all PVs, as a missing optional part.
            return {address: PvError(address.text, str(error)) for address in addresses}


def _reply(command: Get, uri: PvUri, update: Update) -> ValueReply | Reply:
    if isinstance(update, Reading):
        return ValueReply(command.reply_id, uri.name, update.tree)
    return Reply(command.reply_id, *failure(update))
