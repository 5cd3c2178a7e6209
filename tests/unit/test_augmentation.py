"""Mirrors and shifts of stored values, against the same on dense images."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from source_files import HCAL, TOWER_SIZE
from sparse_batches import CPU, SHAPE, image_maker, some_jets

from jetmae.data.augmentation import Augmentation
from jetmae.data.pixels import SparsePixels
from jetmae.data.simulation.detector import CHANNELS
from jetmae.errors import JetmaeError

ROWS, COLUMNS = 2, 3  # axes of images_BCHW
D0, DZ = CHANNELS.index("d0"), CHANNELS.index("dz")
LOW, HIGH = 0.25, 0.75  # noise that mirrors, and that does not


def augmentation(*, flips: bool = False, shift_patches: int = 0, patch_size: int = 5, tower_size: int = TOWER_SIZE):
    return Augmentation(
        SHAPE,
        CHANNELS,
        CPU,
        flips=flips,
        shift_patches=shift_patches,
        patch_size=patch_size,
        tower_size=tower_size,
    )


def dense(pixels: SparsePixels) -> torch.Tensor:
    return image_maker("none").source_units(pixels)


def noise(jets: int, *columns: float) -> torch.Tensor:
    return torch.tensor([columns] * jets)


def mirrored(images: torch.Tensor, *, rows: bool, columns: bool) -> torch.Tensor:
    images = images.clone()
    if rows:
        images = images.flip(ROWS)
        images[:, DZ] *= -1
    if columns:
        images = images.flip(COLUMNS)
        images[:, D0] *= -1
    return images


def shifted(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """By so many pixels; what enters is empty."""
    moved = torch.roll(images, (down, right), dims=(ROWS, COLUMNS))
    height, width = images.shape[ROWS:]
    row, column = np.indices((height, width))
    entered = (row - down < 0) | (row - down >= height) | (column - right < 0) | (column - right >= width)
    moved[..., torch.from_numpy(entered)] = 0
    return moved


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_mirrors_are_those_of_the_dense_image_with_the_signs_of_d0_and_dz(rows, columns):
    pixels = some_jets().pixels
    flips = augmentation(flips=True)
    assert flips.noise_columns == 2
    found = flips(pixels, noise(8, LOW if rows else HIGH, LOW if columns else HIGH))
    assert torch.equal(dense(found), mirrored(dense(pixels), rows=rows, columns=columns))


def test_other_channels_keep_their_signs_whatever_their_places():
    pixels = some_jets().pixels
    names = ("dz", "a", "b", "c", "d", "e", "f", "d0")
    flips = Augmentation(SHAPE, names, CPU, flips=True, shift_patches=0, patch_size=5, tower_size=TOWER_SIZE)
    found, expected = dense(flips(pixels, noise(8, LOW, HIGH))), dense(pixels).flip(ROWS)
    assert torch.equal(found[:, 0], -expected[:, 0])
    assert torch.equal(found[:, 1:], expected[:, 1:])


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (0, -1), (-2, 2), (2, 1)])
def test_shifts_are_those_of_the_dense_image(down, right):
    pixels = some_jets().pixels
    shifts = augmentation(shift_patches=2)
    assert shifts.noise_columns == 2
    found = shifts(pixels, noise(8, (down + 2.5) / 5, (right + 2.5) / 5))
    assert torch.equal(dense(found), shifted(dense(pixels), 5 * down, 5 * right))
    assert (found.value_n != 0).all()


def test_a_shift_without_towers_goes_by_patches_of_any_size():
    pixels = some_jets().pixels
    pixels = only(pixels, pixels.channel_n != HCAL)
    shifts = augmentation(shift_patches=1, patch_size=1, tower_size=0)
    found = shifts(pixels, noise(8, 0.9, 0.1))
    assert torch.equal(dense(found), shifted(dense(pixels), 1, -1))


def test_a_jet_is_mirrored_first_and_shifted_then():
    pixels = some_jets().pixels
    both = augmentation(flips=True, shift_patches=1)
    assert both.noise_columns == 4
    found = both(pixels, noise(8, LOW, LOW, 0.9, 0.5))
    expected = shifted(mirrored(dense(pixels), rows=True, columns=True), 5, 0)
    assert torch.equal(dense(found), expected)


def test_every_shift_and_mirror_is_as_frequent_as_the_others():
    values = np.linspace(0, 1, 3001, dtype=np.float32)[:-1]
    ends = torch.tensor([[0.0], [np.nextafter(np.float32(1), np.float32(0))]])
    both = augmentation(flips=True, shift_patches=1)
    assert both._mirrors(torch.from_numpy(values)[:, None].repeat(1, 4)).sum(dim=0).tolist() == [1500, 1500]
    assert torch.bincount(both._shifts(torch.from_numpy(values)[:, None].repeat(1, 4))[:, 0]).tolist() == [1000] * 3
    assert both._shifts(ends.repeat(1, 4)).tolist() == [[0, 0], [2, 2]]


def test_a_jet_depends_on_its_own_noise_alone():
    pixels = some_jets().pixels
    noise_BN = torch.rand(8, 4, generator=torch.Generator().manual_seed(3))
    both = augmentation(flips=True, shift_patches=2)
    whole = dense(both(pixels, noise_BN))
    halves = [dense(both(jets_of(pixels, first, 4), noise_BN[first : first + 4])) for first in (0, 4)]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, dense(pixels))


def test_without_augmentation_nothing_changes_and_no_noise_is_needed():
    pixels = some_jets().pixels
    none = augmentation()
    assert none.noise_columns == 0
    assert none(pixels, torch.empty(8, 0)) is pixels


def test_a_shift_that_would_cut_towers_is_refused():
    with pytest.raises(JetmaeError, match="patches of 3 pixels cuts the data's towers of 5 pixels"):
        augmentation(shift_patches=1, patch_size=3)
    assert augmentation(flips=True, patch_size=3).noise_columns == 2


def jets_of(pixels: SparsePixels, first: int, jets: int) -> SparsePixels:
    part = only(pixels, (pixels.jet_n >= first) & (pixels.jet_n < first + jets))
    return replace(part, jet_n=part.jet_n - first, jets=jets)


def only(pixels: SparsePixels, kept_n: torch.Tensor) -> SparsePixels:
    names = [field.name for field in fields(pixels) if field.name != "jets"]
    return replace(pixels, **{name: getattr(pixels, name)[kept_n] for name in names})
