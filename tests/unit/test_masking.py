"""What masks hide, and how much of it."""

import pytest
import torch

from jetmae.config import Mask, Reconstruct
from jetmae.errors import JetmaeError
from jetmae.model.patches import split_patches
from jetmae.tasks.masking import Masking, groups_of, hidden_patches, masking_of

GROUPS = (("track_pt",), ("d0", "dz"), ("ecal",), ("hcal",), ("bpix1", "bpix2", "bpix3"))
CHANNELS = ("track_pt", "d0", "dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3")
KINDS = [Mask(kind="patches"), Mask(kind="patch_groups", ratio=0.6), Mask(kind="groups", ratio=0.5)]


def noise(masking: Masking, jets: int = 400) -> torch.Tensor:
    return torch.rand(jets, masking.noise_columns, generator=torch.Generator().manual_seed(0))


def test_patches_are_hidden_in_all_groups_and_are_those_of_the_seed():
    masking = Masking((Mask(kind="patches", ratio=0.75),), patches=625, groups=5)
    drawn = noise(masking, 7)
    hidden = masking(drawn)
    assert (hidden == hidden[..., :1]).all()
    _, masked = split_patches(drawn[:, 7:].unflatten(1, (625, 5))[..., 0], 0.75)
    expected = torch.zeros(7, 625, dtype=torch.bool).scatter(1, masked, True)
    assert torch.equal(hidden[..., 0], expected)
    assert torch.equal(hidden_patches(drawn[:, :625], 0.75).sum(1), torch.full((7,), 469))


def test_patch_groups_are_hidden_one_by_one():
    masking = Masking((Mask(kind="patch_groups", ratio=0.6),), patches=25, groups=5)
    hidden = masking(noise(masking)).float()
    assert hidden.mean((0, 1)).numpy() == pytest.approx([0.6] * 5, abs=0.02)
    together = (hidden[..., 0] * hidden[..., 1]).mean()
    assert together == pytest.approx(0.36, abs=0.02)


def test_groups_are_hidden_in_the_whole_jet_but_never_all_of_them():
    masking = Masking((Mask(kind="groups", ratio=0.4),), patches=25, groups=5)
    hidden = masking(noise(masking))
    patch_hidden = hidden.all(dim=2)
    assert torch.equal(patch_hidden.sum(1), torch.full((400,), 25 - int(25 * 0.6)))
    whole = torch.stack([jet[~where].all(dim=0) for jet, where in zip(hidden, patch_hidden, strict=True)])
    assert whole.sum(1).unique().tolist() == [1, 2, 3, 4]
    assert whole.float().mean(0).numpy() == pytest.approx([0.5] * 5, abs=0.08)


@pytest.mark.parametrize("masks", [(mask,) for mask in KINDS] + [tuple(KINDS)])
def test_as_much_is_hidden_as_is_said(masks):
    masking = Masking(masks, patches=100, groups=5)
    assert masking(noise(masking, 4000)).float().mean().item() == pytest.approx(masking.hidden_fraction, abs=0.01)


def test_masks_are_drawn_as_often_as_their_probabilities_say():
    masks = (Mask(kind="patches", probability=3.0), Mask(kind="groups", probability=1.0))
    masking = Masking(masks, patches=25, groups=2)
    hidden = masking(noise(masking, 2000))
    by_patches = (hidden == hidden[..., :1]).all(dim=(1, 2)).float().mean()
    assert by_patches.item() == pytest.approx(0.75, abs=0.03)


def test_a_jet_is_hidden_by_its_own_noise_alone():
    masking = Masking(tuple(KINDS), patches=25, groups=5)
    drawn = noise(masking, 8)
    assert torch.equal(masking(drawn), torch.cat([masking(drawn[:3]), masking(drawn[3:])]))


def test_groups_are_channels_by_name():
    hides_groups = Reconstruct(masks=(Mask(kind="groups"),), groups=GROUPS)
    assert groups_of(hides_groups, CHANNELS) == [0, 1, 1, 2, 3, 4, 4, 4]
    assert groups_of(Reconstruct(groups=GROUPS), CHANNELS) == [0] * 8  # whole patches alone are hidden
    with pytest.raises(JetmaeError, match=r"names the channels track_pt, .*expected each of a, b once"):
        groups_of(hides_groups, ("a", "b"))


def test_groups_are_detectors_unless_they_are_named():
    hides_groups = Reconstruct(masks=(Mask(kind="patch_groups"),))
    assert groups_of(hides_groups, CHANNELS) == [2, 0, 0, 3, 4, 1, 1, 1]
    assert groups_of(hides_groups, ("tracks", "ecal", "hcal")) == [0, 1, 2]
    with pytest.raises(JetmaeError, match="the channels image are one group: expected two or more"):
        groups_of(hides_groups, ("image",))


def test_without_masks_it_is_the_seeds():
    masking = masking_of(Reconstruct(mask_ratio=0.6), patches=25, groups=1)
    assert masking.masks == (Mask(kind="patches", ratio=0.6),)
    assert masking.groups == 1
