"""Patch sums of stored values, against sums over dense images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from source_files import HCAL, TOWER_SIZE
from sparse_batches import SHAPE, SIDE, Jets, some_jets

from jetmae.data.patch_sums import patch_sums


def dense_sums(images_BCHW: np.ndarray, patch_size: int) -> np.ndarray:
    """Float64 sums over patches (B, L, C)."""
    jets, channels = images_BCHW.shape[:2]
    n = SIDE // patch_size
    blocks = images_BCHW.astype(np.float64).reshape(jets, channels, n, patch_size, n, patch_size)
    return blocks.sum(axis=(3, 5)).reshape(jets, channels, n * n).transpose(0, 2, 1)


def check(jets: Jets, pixels, patch_size: int, tower_size: int) -> None:
    sums = patch_sums(pixels, SHAPE, patch_size, tower_size)
    for found, images in ((sums.signed_BLC, jets.images_BCHW), (sums.absolute_BLC, np.abs(jets.images_BCHW))):
        expected = dense_sums(images, patch_size)
        assert found.dtype == torch.float32
        assert found.shape == expected.shape
        assert np.allclose(found.numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("patch_size", [1, 5, 25])
def test_sums_are_those_of_the_dense_images(patch_size):
    """With patches smaller than a tower, of its size, and larger."""
    jets = some_jets()
    assert (jets.pixels.place_n >= SIDE**2).any()
    check(jets, jets.pixels, patch_size, TOWER_SIZE)


@pytest.mark.parametrize("patch_size", [1, 5, 25])
def test_sums_without_towers(patch_size):
    jets = some_jets()
    images = jets.images_BCHW.copy()
    images[:, HCAL] = 0
    pixels = jets.pixels
    kept = pixels.channel_n != HCAL
    without = type(pixels)(*(getattr(pixels, f"{name}_n")[kept] for name in ("value", "jet", "channel", "place")), 8)
    check(replace(jets, images_BCHW=images), without, patch_size, 0)


def test_sums_do_not_depend_on_the_order_of_the_values():
    pixels = some_jets().pixels
    order = torch.randperm(len(pixels.value_n), generator=torch.Generator().manual_seed(1))
    names = ("value_n", "jet_n", "channel_n", "place_n")
    shuffled = replace(pixels, **{name: getattr(pixels, name)[order] for name in names})
    one, other = (patch_sums(p, SHAPE, 25, TOWER_SIZE) for p in (pixels, shuffled))
    assert torch.equal(one.signed_BLC, other.signed_BLC)
    assert torch.equal(one.absolute_BLC, other.absolute_BLC)
