"""Tokens of jets that have different numbers of them, and what reads them."""

import pytest
import torch

from jetmae.model.classifier import Classifier
from jetmae.model.mae import MaskedAutoencoder, View
from jetmae.model.patches import patchify
from jetmae.model.tokens import Tokens, distance_from_centre, tokens_of
from jetmae.model.vit import Encoder

SHAPE = (2, 40, 40)
ENCODER = {"patch_size": 5, "dim": 16, "depth": 2, "heads": 4, "mlp_ratio": 2.0}
DECODER = {"decoder_dim": 8, "decoder_depth": 2, "decoder_heads": 4}


def jets(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches, and which are wanted: from one to nearly all."""
    generator = torch.Generator().manual_seed(1)
    wanted = torch.rand(count, 64, generator=generator) < torch.linspace(0.02, 0.95, count)[:, None]
    return patchify(torch.randn(count, *SHAPE, generator=generator), 5), wanted


def test_tokens_are_the_wanted_patches_in_their_order_then_filling():
    wanted = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    tokens = tokens_of(wanted)
    assert tokens.kept_BK.tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    assert tokens.real_BK.tolist() == [[True, True, False, False], [False] * 4]
    assert tokens.attention_mask()[:, 0, 0].tolist() == [[True, True, True, False, False], [True] + [False] * 4]
    assert tokens_of(torch.ones(1, 40, dtype=torch.bool)).kept_BK.shape == (1, 40)
    assert tokens_of(torch.arange(40)[None] < 17).kept_BK.shape == (1, 32)


def test_distance_is_that_of_the_patches_centres():
    assert distance_from_centre(3, 3).tolist() == pytest.approx([2**0.5, 1, 2**0.5, 1, 0, 1, 2**0.5, 1, 2**0.5])
    assert distance_from_centre(2, 4)[0].item() == pytest.approx((0.5**2 + 1.5**2) ** 0.5)


@pytest.mark.parametrize("decoder", ["attention", "attention-local", "conv"])
def test_the_prediction_of_a_jet_does_not_depend_on_its_neighbours(decoder):
    torch.manual_seed(0)
    network = MaskedAutoencoder(SHAPE, **ENCODER, **DECODER, decoder=decoder, patch_values=3).eval()
    patches, wanted = jets(6)
    together, _ = network(patches, View(tokens_of(wanted)))
    assert together.shape == (6, 64, 3)
    for jet in range(6):
        alone, _ = network(patches[jet : jet + 1], View(tokens_of(wanted[jet : jet + 1])))
        assert torch.allclose(alone[0], together[jet], atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "annuli", "energy"])
def test_the_score_of_a_jet_does_not_depend_on_its_neighbours(pooling):
    torch.manual_seed(0)
    network = Classifier(
        Encoder(SHAPE, **ENCODER), grid=(8, 8), patch_size=5, pooling=pooling, normalise_features=False
    )
    images, (_, wanted) = torch.randn(6, *SHAPE), jets(6)
    energy = torch.rand(6, 64)
    together = network(images, tokens_of(wanted), energy)
    for jet in range(6):
        one = slice(jet, jet + 1)
        assert torch.allclose(network(images[one], tokens_of(wanted[one]), energy[one])[0], together[jet], atol=1e-5)


@pytest.mark.parametrize("decoder", ["attention-local", "conv", "attention"])
def test_asked_patches_are_predicted_as_all_are(decoder):
    torch.manual_seed(0)
    network = MaskedAutoencoder(SHAPE, **ENCODER, **DECODER, decoder=decoder, has_offset=True).eval()
    network.set_offset(torch.randn(64, 50))
    patches, asked = jets(2)[0], torch.tensor([[3, 60, 7], [0, 1, 2]])
    tokens = Tokens(torch.arange(20).expand(2, -1))
    everywhere, _ = network(patches, View(tokens))
    if decoder == "attention":  # where mask tokens see one another, fewer of them are something else
        assert network(patches, View(tokens, asked))[0].shape == (2, 3, 50)
    else:
        expected = torch.stack([everywhere[jet, asked[jet]] for jet in range(2)])
        assert torch.allclose(network(patches, View(tokens, asked))[0], expected, atol=1e-5)


def test_training_begins_near_the_offset():
    torch.manual_seed(0)
    network = MaskedAutoencoder(SHAPE, **ENCODER, **DECODER, decoder="conv", has_offset=True)
    offset = torch.randn(64, 50)
    network.set_offset(offset)
    prediction, _ = network(jets(2)[0], View(Tokens(torch.arange(20).expand(2, -1))))
    assert (prediction - offset).std() < 0.1 * offset.std()


def test_hidden_groups_are_told_to_the_encoder():
    torch.manual_seed(0)
    network = MaskedAutoencoder(SHAPE, **ENCODER, **DECODER, decoder="conv", groups=2)
    torch.nn.init.normal_(network.hidden_groups)
    patches, tokens = jets(2)[0], Tokens(torch.arange(20).expand(2, -1))
    none, first = torch.zeros(2, 20, 2, dtype=torch.bool), torch.zeros(2, 20, 2, dtype=torch.bool)
    first[..., 0] = True
    untold, told = network(patches, View(tokens))[0], network(patches, View(tokens, hidden_BKG=first))[0]
    assert torch.equal(untold, network(patches, View(tokens, hidden_BKG=none))[0])
    assert not torch.allclose(untold, told)
    assert "hidden_groups" not in MaskedAutoencoder(SHAPE, **ENCODER, **DECODER).state_dict()
