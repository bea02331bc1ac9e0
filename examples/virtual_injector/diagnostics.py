"""What the instruments see: shots at the beam's rate, noise, buffers, and readings that come late. Pure, no EPICS.

Owns the noise of every instrument (a seeded generator), the pulse id, the buffers of the last shots, and the pipeline
between the instant of a measurement and its appearance in a PV. Time comes in as an argument.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .lattice import CHARGE, EMITTANCE, Beam

Array = npt.NDArray[np.float64]

DISPLAY_PERIOD = 0.1
"""Seconds between two readings, or longer if the beam comes more slowly."""

BUFFER = 1200
"""Shots in a buffer: 10 s at 120 Hz."""

PIXELS = 100
"""Of the camera's image, either way."""

PIXEL = 80e-6
"""m on the screen."""

NO_LIGHT = 0.01
"""With less than this part of the beam on the screen nothing can be fitted."""

# Ticks come a little earlier or later: a display that is due with one must not wait for the next.
_GRACE = 0.02

_BEST_ENERGY = 2.0e-3
_MODE = 200e-6

# rms of one reading, times the noise setting.
_CHARGE_JITTER = 0.01
_TOROID = 0.003
_BPM = 10e-6
_SIZE = 0.02
_EMITTANCE = 0.03
_ENERGY = 0.05
_PIXEL_COUNTS = 2.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What all instruments saw of the same shot, or up to it."""

    taken: float
    """Wall-clock time of the shot, s since 1970."""
    clock: float
    """The same by the clock of `Diagnostics.fire`; it appears one latency later."""
    pulse_id: int
    values: dict[str, float]
    """By PV name without the prefix, in the PV's unit."""
    charges: dict[str, float]
    """The same, for the PVs that carry the pulse id."""
    buffers: dict[str, Array]
    """By PV name; the newest shot last, NaN where one was missed or has not been yet."""
    image: npt.NDArray[np.uint8]
    """Of shape `(PIXELS, PIXELS)`, rows from the top."""
    lit: bool
    """Whether there was enough light on the screen."""


class Diagnostics:
    """The instruments; one thread owns them.

    :param seed: of the noise; None for another one each time.
    """

    def __init__(self, seed: int | None = None) -> None:
        """Start with empty buffers and pulse id 0."""
        self._random = np.random.default_rng(seed)
        #: Times the noise of each instrument; 0 for none.
        self.noise = 1.0
        #: Seconds between a shot and its appearance.
        self.latency = 0.0
        #: The part of the shots that a buffer misses, each buffer for itself.
        self.missed = 0.0
        #: Of the last shot, counted without a gap.
        self.pulse_id = 0
        self._phase = 0.0
        self._next = -math.inf
        self._unshown = False
        self._gun = self._energy = 0.0
        self._energies = np.full(BUFFER, np.nan)
        self._charges = np.full(BUFFER, np.nan)
        self._waiting: deque[Reading] = deque()

    def fire(self, beam: Beam, rate: float, seconds: float, now: float, wall: float) -> None:
        """Let the beam run for so long, and measure when the display is due.

        :param rate: of the beam in Hz; 0 for none, and nothing is measured.
        :param seconds: since the last call.
        :param now: any clock that only goes forward, s.
        :param wall: time of day, s since 1970.
        """
        self._phase += rate * seconds
        shots, self._phase = int(self._phase), self._phase % 1.0
        if shots:
            self.pulse_id += shots
            self._fill(beam, min(shots, BUFFER))
            self._unshown = True
        if self._unshown and now >= self._next - _GRACE:
            self._waiting.append(self._measure(beam, now, wall))
            self._unshown = False
            # On a grid, so that a late tick delays one reading and not all that follow; a new one after a gap.
            self._next = (self._next if now < self._next + DISPLAY_PERIOD else now) + DISPLAY_PERIOD

    def arrived(self, now: float) -> Reading | None:
        """Give the newest reading whose latency is over, if there is a new one.

        :param now: by the clock of `fire`.
        """
        newest = None
        while self._waiting and self._waiting[0].clock + self.latency <= now:
            newest = self._waiting.popleft()
        return newest

    def forget(self) -> None:
        """Drop what has not appeared yet; the next shot is measured."""
        self._waiting.clear()
        self._next = -math.inf
        self._unshown = False

    def ripple(self, scale: float) -> float:
        """One value of Gaussian noise.

        :param scale: its rms, at the noise setting 1.
        """
        return scale * self.noise * float(self._random.standard_normal())

    def _relative(self, rms: float) -> float:
        return max(0.0, 1.0 + self.ripple(rms))

    def _fill(self, beam: Beam, shots: int) -> None:
        jitter, spread = self.noise * self._random.standard_normal((2, shots))
        gun = CHARGE * np.maximum(0.0, 1.0 + _CHARGE_JITTER * jitter)
        energies = 1e3 * pulse_energy(beam) * gun / CHARGE * np.maximum(0.0, 1.0 + _ENERGY * spread)
        charges = gun * beam.transmissions[-1]
        self._gun, self._energy = float(gun[-1]), float(energies[-1])
        for buffer, values in ((self._charges, charges), (self._energies, energies)):
            values[self._random.random(shots) < self.missed] = np.nan
            buffer[:-shots] = buffer[shots:]
            buffer[-shots:] = values

    def _measure(self, beam: Beam, now: float, wall: float) -> Reading:
        charge = self._gun
        first, last = charge * self._relative(_TOROID), charge * beam.transmission * self._relative(_TOROID)
        values = {
            "OTRS:1:XRMS": 1e6 * beam.sizes[0] * self._relative(_SIZE),
            "OTRS:1:YRMS": 1e6 * beam.sizes[1] * self._relative(_SIZE),
            "OTRS:1:X": 1e3 * (beam.centre[0] + self.ripple(_BPM)),
            "OTRS:1:Y": 1e3 * (beam.centre[1] + self.ripple(_BPM)),
            "OTRS:1:EMITN": 1e6 * beam.emittance * self._relative(_EMITTANCE),
            "OTRS:1:BMAG": beam.mismatch * self._relative(_EMITTANCE),
            "BEAM:TRANSMISSION": last / first if first else 0.0,
            "GDET:1:ENRC": self._energy,
        }
        for number, ((x, y), passed) in enumerate(zip(beam.bpms, beam.transmissions, strict=True), start=1):
            values[f"BPMS:{number}:X"] = 1e3 * (x + self.ripple(_BPM))
            values[f"BPMS:{number}:Y"] = 1e3 * (y + self.ripple(_BPM))
            values[f"BPMS:{number}:TMIT"] = charge * passed * self._relative(_TOROID)
        return Reading(
            taken=wall,
            clock=now,
            pulse_id=self.pulse_id,
            values=values,
            charges={"TORO:1:CHARGE": first, "TORO:2:CHARGE": last},
            buffers={"GDET:1:ENRCHSTBR": self._energies.copy(), "BPMS:3:TMITHSTBR": self._charges.copy()},
            image=self._image(beam),
            lit=beam.transmission >= NO_LIGHT,
        )

    def _image(self, beam: Beam) -> npt.NDArray[np.uint8]:
        at = PIXEL * (np.arange(PIXELS) - 0.5 * (PIXELS - 1))
        x, y = at[None, :] - beam.centre[0], -at[:, None] - beam.centre[1]
        xx, yy, xy = beam.sizes[0] ** 2, beam.sizes[1] ** 2, beam.tilt
        determinant = max(xx * yy - xy * xy, 1e-9 * xx * yy)
        power = -0.5 * (yy * x * x - 2.0 * xy * x * y + xx * y * y) / determinant
        counts = 200.0 * beam.transmission * np.exp(power)
        counts += _PIXEL_COUNTS * self.noise * self._random.standard_normal(counts.shape)
        image: npt.NDArray[np.uint8] = np.clip(counts, 0, 255).astype(np.uint8)
        return image


def pulse_energy(beam: Beam) -> float:
    """A stand-in for what a light source behind the screen would give, in J; no formula of one.

    It grows with the charge, falls with the emittance and with the overlap of the spot with a round mode of 0.2 mm.
    """
    overlap = 1.0 / (1.0 + beam.sizes[0] * beam.sizes[1] / _MODE**2)
    return _BEST_ENERGY * beam.transmission * overlap * EMITTANCE / beam.emittance
