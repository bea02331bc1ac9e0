"""``Reader``: every read of an interface, and the settings by which it is judged.

What only reads (guards, watches, waits, samplers, a gateway's gets and monitors) is given a Reader, and never a
``Control``: with it, nothing can be set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from ..core.backend import Backend, Subscription, Update, loses_updates
from ..core.deadline import Deadline
from ..core.errors import PvError, PvInvalid
from ..core.model import PvAddress, Reading
from ..core.settings import Settings
from .put_rules import not_a_reading
from .shared_subscriptions import SharedSubscriptions


class Reader:
    """Reads and monitors PVs. Safe to use from many threads.

    :param backend: the way to the PVs.
    :param settings: what is in force: the timeout, and which alarm severities are no readings.
    """

    def __init__(self, backend: Backend, settings: Settings) -> None:
        """Read nothing yet."""
        self.backend = backend
        self.settings = settings
        self.subscriptions = SharedSubscriptions(backend)
        #: Ends what waits and what runs in the background, when this is closed.
        self.life = Deadline.alone()

    @property
    def loses_updates(self) -> bool:
        """Whether the last update of a monitor may not be what the PV holds: read before you believe it."""
        return loses_updates(self.backend)

    def updates(self, names: Iterable[str], deadline: Deadline | None = None) -> dict[str, Update]:
        """Read PVs: for each key a Reading, or the PvError that says why there is none. Raises nothing."""
        end = deadline or self._patience()
        return self._ask(list(names), lambda addresses: self.backend.get_many(addresses, end))

    def snapshot(
        self, names: Iterable[str], window: float = 0.0, deadline: Deadline | None = None
    ) -> dict[str, Update]:
        """Read values of one instant (``window`` seconds wide), as far as the transport can; else as ``updates``."""
        end = deadline or self._patience()
        return self._ask(list(names), lambda addresses: self.backend.snapshot(addresses, window, end))

    def fetch(self, addresses: Collection[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs as they are, whatever alarm they are in: the type, the limits and the unit hold all the same."""
        return self.backend.get_many(list(dict.fromkeys(addresses)), deadline) if addresses else {}

    def judged(self, name: str, update: Update) -> Update:
        """Return an update, or a PvInvalid where these settings do not take it for a reading (UDF, INVALID)."""
        if isinstance(update, Reading) and (reason := not_a_reading(update, self.settings)) is not None:
            return PvInvalid(name, reason)
        return update

    def monitor(self, pv: str | PvAddress, callback: Callable[[Update], None]) -> Subscription:
        """Call back with the present value and every update of a PV until closed.

        :raises PvNameError: for a malformed name.
        """
        address = PvAddress.parse(pv) if isinstance(pv, str) else pv
        return self.subscriptions.attach(address, callback)

    def close(self) -> None:
        """End every subscription and wait; the backend is its owner's to close."""
        life, self.life = self.life, Deadline.alone()
        life.cancel("closed")
        self.subscriptions.close()

    def _patience(self) -> Deadline:
        return Deadline(self.settings.timeout)

    def _ask(
        self, names: Sequence[str], fetch: Callable[[list[PvAddress]], dict[PvAddress, Update]]
    ) -> dict[str, Update]:
        answers: dict[str, Update] = {}
        addresses: dict[str, PvAddress] = {}
        for name in names:
            try:
                addresses[name] = PvAddress.parse(name)
            except PvError as error:
                answers[name] = error
        if addresses:
            updates = fetch(list(dict.fromkeys(addresses.values())))
            answers.update({name: self.judged(name, updates[address]) for name, address in addresses.items()})
        return {name: answers[name] for name in names}
