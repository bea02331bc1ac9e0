"""``degauss``: cycles a magnet from one side to the other with decreasing amplitude, to remove its hysteresis."""

from __future__ import annotations

from ..control import Control
from ..core.errors import SetpointBlocked
from ..tuning import Knob, Mover
from .progress import progress
from .scan import check_bounds, knob_of


def degauss(
    control: Control,
    knob: Knob | str,
    *,
    amplitude: float | None = None,
    centre: float = 0.0,
    cycles: int = 4,
    decay: float = 0.5,
    final: float | None = None,
) -> list[float]:
    """Swing a setpoint around ``centre`` with decreasing amplitude, and leave it at ``final``.

    :param knob: the magnet; a text is a PV without a readback.
    :param amplitude: of the first swing, in the setpoint's unit; None is the largest that the bounds allow.
    :param cycles: how many times it swings to both sides.
    :param decay: the ratio of the amplitudes of two successive swings; 1 keeps it (to standardize a magnet).
    :param final: the last value; None is the value before.
    :returns: the values that it was set to.
    :raises SetpointBlocked: for a value out of bounds, before anything is set.
    :raises ReadError: when the setpoint cannot be read.
    """
    magnet = knob_of(knob)
    if cycles < 1 or not 0.0 < decay <= 1.0:
        raise ValueError(f"cycles must be >= 1, and 0 < decay <= 1, not {cycles!r} and {decay!r}")
    mover = Mover(control)
    if final is None:
        final = float(control.get([magnet.setpoint])[magnet.setpoint])
    swing = _widest(mover, magnet, centre) if amplitude is None else amplitude
    values = [centre + side * swing * decay**turn for turn in range(cycles) for side in (1.0, -1.0)]
    values += [centre, final] if final != centre else [centre]
    check_bounds(mover, {magnet: values})
    for number, value in enumerate(values, 1):
        mover.move({"magnet": value}, {"magnet": magnet})
        progress(number, len(values), f"{magnet.setpoint} = {value:g}")
    return values


def _widest(mover: Mover, magnet: Knob, centre: float) -> float:
    limits = mover.bounds.find([magnet])[magnet.setpoint]
    if limits.low is None or limits.high is None:
        raise SetpointBlocked(f"{magnet.setpoint} has no drive limits: give an amplitude")
    widest = min(limits.high - centre, centre - limits.low)
    if widest <= 0.0:
        raise SetpointBlocked(
            f"{magnet.setpoint} cannot swing around {centre:g}: its bounds are {limits}; give a centre"
        )
    return widest
