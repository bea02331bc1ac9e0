"""Badger's own recording of an interface (``_logs``), given plain copies.

Badger's ``log`` decorator keeps what it sees by reference and pickles it at the end of a run. A numpy array that the
caller changes meanwhile, or a value that cannot be pickled, spoils the whole record. So the decorator gets copies made
of builtin types, and the control system the originals. Imports badger.interface; touches no PV itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from badger.interface import log

from ..core.model import Reading

if TYPE_CHECKING:
    from ..core.deadline import Deadline
    from ..core.model import SetReport
    from .interface import ControlInterface


def recordable(value: Any) -> Any:
    """Copy a value into builtin types; what is none of them is recorded as its text."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Reading):
        return recordable(value.value)
    if value is None or isinstance(value, bool):
        return value
    # Subclasses (p4p's ntfloat, an annotated reading) lose what makes them special, and what cannot be pickled.
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(key): recordable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [recordable(item) for item in value]
    return str(value)


# The decorator goes by the names of these two functions, and records the second argument of the first one.


@log
def set_values(
    interface: ControlInterface,
    channel_inputs: dict[str, Any],
    originals: Mapping[str, Any],
    configs: Mapping[str, Any],
    how: Mapping[str, Any],
) -> SetReport:
    """Set ``originals``, with the keywords of ``how``; ``channel_inputs`` is what Badger records of them."""
    report: SetReport = interface.control.set(originals, configs, **how)
    return report


def observed(interface: ControlInterface, values: Mapping[str, Any]) -> None:
    """Record what was measured other than by one read."""

    def get_values(interface: ControlInterface) -> dict[str, Any]:
        return {name: recordable(value) for name, value in values.items()}

    log(get_values)(interface)


@log
def get_values(interface: ControlInterface, channel_names: Sequence[str], deadline: Deadline | None) -> dict[str, Any]:
    """Read plain values; Badger records the very dict that is returned: copy it before it is given away."""
    return interface.control.get(channel_names, deadline)
