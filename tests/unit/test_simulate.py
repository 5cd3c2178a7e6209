"""The simulation: detector response as plain functions, and files that are the same bits for the same seed."""

import hashlib
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetmae.data.simulation import detector, simulate
from jetmae.data.simulation.detector import Helix, Particles, Window, round_mantissa
from jetmae.errors import JetmaeError

SAMPLE = Path(__file__).parents[2] / "sample"
JETS_PER_BLOCK = 4
OPTIONS = {"process": "top_vs_qcd", "num_jets": 10, "seed": 3, "pile_up": 20.0}
PION, PHOTON = 211, 22


def particle_rows(*rows: tuple[float, ...]) -> np.ndarray:
    """(pdg_id, charge, pt, eta, phi, x_cm, y_cm, z_cm) each, to the table the detector reads; massless."""
    table = [
        (pdg_id, charge, pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta), x, y, z)
        for pdg_id, charge, pt, eta, phi, x, y, z in rows
    ]
    return np.array(table)


def image_of(*rows: tuple[float, ...], eta: float = 0.0, phi: float = 0.0) -> dict[str, np.ndarray]:
    particles = Particles.from_rows(particle_rows(*rows))
    image = detector.jet_image(particles, vertex_z_cm=0.0, jet_eta=eta, jet_phi=phi, generator=np.random.default_rng(0))
    return dict(zip(detector.CHANNELS, image, strict=True))


# --- detector ----------------------------------------------------------------------------------------------------


def test_field_bends_a_pion_by_the_textbook_angle() -> None:
    helix = Helix.of(
        Particles.from_rows(particle_rows((PION, 1, 2.0, 0.5, 1.0, 0, 0, 0), (-PION, -1, 2.0, 0.5, 1.0, 0, 0, 0)))
    )
    eta, phi = detector.calorimeter_positions(helix)
    bend = np.arcsin(1.29 / 2 / (2.0 / (0.299792458 * 3.8)))  # half the chord over the radius, both in metres
    np.testing.assert_allclose(phi, [1.0 - bend, 1.0 + bend], atol=1e-9)
    assert np.all(eta > 0.5)  # the path is longer than the chord, so z grows


def test_neutral_particles_fly_straight() -> None:
    eta, phi = detector.calorimeter_positions(
        Helix.of(Particles.from_rows(particle_rows((PHOTON, 0, 5.0, 1.1, -2.0, 0, 0, 0))))
    )
    np.testing.assert_allclose([eta[0], phi[0]], [1.1, -2.0], atol=1e-4)


def test_soft_pion_reaches_the_endcap_but_not_the_barrel() -> None:
    helix = Helix.of(Particles.from_rows(particle_rows((PION, 1, 0.6, 0.5, 0.0, 0, 0, 0))))
    assert np.isinf(helix.turn_to_cylinder(detector.ECAL_RADIUS_CM))[0]
    _, z = helix.point_after(helix.turn_to_endcap(detector.ECAL_HALF_LENGTH_CM))
    np.testing.assert_allclose(z, detector.ECAL_HALF_LENGTH_CM)


@pytest.mark.parametrize("charge", [-1, 1])
def test_perigee_is_the_nearest_point_of_the_path(charge: int) -> None:
    helix = Helix.of(Particles.from_rows(particle_rows((PION, charge, 1.5, 0.7, 0.4, 1.0, 3.0, 2.0))))
    turns = np.linspace(-0.2, 0.2, 400_001)
    points, heights = helix.point_after(turns)
    nearest = np.abs(points).argmin()
    d0, z, phi = helix.perigee()
    direction = np.angle(points[nearest + 1] - points[nearest])
    side = np.sign((np.exp(-1j * direction) * points[nearest]).imag)
    np.testing.assert_allclose(
        [d0[0], z[0], phi[0]], [side * np.abs(points[nearest]), heights[nearest], direction], atol=1e-4
    )


@pytest.mark.parametrize("charge", [-1, 0, 1])
@pytest.mark.parametrize("y_cm", [-0.1, 0.1])
def test_d0_has_the_sign_of_dxy(charge: int, y_cm: float) -> None:
    """dxy = -L_z / pT = (y px - x py) / pT; here a path along +x, above or below the beam."""
    d0, _, _ = Helix.of(Particles.from_rows(particle_rows((PION, charge, 50.0, 0.0, 0.0, 0.0, y_cm, 0.0)))).perigee()
    assert d0[0] == pytest.approx(y_cm, rel=1e-3)


def test_d0_and_dz_keep_their_sign() -> None:
    above, below = (PION, 1, 50.0, 0.0, 0.0, 0.0, 0.5, 1.0), (PION, 1, 50.0, 0.0, 0.3, 0.0, -0.5, -1.0)
    image = image_of(above, below)
    for channel, size in (("d0", 0.5), ("dz", 1.0)):
        values = image[channel][image[channel] != 0]
        assert values.min() == pytest.approx(-size, rel=0.1)
        assert values.max() == pytest.approx(size, rel=0.1)


def test_displaced_track_leaves_no_hit_inside_its_birthplace() -> None:
    born_after_layer_1 = (PION, 1, 20.0, 0.0, 0.0, 6.0, 0.0, 0.0)
    assert np.isinf(Helix.of(Particles.from_rows(particle_rows(born_after_layer_1))).turn_to_cylinder(4.4))[0]
    image = image_of(born_after_layer_1)
    assert [image[layer].sum() for layer in ("bpix1", "bpix2", "bpix3")] == [0, 1, 1]


def test_towers_are_aligned_with_the_patches_and_flat() -> None:
    rows = [
        (PION, 1, 40.0, eta, phi, 0, 0, 0) for eta in np.linspace(-0.8, 0.8, 9) for phi in np.linspace(-0.8, 0.8, 9)
    ]
    patches = image_of(*rows)["hcal"].reshape(25, 5, 25, 5)
    assert np.count_nonzero(patches[:, 0, :, 0]) > 30
    assert np.array_equal(patches, np.broadcast_to(patches[:, :1, :, :1], patches.shape))


def test_leading_tower_is_in_the_middle_across_the_seam_in_phi() -> None:
    image = image_of((PION, 1, 300.0, 0.33, np.pi - 0.01, 0, 0, 0), eta=0.3, phi=-np.pi + 0.1)
    patch_sums = image["hcal"].reshape(25, 5, 25, 5).sum((1, 3))
    assert np.unravel_index(patch_sums.argmax(), patch_sums.shape) == (12, 12)


def test_photon_energy_stays_within_three_by_three_crystals() -> None:
    ecal = image_of((PHOTON, 0, 100.0, 0.2, 0.1, 0, 0, 0))["ecal"]
    row, column = np.unravel_index(ecal.argmax(), ecal.shape)
    assert ecal.sum() == pytest.approx(100 * np.cosh(0.2), rel=0.03)
    assert np.count_nonzero(ecal) == np.count_nonzero(ecal[row - 1 : row + 2, column - 1 : column + 2])


def test_neutrinos_are_not_seen() -> None:
    assert (
        Particles.from_rows(particle_rows((-14, 0, 50.0, 0, 0, 0, 0, 0), (PHOTON, 0, 5.0, 0, 0, 0, 0, 0))).charge.size
        == 1
    )


def test_window_sums_equal_a_loop() -> None:
    rng = np.random.default_rng(1)
    eta, phi, weight = rng.uniform(-3, 3, 500), rng.uniform(-np.pi, np.pi, 500), rng.random(500)
    expected = np.zeros((125, 125))
    for one_eta, one_phi, one_weight in zip(eta, phi, weight, strict=True):
        row = int(np.floor(one_eta / 0.0174)) - (40 - 12 - 35) * 5
        column = (int(np.floor(one_phi / (np.pi / 180))) - (3 - 12) * 5) % 360
        if 0 <= row < 125 and column < 125:
            expected[row, column] += one_weight
    np.testing.assert_allclose(Window(40, 3).sum(eta, phi, weight), expected)


# --- rounding ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(2**-14, 2**14, width=32) | st.floats(-(2**14), -(2**-14), width=32), min_size=1))
def test_rounding_keeps_ten_bits(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    rounded = round_mantissa(values)
    assert np.all(np.abs(rounded - values) <= np.abs(values) * 2.0**-11)
    assert np.all(rounded.view(np.uint32) & (2**13 - 1) == 0)
    assert np.array_equal(round_mantissa(rounded), rounded)
    assert np.array_equal(rounded.astype(np.float16).astype(np.float32), rounded)  # so float16 shards lose nothing


def test_rounding_leaves_zero_and_its_argument_alone() -> None:
    values = np.array([0.0, 1.0003, -3.0], np.float32)
    assert round_mantissa(values).tolist() == [0.0, 1.0, -3.0]
    assert values[1] == np.float32(1.0003)


# --- blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_jets", [1, 63, 64, 200])
def test_classes_are_balanced_and_mixed(num_jets: int) -> None:
    blocks = simulate.blocks_of("top_vs_qcd", num_jets, 0, 0.0, 0, 6)
    labels = np.concatenate([simulate.block_labels(block) for block in blocks])
    assert labels.size == num_jets
    assert abs(2 * int(labels.sum()) - num_jets) <= 1
    assert num_jets == 1 or np.abs(np.diff(labels.astype(int))).sum() not in (1, num_jets - 1)


def test_placing_an_event_turns_momentum_and_birthplace_together() -> None:
    rows = particle_rows((PION, 1, 2.0, 0.5, 0.1, 1.0, 0.0, 3.0))
    turned = simulate.placed(rows, np.exp(0.5j), -1.0, 10.0)
    expected = particle_rows((PION, 1, 2.0, -0.5, 0.6, np.cos(0.5), np.sin(0.5), 7.0))
    np.testing.assert_allclose(turned, expected, atol=1e-12)
    assert rows[0, 8] == 3.0


# --- files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ten jets in three blocks by one worker and by two; the first block unlabelled, and the second alone."""
    folder = tmp_path_factory.mktemp("simulated")
    files = {name: folder / name / "jets.h5" for name in ("one", "two", "unlabelled", "second_block")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "JETS_PER_BLOCK", JETS_PER_BLOCK)
        simulate.simulate(files["one"], **OPTIONS, workers=1)
        simulate.simulate(files["two"], **OPTIONS, workers=2)
        one_block = OPTIONS | {"num_jets": JETS_PER_BLOCK}
        simulate.simulate(files["unlabelled"], **one_block, labelled=False)
        simulate.simulate(files["second_block"], **one_block, first_block=1)
    return files


def test_same_bytes_with_one_worker_and_two(written: dict[str, Path]) -> None:
    assert written["one"].read_bytes() == written["two"].read_bytes()


def test_a_block_does_not_depend_on_the_ones_before(written: dict[str, Path]) -> None:
    with h5py.File(written["one"]) as all_blocks, h5py.File(written["second_block"]) as second:
        for name in ("jet", "Y", "m", "pT"):
            assert np.array_equal(all_blocks[name][JETS_PER_BLOCK : 2 * JETS_PER_BLOCK], second[name][:])


def test_schema(written: dict[str, Path]) -> None:
    with h5py.File(written["one"]) as file:
        assert sorted(file) == ["Y", "jet", "m", "pT"]
        assert (file["jet"].shape, file["jet"].dtype) == ((10, 8, 125, 125), np.float32)
        assert (file["jet"].chunks, file["jet"].compression) == ((1, 8, 125, 125), "gzip")
        assert (file["Y"].dtype, file["m"].dtype, file["pT"].dtype) == (np.uint8, np.float32, np.float32)
        assert sorted(file["Y"][:].tolist()) == [0] * 5 + [1] * 5
        assert file["pT"][:].min() >= 400
        assert np.isfinite(file["jet"][:]).all()


def test_attributes_say_how_to_repeat_the_file(written: dict[str, Path]) -> None:
    with h5py.File(written["unlabelled"]) as file:
        attributes = dict(file.attrs)
    assert attributes["format"] == "jetmae-source"
    assert tuple(attributes["channels"]) == detector.CHANNELS
    assert tuple(attributes["classes"]) == ("qcd", "top")
    assert (attributes["seed"], attributes["pile_up"], attributes["num_blocks"]) == (3, 20.0, 1)
    assert attributes["command"] == (
        "python jobs/data.py simulate --process top_vs_qcd --jets 4 --seed 3 --pile-up 20 --first-block 0 "
        "--gzip-level 6 --unlabelled --output jets.h5"
    )


def test_unlabelled_file_has_the_same_jets_and_no_label(written: dict[str, Path]) -> None:
    with h5py.File(written["one"]) as labelled, h5py.File(written["unlabelled"]) as unlabelled:
        assert sorted(unlabelled) == ["jet", "m", "pT"]
        assert np.array_equal(labelled["jet"][:JETS_PER_BLOCK], unlabelled["jet"][:])


def test_simulated_channels_look_like_jets(written: dict[str, Path]) -> None:
    with h5py.File(written["one"]) as file:
        channels = dict(zip(file.attrs["channels"], file["jet"][:].swapaxes(0, 1), strict=True))
    towers = channels["hcal"].reshape(10, 25, 5, 25, 5)
    assert np.array_equal(towers, np.broadcast_to(towers[:, :, :1, :, :1], towers.shape))
    assert channels["d0"].min() < 0 < channels["d0"].max()
    assert channels["dz"].min() < 0 < channels["dz"].max()
    assert 0.01 < np.mean([np.count_nonzero(channel) / channel.size for channel in channels.values()]) < 0.025
    assert np.all(channels["ecal"][channels["ecal"] != 0] > 0.079)
    assert np.array_equal(channels["bpix1"], np.round(channels["bpix1"]))


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("process", "higgs", "unknown process 'higgs': expected one of top_vs_qcd, quark_vs_gluon"),
        ("num_jets", 0, "number of jets is 0: expected at least 1"),
        ("seed", -1, "seed is -1"),
        ("pile_up", float("nan"), "pile-up is nan"),
        ("workers", 0, "number of workers is 0"),
        ("first_block", -1, "first block is -1"),
        ("gzip_level", 10, "gzip level is 10"),
    ],
)
def test_bad_option_is_named_and_leaves_nothing(tmp_path: Path, option: str, value: object, message: str) -> None:
    with pytest.raises(JetmaeError, match=re.escape(message)):
        simulate.simulate(tmp_path / "new" / "jets.h5", **OPTIONS | {option: value})
    assert not list(tmp_path.iterdir())


def test_existing_output_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "train.h5"
    output.write_text("precious")
    with pytest.raises(JetmaeError, match="exists: expected a new file; choose another name or add --overwrite"):
        simulate.simulate(output, **OPTIONS)
    with pytest.raises(JetmaeError, match="exists"):
        simulate.simulate_sample(tmp_path)
    assert output.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [output]


def test_missing_pythia_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(JetmaeError, match=re.escape("pip install -e '.[sim]'")):
        simulate.simulate(tmp_path / "jets.h5", **OPTIONS)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JetmaeError, match="cannot write into"):
        simulate.simulate(tmp_path / "file" / "jets.h5", **OPTIONS)


def test_failure_half_way_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def one_block_then_failure(blocks: list[simulate.Block], workers: int):
        columns = {"m": np.zeros(10, np.float32), "pT": np.zeros(10, np.float32), "Y": np.zeros(10, np.uint8)}
        yield simulate.SimulatedBlock([simulate.compressed_image(np.zeros(simulate.IMAGE_SHAPE), 6)] * 4, columns)
        raise OSError("disk full")

    monkeypatch.setattr(simulate, "simulated_blocks", one_block_then_failure)
    output = tmp_path / "train.h5"
    output.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        simulate.simulate(output, **OPTIONS, overwrite=True)
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


# --- the shipped sample ------------------------------------------------------------------------------------------


def test_sample_is_what_its_readme_says() -> None:
    readme = (SAMPLE / "README.md").read_text()
    for item in simulate.SAMPLE:
        path = SAMPLE / item.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme
        with h5py.File(path) as file:
            assert file["jet"].shape[0] == item.num_jets
            assert ("Y" in file) == item.labelled
            assert file.attrs["command"] in readme


def test_sample_fits_into_the_repository() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.glob("*.h5")) < 18e6
    assert len({item.seed for item in simulate.SAMPLE}) == len(simulate.SAMPLE)
