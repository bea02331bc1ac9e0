"""A procedure of one's own: how far the beam moves for each ampere of a corrector, measured while the beam is there.

badger-k2eg procedure examples.orbit_response:measure --param corrector=COR:SET --param monitor=BPM:X
"""

from __future__ import annotations

from concurrent.futures import CancelledError

from badger_k2eg import Control, Quantity, Reading, sleep, unit
from badger_k2eg.procedures import progress


def measure(
    control: Control,
    corrector: str = "COR:SET",
    monitor: str = "BPM:X",
    current: str = "BEAM:CURRENT",
    step: float = 100.0,
    points: int = 4,
) -> Reading:
    """Step a corrector by so many mA, and give the response in the units of the machine, with its time.

    :raises CancelledError: when it was stopped; the corrector is back where it was.
    """
    control.wait_until(lambda beam: beam > 1.0, current, timeout=1 * unit.minute)
    start = control.read([corrector])[corrector]
    before = control.read([monitor])[monitor]
    slopes = []
    try:
        for number in range(1, points + 1):
            moved = start.quantity + number * Quantity(step, "mA")
            control.set({corrector: moved}, timeout=10 * unit.second)
            sleep(100 * unit.ms)
            after = control.wait_until_new(monitor, timeout=5 * unit.second)
            slopes.append((after - before) / (number * Quantity(step, "mA")))
            progress(number, points, f"{corrector} = {moved:.3f}")
    except CancelledError:
        # Told once: from here on calls go through again.
        control.set({corrector: start})
        raise
    control.set({corrector: start})
    response: Reading = sum(slopes[1:], slopes[0]) / len(slopes)
    return response
