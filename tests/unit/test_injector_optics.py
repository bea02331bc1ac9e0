"""The physics of examples/virtual_injector against closed forms; its supplies and instruments with a clock of ours."""

from __future__ import annotations

import math

import numpy as np
import pytest

from examples.virtual_injector import lattice, optics
from examples.virtual_injector.diagnostics import BUFFER, DISPLAY_PERIOD, PIXEL, Diagnostics, Reading
from examples.virtual_injector.lattice import MAGNETS, START, Beam, propagate
from examples.virtual_injector.supplies import HYSTERESIS, Status, Supply

GAUSS = optics.beam_matrix((9.0, -7.0, 5e-8), (4.0, 1.5, 3e-8))


def turn(angle: float) -> np.ndarray:
    """Both planes as seen in a frame that is turned by this angle."""
    c, s = math.cos(angle), math.sin(angle)
    return np.kron(np.array([[c, s], [-s, c]]), np.eye(2))


# ---- matrices --------------------------------------------------------------------------------------------------------


def test_a_drift_moves_by_angle_times_length() -> None:
    x, xp, y, yp = 1e-3, 2e-3, -1e-3, 0.5e-3
    assert optics.drift(2.0) @ [x, xp, y, yp] == pytest.approx([x + 2 * xp, xp, y + 2 * yp, yp])


def test_a_beam_waist_grows_in_a_drift_as_the_hyperbola_says() -> None:
    beta, emittance, way = 0.7, 4e-8, 1.3
    waist = optics.beam_matrix((beta, 0.0, emittance), (beta, 0.0, emittance))
    beta_behind, alpha_behind, _ = optics.twiss(optics.transport(optics.drift(way), waist), 0)
    assert beta_behind == pytest.approx(beta + way**2 / beta)
    assert alpha_behind == pytest.approx(-way / beta)


def test_a_thick_quadrupole_is_cos_in_one_plane_and_cosh_in_the_other() -> None:
    k, length = 6.0, 0.3
    w = math.sqrt(k)
    matrix = optics.quadrupole(length, k)
    c, s, ch, sh = math.cos(w * length), math.sin(w * length), math.cosh(w * length), math.sinh(w * length)
    assert matrix[:2, :2] == pytest.approx(np.array([[c, s / w], [-w * s, c]]))
    assert matrix[2:, 2:] == pytest.approx(np.array([[ch, sh / w], [w * sh, ch]]))
    assert not matrix[:2, 2:].any() and not matrix[2:, :2].any()


def test_a_short_quadrupole_becomes_the_thin_lens_and_none_a_drift() -> None:
    thin = optics.thin_quadrupole(1.6)
    errors = [np.abs(optics.quadrupole(length, 1.6 / length) - thin).max() for length in (1e-2, 1e-3, 1e-4)]
    assert errors[2] < 2e-4
    # The difference is of first order in the length.
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.05)
    assert optics.quadrupole(0.4, 0.0) == pytest.approx(optics.drift(0.4))


def test_strengths_of_several_momenta_give_one_matrix_each() -> None:
    strengths = np.array([-3.0, 0.0, 2.0])
    for function in (optics.quadrupole, optics.solenoid):
        many = function(0.2, strengths)
        assert many.shape == (3, 4, 4)
        for matrix, strength in zip(many, strengths, strict=True):
            assert matrix == pytest.approx(function(0.2, float(strength)))


def test_a_solenoid_is_a_focus_in_both_planes_in_a_turning_frame() -> None:
    k, length = 2.5, 0.4
    c, s = math.cos(k * length), math.sin(k * length)
    plane = np.array([[c, s / k], [-k * s, c]])
    assert optics.solenoid(length, k) == pytest.approx(turn(k * length) @ np.kron(np.eye(2), plane))
    assert optics.solenoid(length, 0.0) == pytest.approx(optics.drift(length))


def test_a_solenoid_turns_the_ellipse_by_k_l_and_the_other_way_when_reversed() -> None:
    flat = optics.beam_matrix((20.0, 0.0, 5e-8), (1.0, 0.0, 5e-8))
    k, length = 3.0, 0.2
    direct = optics.transport(optics.solenoid(length, k), flat)
    # Many short ones are the long one, and in the frame turned by K L the planes are not coupled.
    many = np.linalg.matrix_power(optics.solenoid(length / 1000, k), 1000)
    assert optics.transport(many, flat) == pytest.approx(direct, rel=1e-9, abs=1e-18)
    assert abs(optics.transport(turn(-k * length), direct)[0, 2]) < 1e-9 * direct[0, 0]
    mirrored = optics.transport(optics.solenoid(length, -k), flat)
    assert mirrored[0, 2] == pytest.approx(-direct[0, 2])
    assert direct[0, 2] < 0 < mirrored[0, 2]


@pytest.mark.parametrize(
    "matrix",
    [optics.drift(0.7), optics.quadrupole(0.3, 8.0), optics.quadrupole(0.3, -8.0), optics.thin_quadrupole(2.0),
     optics.solenoid(0.4, 3.0), optics.solenoid(0.2, 2.0) @ optics.quadrupole(0.1, -20.0) @ optics.drift(1.0)],
)  # fmt: skip
def test_every_matrix_is_symplectic(matrix: np.ndarray) -> None:
    j = optics.SYMPLECTIC_UNIT
    assert matrix @ j @ matrix.T == pytest.approx(j, abs=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


# ---- transport -------------------------------------------------------------------------------------------------------


def cell(focus: float, way: float) -> np.ndarray:
    """One FODO cell from middle to middle of a focusing lens, of almost thin lenses; `way` between two lenses."""
    thin = 1e-6
    half = optics.quadrupole(thin / 2, 1 / (focus * thin))
    other = optics.quadrupole(thin, -1 / (focus * thin))
    return half @ optics.drift(way) @ other @ optics.drift(way) @ half


def test_the_phase_advance_of_a_fodo_cell() -> None:
    focus, way = 1.5, 1.2
    matrix = cell(focus, way)
    for plane in (matrix[:2, :2], matrix[2:, 2:]):
        phase = math.acos(0.5 * np.trace(plane))
        assert math.sin(phase / 2) == pytest.approx(way / (2 * focus), rel=1e-5)
    # In the middle of the focusing lens: beta = 2 L (1 + sin(mu/2))/sin(mu), alpha = 0 (Wiedemann, FODO lattices).
    phase = 2 * math.asin(way / (2 * focus))
    beta = matrix[0, 1] / math.sin(phase)
    assert beta == pytest.approx(2 * way * (1 + math.sin(phase / 2)) / math.sin(phase), rel=1e-5)
    matched = optics.beam_matrix((beta, 0.0, 5e-8), (matrix[2, 3] / math.sin(phase), 0.0, 5e-8))
    assert optics.transport(matrix, matched) == pytest.approx(matched, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(("focus", "stable"), [(0.61, True), (0.59, False)])
def test_a_fodo_cell_is_stable_down_to_half_the_way(focus: float, stable: bool) -> None:
    largest = np.abs(np.linalg.eigvals(cell(focus, 1.2))).max()
    assert (largest < 1 + 1e-6) == stable


def test_emittance_is_kept_and_only_the_solenoid_mixes_the_planes() -> None:
    upright = optics.quadrupole(0.2, 7.0) @ optics.drift(1.1) @ optics.quadrupole(0.1, -9.0)
    behind = optics.transport(upright, GAUSS)
    assert optics.twiss(behind, 0)[2] == pytest.approx(5e-8)
    assert optics.twiss(behind, 1)[2] == pytest.approx(3e-8)
    coupled = optics.transport(optics.solenoid(0.3, 2.0), GAUSS)
    assert np.linalg.det(coupled) == pytest.approx((5e-8 * 3e-8) ** 2)
    assert optics.twiss(coupled, 0)[2] > 5.1e-8


def test_twiss_parameters_come_out_of_the_matrix_they_made() -> None:
    assert optics.twiss(GAUSS, 0) == pytest.approx((9.0, -7.0, 5e-8))
    assert optics.twiss(GAUSS, 1) == pytest.approx((4.0, 1.5, 3e-8))
    assert optics.mismatch((2.0, 0.5), (2.0, 0.5)) == pytest.approx(1.0)
    assert optics.mismatch((4.0, 0.0), (2.0, 0.0)) == pytest.approx(1.25)


def test_a_quadrupole_beside_the_axis_kicks_by_its_offset_over_f() -> None:
    focus, offset = 0.8, (0.3e-3, -0.2e-3)
    lens = optics.quadrupole(1e-6, 1 / (focus * 1e-6))
    behind = optics.transport_centroid(lens, np.zeros(4), offset)
    assert behind == pytest.approx([0, offset[0] / focus, 0, -offset[1] / focus], rel=1e-4, abs=1e-9)
    through_axis = np.array([offset[0], 0, offset[1], 0])
    assert optics.transport_centroid(lens, through_axis, offset) == pytest.approx(through_axis)


def test_a_corrector_bends_by_its_field_over_the_rigidity() -> None:
    # 1 GeV/c is 3.3356 T m.
    assert optics.magnetic_rigidity(1000.0) == pytest.approx(3.33564, rel=1e-6)
    assert optics.kick_angle(0.001, optics.magnetic_rigidity(10.0)) == pytest.approx(0.02997925)


def test_slices_with_different_centres_make_a_larger_beam() -> None:
    weights, apart = np.array([0.5, 0.5]), np.array([[1e-3, 0, 0, 0], [-1e-3, 0, 0, 0]])
    centre, sigma = optics.mix(weights, apart, np.stack([GAUSS, GAUSS]))
    assert centre == pytest.approx(np.zeros(4))
    assert sigma[0, 0] == pytest.approx(GAUSS[0, 0] + 1e-6)
    assert sigma[2:, 2:] == pytest.approx(GAUSS[2:, 2:])


# ---- apertures -------------------------------------------------------------------------------------------------------


def test_a_round_beam_through_a_round_hole() -> None:
    sigma = np.diag([1e-6, 1e-6])
    for radius in (0.3e-3, 1e-3, 3e-3):
        expected = 1 - math.exp(-(radius**2) / 2e-6)
        assert optics.through_circle(sigma, (0.0, 0.0), radius) == pytest.approx(expected, abs=1e-9)
    assert optics.through_circle(sigma, (0.0, 0.0), 8e-3) == 1.0
    assert optics.through_circle(sigma, (0.0, 20e-3), 8e-3) == 0.0


def test_a_hole_cuts_what_counting_particles_says() -> None:
    sigma, centre = np.array([[2.0, 1.2], [1.2, 1.5]]), (0.8, -0.5)
    points = np.random.default_rng(3).multivariate_normal(centre, sigma, 200_000)
    inside = (np.hypot(*points.T) < 2.0).mean()
    assert optics.through_circle(sigma, centre, 2.0) == pytest.approx(inside, abs=0.005)
    upright = np.diag([2.0, 0.5])
    points = np.random.default_rng(4).multivariate_normal(centre, upright, 200_000)
    inside = ((np.abs(points[:, 0]) < 1.5) & (np.abs(points[:, 1]) < 0.7)).mean()
    assert optics.through_rectangle(upright, centre, 1.5, 0.7) == pytest.approx(inside, abs=0.005)


def test_a_thin_beam_in_a_wide_hole_is_not_missed() -> None:
    passed = optics.through_circle(np.diag([1e-14, 1e-6]), (0.5e-3, 0.0), 1e-3)
    assert passed == pytest.approx(math.erf(math.sqrt(0.75e-6) / math.sqrt(2e-6)), abs=1e-5)


# ---- the line --------------------------------------------------------------------------------------------------------


def size(fields: dict[str, float]) -> float:
    sx, sy = propagate(fields).sizes
    return math.sqrt(sx * sy)


def test_the_start_is_worse_than_the_best_by_more_than_three_and_the_best_is_on_no_limit() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    names = ["SOL1", "QUAD:1", "QUAD:2", "QUAD:3"]
    bounds = [(MAGNETS[name].low, MAGNETS[name].high) for name in names]

    def objective(values: np.ndarray) -> float:
        return 1e6 * size({**START, **dict(zip(names, values, strict=True))})

    # Beside the best, so that the search is short; the README has the figures.
    beside, options = [0.91, -0.05, 0.48, -0.48], {"maxfev": 400, "xatol": 1e-5, "fatol": 1e-4}
    best = optimize.minimize(objective, beside, method="Nelder-Mead", bounds=bounds, options=options)
    assert best.fun == pytest.approx(123.0, abs=0.3)
    assert best.x == pytest.approx([0.899, -0.055, 0.477, -0.489], abs=0.015)
    for value, (low, high) in zip(best.x, bounds, strict=True):
        assert low + 0.1 * (high - low) < value < high - 0.1 * (high - low)
    assert objective(np.array([START[name] for name in names])) == pytest.approx(791.6, abs=0.5)
    others = np.random.default_rng(0).uniform(*np.transpose(bounds), size=(150, 4))
    assert min(objective(each) for each in others) > best.fun


def test_no_start_value_is_zero_or_on_a_limit() -> None:
    for magnet in MAGNETS.values():
        assert magnet.start != 0
        assert magnet.low + 0.05 * magnet.span < magnet.start < magnet.high - 0.05 * magnet.span


def test_the_emittance_is_best_at_one_field_of_the_solenoid() -> None:
    assert lattice.emittance_growth(lattice.BEST_SOLENOID) == 1.0
    fields = [0.9, 0.95, lattice.BEST_SOLENOID, 1.02, 1.1]
    emittances = [propagate({**START, "SOL1": field}).emittance for field in fields]
    assert min(emittances) == emittances[2]


def test_correctors_steer_and_a_large_kick_costs_charge() -> None:
    before = propagate(START)
    steered = propagate({**START, "YCOR:1": START["YCOR:1"] + 2e-4})
    assert steered.centre[1] != pytest.approx(before.centre[1], abs=1e-4)
    # Before the corrector nothing has changed. BPM 1 is 0.2 m behind it.
    angle = optics.kick_angle(2e-5, optics.magnetic_rigidity(lattice.MOMENTUM))
    assert steered.bpms[0][1] - before.bpms[0][1] == pytest.approx(0.2 * angle, rel=1e-3)
    assert propagate({**START, "XCOR:1": 2e-3}).transmission < 0.5 * before.transmission
    assert before.transmissions[0] >= before.transmissions[1] >= before.transmissions[2] >= before.transmission > 0.9


def test_momentum_spread_makes_the_smallest_spot_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    best = {**START, "SOL1": 0.899, "QUAD:1": -0.055, "QUAD:2": 0.477, "QUAD:3": -0.489}
    spread = size(best)
    middle = np.full(3, lattice._RIGIDITY[1])
    monkeypatch.setattr(lattice, "_RIGIDITY", middle)
    assert size(best) < 0.995 * spread


# ---- supplies --------------------------------------------------------------------------------------------------------


def settle(supply: Supply, setpoint: float) -> None:
    supply.setpoint = setpoint
    for _ in range(1000):
        supply.step(0.05)


def test_a_supply_ramps_at_its_rate_and_arrives_exactly() -> None:
    supply = Supply(MAGNETS["QUAD:1"])
    supply.setpoint, supply.rate = -0.15, 0.5
    supply.step(0.2)
    assert supply.status is Status.RAMPING
    assert supply.output == pytest.approx(0.0)
    supply.step(0.31)
    assert (supply.output, supply.status) == (-0.15, Status.READY)
    assert supply.field == -0.15


def test_a_supply_clips_at_its_hardware_and_says_ready() -> None:
    supply = Supply(MAGNETS["QUAD:5"])
    settle(supply, 0.4)
    assert (supply.output, supply.status) == (0.3, Status.READY)
    settle(supply, -0.4)
    assert supply.output == -0.3


def test_a_stuck_supply_says_ramping_and_a_tripped_one_goes_to_zero() -> None:
    supply = Supply(MAGNETS["QUAD:3"])
    supply.stuck = True
    settle(supply, -0.6)
    assert (supply.output, supply.status) == (-0.4, Status.RAMPING)
    supply.stuck = False
    settle(supply, -0.6)
    assert (supply.output, supply.status) == (-0.6, Status.READY)
    supply.fault = True
    settle(supply, -0.6)
    assert (supply.output, supply.status) == (0.0, Status.FAULT)


def test_with_hysteresis_the_side_matters_and_the_output_hides_it() -> None:
    supply = Supply(MAGNETS["QUAD:2"])
    play = HYSTERESIS * supply.magnet.span
    supply.hysteresis = True
    settle(supply, 0.2)
    settle(supply, 0.4)
    assert (supply.output, supply.field) == (0.4, pytest.approx(0.4 - play))
    settle(supply, 0.6)
    settle(supply, 0.4)
    assert (supply.output, supply.field) == (0.4, pytest.approx(0.4 + play))
    # A step smaller than the loop is wide does not move the field at all.
    settle(supply, 0.4 + play)
    assert supply.field == pytest.approx(0.4 + play)
    supply.hysteresis = False
    supply.step(0.05)
    assert supply.field == supply.output


# ---- instruments -----------------------------------------------------------------------------------------------------

BEAM = propagate(START)


def run(instruments: Diagnostics, rate: float, seconds: float, beam: Beam = BEAM, begin: float = 0.0) -> list[Reading]:
    """Every reading that arrives while the beam runs, in ticks of 1/20 s."""
    arrived = []
    for tick in range(round(seconds * 20)):
        now = begin + 0.05 * tick
        instruments.fire(beam, rate, 0.05, now, 1e9 + now)
        if (reading := instruments.arrived(now)) is not None:
            arrived.append(reading)
    return arrived


def test_readings_come_at_the_display_rate_and_never_faster_than_the_beam() -> None:
    assert len(run(Diagnostics(1), 120.0, 5.0)) == pytest.approx(5.0 / DISPLAY_PERIOD, abs=1)
    assert len(run(Diagnostics(1), 1.0, 5.0)) == pytest.approx(5, abs=1)
    assert run(Diagnostics(1), 0.0, 5.0) == []


def test_a_reading_appears_one_latency_after_its_shot() -> None:
    instruments = Diagnostics(1)
    instruments.latency = 0.5
    assert run(instruments, 120.0, 0.5) == []
    first, *_ = run(instruments, 120.0, 0.2, begin=0.5)
    assert (first.taken, first.pulse_id) == (1e9, 6)
    assert first.values["BPMS:1:X"] == pytest.approx(1e3 * BEAM.bpms[0][0], abs=0.1)


def test_pulse_ids_count_every_shot() -> None:
    instruments = Diagnostics(1)
    ids = [reading.pulse_id for reading in run(instruments, 30.0, 10.0)]
    assert instruments.pulse_id == 300
    assert ids == sorted(set(ids)) and set(np.diff(ids)) == {3}


def test_buffers_end_with_the_newest_shot_and_have_holes_of_their_own() -> None:
    instruments = Diagnostics(1)
    last = run(instruments, 120.0, 1.0)[-1]
    energies, charges = last.buffers["GDET:1:ENRCHSTBR"], last.buffers["BPMS:3:TMITHSTBR"]
    assert len(energies) == len(charges) == BUFFER
    assert np.isfinite(energies).sum() == last.pulse_id
    assert np.isnan(energies[: -last.pulse_id]).all()
    assert energies[-1] == last.values["GDET:1:ENRC"]
    instruments.missed = 0.3
    last = run(instruments, 120.0, 12.0, begin=1.0)[-1]
    holes = [np.isnan(buffer) for buffer in last.buffers.values()]
    assert [each.mean() for each in holes] == pytest.approx([0.3, 0.3], abs=0.06)
    assert (holes[0] & holes[1]).mean() == pytest.approx(0.09, abs=0.04)


def test_noise_is_as_stated_and_the_seed_repeats_it() -> None:
    readings = run(Diagnostics(5), 120.0, 60.0)
    sizes = np.array([reading.values["OTRS:1:XRMS"] for reading in readings])
    assert sizes.std() / sizes.mean() == pytest.approx(0.02, rel=0.2)
    assert sizes.mean() == pytest.approx(1e6 * BEAM.sizes[0], rel=0.005)
    again = run(Diagnostics(5), 120.0, 1.0)
    assert [reading.values for reading in again] == [reading.values for reading in readings[: len(again)]]
    assert run(Diagnostics(6), 120.0, 1.0)[0].values != again[0].values
    quiet = Diagnostics(5)
    quiet.noise = 0.0
    first, *_, last = run(quiet, 120.0, 1.0)
    assert first.values == last.values
    assert last.values["BEAM:TRANSMISSION"] == pytest.approx(BEAM.transmission)


def test_the_image_shows_the_spot_of_the_sizes() -> None:
    instruments = Diagnostics(1)
    instruments.noise = 0.0
    image = run(instruments, 120.0, 0.1)[0].image.astype(float)
    at = 1e6 * PIXEL * (np.arange(image.shape[0]) - 0.5 * (image.shape[0] - 1))
    across = image.sum(axis=0) / image.sum()
    centre = across @ at
    assert centre == pytest.approx(1e6 * BEAM.centre[0], abs=20)
    assert math.sqrt(across @ (at - centre) ** 2) == pytest.approx(1e6 * BEAM.sizes[0], rel=0.05)
    down = image.sum(axis=1) / image.sum()
    assert -(down @ at) == pytest.approx(1e6 * BEAM.centre[1], abs=60)  # the top row is the highest
