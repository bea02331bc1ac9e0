"""Linear transverse optics of a charged beam: pure functions of numpy arrays, no EPICS and no machine in them.

Coordinates are (x, x', y, y') in m and rad, in this order, for one momentum each. Every matrix function takes numbers
or arrays of shape `(...)`, one entry per momentum, and gives an array of shape `(..., 4, 4)`; vectors are `(..., 4)`,
beam matrices (the second moments, in m^2, m rad, rad^2) `(..., 4, 4)`.

Sources: K. L. Brown, SLAC-75 (1982), the matrices of drift, quadrupole and solenoid and `sigma1 = R sigma0 R^T`;
H. Wiedemann, Particle Accelerator Physics, 4th ed. (2015), ch. 5 and 7 (the same, and Twiss parameters), cited by
name below. No fringe fields but the hard edge of the solenoid, no space charge, no acceleration.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Number = float | Array

LIGHT_SPEED = 299_792_458.0
"""m/s, exact (SI)."""

ELECTRON_MASS = 0.510_998_95
"""MeV/c^2 (CODATA 2018)."""

SYMPLECTIC_UNIT = np.kron(np.eye(2), np.array([[0.0, 1.0], [-1.0, 0.0]]))
"""J of this order of coordinates: a matrix R of linear optics has `R J R^T = J`."""

_APERTURE_NODES, _APERTURE_WEIGHTS = (each.tolist() for each in np.polynomial.legendre.leggauss(32))
_APERTURE_SIGMAS = 6.0


def magnetic_rigidity(momentum: Number) -> Number:
    """B rho = p/e (Wiedemann, 'magnetic rigidity').

    :param momentum: p c in MeV.
    :returns: T m.
    """
    return momentum * 1e6 / LIGHT_SPEED


def beta_gamma(momentum: float) -> float:
    """The factor between geometric and normalized emittance of electrons, p/(m c).

    :param momentum: p c in MeV.
    """
    return momentum / ELECTRON_MASS


# ---- transfer matrices -----------------------------------------------------------------------------------------------


def drift(length: float) -> Array:
    """A straight without field: x grows by x' L.

    :param length: m.
    :returns: of shape `(4, 4)`.
    """
    matrix = np.eye(4)
    matrix[0, 1] = matrix[2, 3] = length
    return matrix


def quadrupole(length: float, strength: Number) -> Array:
    """A thick upright quadrupole (SLAC-75, quadrupole; Wiedemann 7.2).

    :param length: m.
    :param strength: k = (dBy/dx)/(B rho) in 1/m^2; above zero it focuses x, an electron's sign is in k.
    """
    k = np.asarray(strength, dtype=float)
    matrix = np.zeros((*k.shape, 4, 4))
    for at, sign in ((0, 1.0), (2, -1.0)):
        # sqrt of a negative number turns cos and sin into cosh and sinh: one formula for both planes, and for k = 0.
        phase = np.sqrt(sign * k + 0j) * length
        sine = length * np.sinc(phase / math.pi).real
        matrix[..., at, at] = matrix[..., at + 1, at + 1] = np.cos(phase).real
        matrix[..., at, at + 1] = sine
        matrix[..., at + 1, at] = -sign * k * sine
    return matrix


def thin_quadrupole(inverse_focus: float) -> Array:
    """A lens without length, the limit of `quadrupole` for k L = 1/f (Wiedemann 7.2).

    :param inverse_focus: 1/f in 1/m; above zero it focuses x.
    """
    matrix = np.eye(4)
    matrix[1, 0], matrix[3, 2] = -inverse_focus, inverse_focus
    return matrix


def solenoid(length: float, strength: Number) -> Array:
    """A solenoid with the kicks of its hard edges (SLAC-75, solenoid): it focuses both planes and turns the beam.

    The same as focusing with K^2 in a frame that turns by the angle K L; x and y come out coupled.

    :param length: m.
    :param strength: K = B/(2 B rho) in 1/m.
    """
    k = np.asarray(strength, dtype=float)
    c, s = np.cos(k * length), np.sin(k * length)
    s_k = length * np.sinc(k * length / math.pi)  # sin(K L)/K, also at K = 0
    rows = [
        [c * c, c * s_k, s * c, s * s_k],
        [-k * s * c, c * c, -k * s * s, s * c],
        [-s * c, -s * s_k, c * c, c * s_k],
        [k * s * s, -s * c, -k * s * c, c * c],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


# ---- transport -------------------------------------------------------------------------------------------------------


def transport(matrix: Array, sigma: Array) -> Array:
    """The beam matrix behind an element, R sigma R^T (SLAC-75; Wiedemann 5.1, 'beam matrix')."""
    moved: Array = matrix @ sigma @ np.swapaxes(matrix, -1, -2)
    return moved


def transport_centroid(matrix: Array, centroid: Array, offset: tuple[float, float] = (0.0, 0.0)) -> Array:
    """The centre of the beam behind an element whose axis is beside the reference axis: R (v - d) + d.

    :param offset: of the element in x and y, m; a quadrupole beside the axis kicks by its offset over f.
    """
    shift = np.array([offset[0], 0.0, offset[1], 0.0])
    moved: Array = (matrix @ (centroid - shift)[..., None])[..., 0] + shift
    return moved


def kick_angle(field: Number, rigidity: Number) -> Number:
    """The angle of a thin corrector, B L/(B rho), for small angles (Wiedemann, dipole field errors).

    :param field: integrated field, T m.
    :param rigidity: T m.
    :returns: rad.
    """
    return field / rigidity


def mix(weights: Array, centroids: Array, sigmas: Array) -> tuple[Array, Array]:
    """Put the slices of a beam together: the moments of a mixture, with the spread of the slices' centres.

    :param weights: of shape `(n,)`, summing up to 1.
    :param centroids: of shape `(n, 4)`.
    :param sigmas: of shape `(n, 4, 4)`.
    :returns: centroid `(4,)` and beam matrix `(4, 4)`.
    """
    centre = weights @ centroids
    apart = centroids - centre
    return centre, np.einsum("n,nij->ij", weights, sigmas) + np.einsum("n,ni,nj->ij", weights, apart, apart)


# ---- what a beam matrix says -----------------------------------------------------------------------------------------


def beam_matrix(x: tuple[float, float, float], y: tuple[float, float, float]) -> Array:
    """The beam matrix of Twiss parameters, eps [[beta, -alpha], [-alpha, gamma]] per plane (Wiedemann 5.1).

    :param x: beta (m), alpha, geometric emittance (m rad) of the horizontal plane.
    :param y: the same of the vertical one.
    """
    sigma = np.zeros((4, 4))
    for at, (beta, alpha, emittance) in ((0, x), (2, y)):
        gamma = (1.0 + alpha * alpha) / beta
        sigma[at : at + 2, at : at + 2] = emittance * np.array([[beta, -alpha], [-alpha, gamma]])
    return sigma


def twiss(sigma: Array, plane: int) -> tuple[float, float, float]:
    """Twiss parameters of the projection onto one plane.

    :param sigma: of shape `(4, 4)`.
    :param plane: 0 for x, 1 for y.
    :returns: beta (m), alpha, geometric emittance (m rad), the root of the determinant of the plane's own block.
    """
    block = sigma[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2]
    emittance = math.sqrt(max(float(np.linalg.det(block)), 1e-40))
    return float(block[0, 0]) / emittance, -float(block[0, 1]) / emittance, emittance


def mismatch(beam: tuple[float, float], design: tuple[float, float]) -> float:
    """How far a beam is from the Twiss parameters it should have: 1 if matched, above 1 otherwise.

    (beta gamma0 - 2 alpha alpha0 + gamma beta0)/2; M. Sands, SLAC-AP-85 (1991).

    :param beam: beta (m), alpha.
    :param design: the same, as wished.
    """
    (beta, alpha), (beta0, alpha0) = beam, design
    gamma, gamma0 = (1 + alpha * alpha) / beta, (1 + alpha0 * alpha0) / beta0
    return 0.5 * (beta * gamma0 - 2 * alpha * alpha0 + gamma * beta0)


# ---- apertures -------------------------------------------------------------------------------------------------------


def _within(low: float, high: float, centre: float, sigma: float) -> float:
    # One erf of the normal distribution; erfc would matter for a transmission below 1e-15 only.
    root = sigma * math.sqrt(2.0)
    return 0.5 * (math.erf((high - centre) / root) - math.erf((low - centre) / root))


def through_rectangle(sigma: Array, centre: tuple[float, float], half_width: float, half_height: float) -> float:
    """The part of a Gaussian beam that passes a rectangular hole; exact where x and y are not correlated.

    :param sigma: of shape `(2, 2)`, the moments of x and y in m^2. For a tilted ellipse the result is the product of
        the two slits, each exact.
    :param centre: of the beam, m.
    """
    across = _within(-half_width, half_width, centre[0], math.sqrt(sigma[0, 0]))
    return across * _within(-half_height, half_height, centre[1], math.sqrt(sigma[1, 1]))


def through_circle(sigma: Array, centre: tuple[float, float], radius: float) -> float:
    """The part of a Gaussian beam that passes a round hole, for any ellipse beside the axis.

    In the ellipse's own axes the chords are integrated by erf, and across them by Gauss and Legendre. A round beam on
    the axis has the closed form 1 - exp(-r^2/(2 sigma^2)).

    :param sigma: of shape `(2, 2)`, the moments of x and y in m^2.
    :param centre: of the beam, m.
    :param radius: m.
    """
    variances, axes = np.linalg.eigh(sigma)
    su, sv = (math.sqrt(max(float(each), 1e-30)) for each in variances)
    u, v = (float(each) for each in axes.T @ np.asarray(centre))
    if math.hypot(u, v) + _APERTURE_SIGMAS * max(su, sv) < radius:
        return 1.0
    # Only where there is beam: a thin beam would fall between two nodes of the whole hole.
    low, high = max(-radius, u - _APERTURE_SIGMAS * su), min(radius, u + _APERTURE_SIGMAS * su)
    if low >= high:
        return 0.0
    # Along an angle, u = r sin(a): a chord then ends smoothly at the rim, and few nodes are enough.
    begin, end = math.asin(low / radius), math.asin(high / radius)
    middle, half = 0.5 * (begin + end), 0.5 * (end - begin)
    total = 0.0
    for weight, node in zip(_APERTURE_WEIGHTS, _APERTURE_NODES, strict=True):
        angle = middle + half * node
        chord = radius * math.cos(angle)
        density = math.exp(-0.5 * ((radius * math.sin(angle) - u) / su) ** 2)
        total += weight * density * chord * _within(-chord, chord, v, sv)
    return min(1.0, total * half / (su * math.sqrt(2.0 * math.pi)))
