"""The network: names and shapes of the seed, and the mathematics of the published masked auto-encoder."""

import pytest
import torch
from torch import nn

from jetmae.model.classifier import Classifier, LinearProbe
from jetmae.model.mae import MaskedAutoencoder, View, reconstruction_loss
from jetmae.model.patches import (
    channel_first,
    channel_last,
    patchify,
    sincos_positions,
    split_patches,
    take_patches,
    unpatchify,
)
from jetmae.model.tokens import Tokens
from jetmae.model.vit import Encoder, drop_paths, set_drop_path_noise

SHAPE = (8, 125, 125)
TINY = {"patch_size": 5, "dim": 32, "depth": 2, "heads": 4, "mlp_ratio": 4.0}
TINY_DECODER = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}


def block_shapes(prefix: str, dim: int) -> dict[str, tuple[int, ...]]:
    """Parameters of one pre-norm transformer block as the seed document prints them."""
    linear = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim)}
    shapes = {f"{prefix}.{norm}.{part}": (dim,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
    shapes |= {f"{prefix}.{name}.weight": shape for name, shape in linear.items()}
    return shapes | {f"{prefix}.{name}.bias": shape[:1] for name, shape in linear.items()}


def seed_shapes() -> dict[str, tuple[int, ...]]:
    """The state dict of the seed's Masked_VIT."""
    shapes = {
        "encoder.cls_token": (1, 1, 768),
        "encoder.pos_embed": (1, 626, 768),
        "encoder.patch_embed.proj.weight": (768, 8, 5, 5),
        "encoder.patch_embed.proj.bias": (768,),
        "encoder.norm.weight": (768,),
        "encoder.norm.bias": (768,),
        "decoder.mask_token": (1, 1, 512),
        "decoder.decoder_pos_embed": (1, 626, 512),
        "decoder.decoder_embed.weight": (512, 768),
        "decoder.decoder_embed.bias": (512,),
        "decoder.decoder_norm.weight": (512,),
        "decoder.decoder_norm.bias": (512,),
        "decoder.decoder_pred.weight": (200, 512),
        "decoder.decoder_pred.bias": (200,),
    }
    for i in range(8):
        shapes |= block_shapes(f"encoder.blocks.{i}", 768)
    for i in range(4):
        shapes |= block_shapes(f"decoder.decoder_blocks.{i}", 512)
    return shapes


POOLINGS = ("mean", "cls", "patch_mean", "annuli")


def masked(network, images, noise):
    """Prediction and target of the hidden three quarters of the patches, and which they are."""
    patches = patchify(images, 5)
    kept, hidden = split_patches(noise, 0.75)
    target = channel_last(take_patches(patches, hidden), images.shape[1])
    return network(patches, View(Tokens(kept), hidden))[0], target, hidden


def tiny_mae(**more) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(SHAPE, **TINY, **TINY_DECODER, **more)


def test_seed_preset_has_the_seeds_names_and_shapes_and_takes_a_step():
    from jetmae.config import load_experiment

    experiment = load_experiment("pretrain", "seed", [])
    names = ("decoder_dim", "decoder_depth", "decoder_heads")
    decoder = {name: getattr(experiment.reconstruct, name) for name in names}
    network = MaskedAutoencoder(SHAPE, **experiment.model.model_dump(exclude={"tokens"}), **decoder)
    assert {name: tuple(weight.shape) for name, weight in network.state_dict().items()} == seed_shapes()
    network.load_state_dict({name: torch.zeros(shape) for name, shape in seed_shapes().items()}, strict=True)

    network = MaskedAutoencoder(SHAPE, **experiment.model.model_dump(exclude={"tokens"}), **decoder)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    images, noise = torch.randn(1, *SHAPE), torch.rand(1, 625)
    losses = []
    for _ in range(2):
        loss = reconstruction_loss(*masked(network, images, noise)[:2])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def reference_loss(network: MaskedAutoencoder, images: torch.Tensor, noise: torch.Tensor, norm_pix_loss: bool):
    """The masked auto-encoder as arXiv:2111.06377 describes it, step by step, with the network's own weights.

    Embed all patches by a convolution, drop the hidden, encode, put mask tokens in, restore the order, decode, compare.
    """
    encoder, decoder = network.encoder, network.decoder
    projection = encoder.patch_embed.proj
    embedded = nn.functional.conv2d(images, projection.weight, projection.bias, stride=5).flatten(2).mT
    embedded = embedded + encoder.pos_embed[:, 1:]
    rank_of_patch = noise.argsort(1).argsort(1)
    visible = rank_of_patch < 156
    tokens = torch.stack([e[v] for e, v in zip(embedded, visible, strict=True)])
    tokens = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(images), -1, -1), tokens], 1)
    for block in encoder.blocks:
        tokens = block(tokens)
    tokens = decoder.decoder_embed(encoder.norm(tokens))
    full = decoder.mask_token.repeat(len(images), 626, 1)
    full[:, 0] = tokens[:, 0]
    for image in range(len(images)):
        full[image, 1:][visible[image]] = tokens[image, 1:]
    full = full + decoder.decoder_pos_embed
    for block in decoder.decoder_blocks:
        full = block(full)
    prediction = decoder.decoder_pred(decoder.decoder_norm(full))[:, 1:]
    target = images.reshape(-1, 8, 25, 5, 25, 5).permute(0, 2, 4, 3, 5, 1).reshape(-1, 625, 200)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    per_patch = ((prediction - target) ** 2).mean(-1)
    return (per_patch * ~visible).sum() / (~visible).sum()


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_loss_and_gradients_are_those_of_the_published_algorithm(norm_pix_loss):
    network, generator = tiny_mae(), torch.Generator().manual_seed(1)
    images, noise = torch.randn(3, *SHAPE, generator=generator), torch.rand(3, 625, generator=generator)

    expected = reference_loss(network, images, noise, norm_pix_loss)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}
    network.zero_grad()
    loss = reconstruction_loss(*masked(network, images, noise)[:2], norm_pix_loss=norm_pix_loss)
    loss.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            scale = gradients[name].abs().max()
            assert (parameter.grad - gradients[name]).abs().max() <= 1e-5 * scale, name


def test_only_hidden_pixels_enter_the_loss():
    network, images, noise = tiny_mae(), torch.randn(1, *SHAPE), torch.rand(1, 625)
    prediction, target, ids = masked(network, images, noise)
    kept, hidden = split_patches(noise, 0.75)
    assert torch.equal(ids, hidden)
    assert target.shape == prediction.shape == (1, 469, 200)
    assert sorted([*kept[0].tolist(), *hidden[0].tolist()]) == list(range(625))
    assert torch.equal(channel_first(target, 8), patchify(images, 5)[:, hidden[0]])


def test_channel_weights_choose_what_counts_and_equal_ones_change_nothing():
    prediction, target = torch.randn(2, 3, 200), torch.randn(2, 3, 200)
    plain = reconstruction_loss(prediction, target)
    assert reconstruction_loss(prediction, target, channel_weights_C=torch.full((8,), 3.0)) == pytest.approx(plain)
    only_hcal = reconstruction_loss(prediction, target, channel_weights_C=torch.eye(8)[4])
    error = (channel_first(prediction, 8) - channel_first(target, 8)).unflatten(-1, (8, 25))[:, :, 4]
    assert only_hcal == pytest.approx(8 * (error**2).sum().item() / prediction.numel(), rel=1e-5)


def test_patches_come_back_as_the_image():
    images = torch.randn(2, *SHAPE)
    patches = patchify(images, 5)
    assert torch.equal(unpatchify(patches, SHAPE, 5), images)
    assert torch.equal(patches[0, 26].view(8, 5, 5), images[0, :, 5:10, 5:10])
    assert torch.equal(channel_first(channel_last(patches, 8), 8), patches)


def test_positions_encode_the_column_in_the_first_half_and_the_row_in_the_second():
    table = sincos_positions(16, 25, 25)[0]
    assert table.shape == (626, 16)
    assert (table[0] == 0).all()
    row, column = 3, 7
    frequency = 1 / 10000 ** (torch.arange(4, dtype=torch.float64) / 4)
    expected = [wave(place * frequency) for place in (column, row) for wave in (torch.sin, torch.cos)]
    assert torch.allclose(table[1 + row * 25 + column], torch.cat(expected).float(), atol=1e-6)


def test_drop_path_takes_its_noise_from_outside():
    network = tiny_mae(drop_path=0.5)
    layers = drop_paths(network)
    assert len(layers) == 2  # both branches of the second block; the first has rate 0
    images, noise = torch.randn(2, *SHAPE), torch.rand(2, 625)
    set_drop_path_noise(network, torch.zeros(2, 2))
    dropped = masked(network, images, noise)[0]
    set_drop_path_noise(network, torch.ones(2, 2))
    kept = masked(network, images, noise)[0]
    assert not torch.allclose(dropped, kept)
    set_drop_path_noise(network, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    mixed = masked(network, images, noise)[0]
    assert torch.allclose(mixed[0], dropped[0], atol=1e-6)
    assert torch.allclose(mixed[1], kept[1], atol=1e-6)
    network.eval()
    assert torch.equal(masked(network, images, noise)[0], masked(network, images, noise)[0])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_classifier_pools_what_its_name_says(pooling):
    network = Classifier(Encoder(SHAPE, **TINY), grid=(25, 25), patch_size=5, pooling=pooling, normalise_features=False)
    images = torch.randn(2, *SHAPE)
    tokens = network.encoder(patchify(images, 5))
    radius = torch.hypot(*torch.meshgrid(*[torch.arange(25.0) - 12] * 2, indexing="ij")).flatten()
    rings = [(radius > low) & (radius <= high) for low, high in ((-1, 2.1), (2.1, 5), (5, 9), (9, 99))]
    averages = [tokens[:, 1:][:, ring].mean(1) for ring in rings]
    by_hand = {
        "cls": tokens[:, 0],
        "mean": tokens[:, 1:].mean(1),
        "patch_mean": tokens[:, 1:].mean(2),
        "annuli": torch.cat([*averages, tokens[:, 0]], dim=1),
    }
    assert torch.allclose(network.features(images), by_hand[pooling], atol=1e-6)
    assert network.num_features == by_hand[pooling].shape[1]
    assert network(images).shape == (2,)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_untrained_encoder_learns_but_for_patch_mean(pooling):
    """Why no preset pools as the seed did: its features are 0 there, and so is the encoder's gradient."""
    torch.manual_seed(0)
    network = Classifier(Encoder(SHAPE, **TINY), grid=(25, 25), patch_size=5, pooling=pooling, normalise_features=False)
    images = torch.randn(4, *SHAPE)
    network(images).sum().backward()
    gradient = next(p.grad for name, p in network.encoder.named_parameters() if name.startswith("patch_embed"))
    dead = pooling == "patch_mean"
    assert (network.features(images).abs().max() < 1e-5) == dead
    assert (gradient.abs().max() < 1e-6) == dead


def test_linear_probe_standardises_with_the_training_features_and_keeps_constant_ones():
    probe = LinearProbe(3)
    features = torch.randn(100, 3) * torch.tensor([1.0, 50.0, 0.0]) + torch.tensor([0.0, 7.0, 2.0])
    probe.set_statistics(features)
    inputs = []
    probe.linear.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    probe(features)
    assert torch.allclose(inputs[0].mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(inputs[0].std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4)


def test_linear_probe_has_the_statistics_of_each_of_many_features():
    probe = LinearProbe(70)
    features = torch.randn(50, 70) * torch.arange(1, 71) + 3 * torch.arange(70)
    probe.set_statistics(features)
    assert torch.allclose(probe.scaling.feature_mean_F, features.double().mean(0).float())
    assert torch.allclose(probe.scaling.feature_std_F, features.double().std(0, correction=0).float())
