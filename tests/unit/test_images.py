"""Dense images made from stored values, against the images that were stored."""

import numpy as np
import pytest
import torch
from sparse_batches import MEAN, SCALE, STD, image_maker, some_jets

from jetmae.data.normalisation import TRANSFORMS
from jetmae.data.sparse import densify


def per_channel(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


DENSE_TRANSFORMS = {
    "none": lambda images: images,
    "asinh": lambda images: torch.asinh(images / per_channel(SCALE)),
    "log": lambda images: torch.sign(images) * torch.log1p(images.abs() / per_channel(SCALE)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_dense_images_are_the_stored_ones_normalised_bit_for_bit(transform):
    jets = some_jets()
    scaled = DENSE_TRANSFORMS[transform](torch.from_numpy(jets.images_BCHW)) / per_channel(STD)
    expected = scaled - per_channel(MEAN) / per_channel(STD)
    images = image_maker(transform)
    assert torch.equal(images(jets.batch), expected)
    assert torch.equal(images.dense(images.sparse(jets.batch)), expected)
    assert images(jets.batch).is_contiguous()


def test_images_in_source_units_are_the_stored_ones_bit_for_bit():
    jets = some_jets()
    images = image_maker("log").source_units(jets.pixels)
    assert np.array_equal(images.numpy(), jets.images_BCHW)
    assert np.array_equal(images.numpy(), densify(jets.sparse, jets.images_BCHW.shape[1:], 5))


def test_sparse_pixels_name_jet_channel_and_place():
    jets = some_jets()
    pixels = jets.pixels
    assert pixels.jets == 8
    assert torch.equal(pixels.value_n, torch.from_numpy(jets.sparse.value))
    assert np.array_equal(pixels.place_n.numpy(), jets.sparse.index)
    counted = np.zeros(jets.sparse.count_NC.shape)
    np.add.at(counted, (pixels.jet_n.numpy(), pixels.channel_n.numpy()), 1)
    assert np.array_equal(counted, jets.sparse.count_NC)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_normalisation_can_be_undone(transform):
    jets, images = some_jets(), image_maker(transform)
    again = images.to_source_units(images(jets.batch))
    assert torch.allclose(again, torch.from_numpy(jets.images_BCHW), rtol=1e-5, atol=1e-5)
