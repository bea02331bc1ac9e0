"""The power supply of a magnet: what becomes of a setpoint, and how soon. Pure: time comes in as an argument.

Owns ramps, the limit of the hardware, a supply that sticks or trips, and the hysteresis of the iron.
"""

from __future__ import annotations

import enum
import math

from .lattice import Magnet

HYSTERESIS = 0.01
"""Half the width of the loop, as a fraction of the range between the drive limits."""


class Status(enum.IntEnum):
    """What the status PV says, in the order of its choices."""

    READY = 0
    RAMPING = 1
    FAULT = 2


class Supply:
    """One supply with its magnet; all fields in the unit of the magnet's PVs.

    :param magnet: whose it is; it starts at its start value, with nothing to do.
    """

    def __init__(self, magnet: Magnet) -> None:
        """Switch on, at the start value."""
        self.magnet = magnet
        #: What was asked for; to be set by the owner before each step.
        self.setpoint = magnet.start
        #: How fast it ramps, per second.
        self.rate = magnet.rate
        #: Stuck: says 'Ramping' and stays where it is.
        self.stuck = False
        #: Tripped: says 'Fault' and goes down to zero; up again when the fault is gone.
        self.fault = False
        #: Whether the iron remembers.
        self.hysteresis = False
        #: What the supply gives, which is what the readback says.
        self.output = magnet.start
        self._iron = magnet.start

    @property
    def target(self) -> float:
        """Where the output goes: the setpoint, as far as the hardware can; zero after a trip."""
        if self.fault:
            return 0.0
        return min(self.magnet.most, max(-self.magnet.most, self.setpoint))

    @property
    def status(self) -> Status:
        """What the supply says of itself. One that clips says that it is ready."""
        if self.fault:
            return Status.FAULT
        return Status.READY if self.output == self.target else Status.RAMPING

    @property
    def field(self) -> float:
        """The field the beam sees.

        With hysteresis it lags behind the output by up to half the width of the loop, on the side it came from: the
        play operator, the simplest model with a memory of turning points (M. Brokate, J. Sprekels, Hysteresis and
        Phase Transitions (1996), ch. 2). The readback knows nothing of it, as it measures the current.
        """
        return self._iron

    def step(self, seconds: float) -> None:
        """Let time pass.

        :param seconds: since the last step.
        """
        if not self.stuck:
            way, gap = abs(self.rate) * seconds, self.target - self.output
            # Arrived is exactly there: the status compares.
            self.output = self.target if abs(gap) <= way else self.output + math.copysign(way, gap)
        play = HYSTERESIS * self.magnet.span if self.hysteresis else 0.0
        self._iron = min(self.output + play, max(self.output - play, self._iron))
