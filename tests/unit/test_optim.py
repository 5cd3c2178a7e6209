"""Schedules and parameter groups."""

import pytest
import torch

from jetmae.engine.optim import Schedule, parameter_groups
from jetmae.model.classifier import Classifier
from jetmae.model.vit import Encoder


def test_cosine_rises_linearly_then_falls_to_the_floor():
    schedule = Schedule(peak=1.0, floor=0.1, total_steps=110, warmup_steps=10)
    assert [schedule(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert schedule(10) == pytest.approx(1.0)
    assert schedule(60) == pytest.approx(0.55)
    assert schedule(110) == pytest.approx(0.1)


def test_warm_restarts_equal_torchs_scheduler():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=7, T_mult=2, eta_min=0.01)
    schedule = Schedule(peak=0.3, floor=0.01, total_steps=60, first_period=7, factor=2)
    for step in range(60):
        assert schedule(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9), step
        optimizer.step()
        reference.step()


def classifier() -> Classifier:
    encoder = Encoder((8, 25, 25), patch_size=5, dim=16, depth=3, heads=2, mlp_ratio=2.0)
    return Classifier(encoder, grid=(25, 25), patch_size=5, pooling="mean", normalise_features=False)


def lr_scales(network, layer_decay) -> dict[str, float]:
    groups = parameter_groups(network, weight_decay=0.05, layer_decay=layer_decay)
    return {
        name: group["lr_scale"]
        for name, parameter in network.named_parameters()
        for group in groups
        if any(parameter is member for member in group["params"])
    }


def test_layer_decay_slows_layers_near_the_pixels():
    scales = lr_scales(classifier(), 0.5)
    assert scales["head.weight"] == 1.0
    assert scales["encoder.norm.weight"] == 1.0
    assert [scales[f"encoder.blocks.{i}.attn.qkv.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert scales["encoder.patch_embed.proj.weight"] == scales["encoder.cls_token"] == 0.0625


def test_every_trainable_parameter_is_in_one_group_and_only_matrices_decay():
    network = classifier()
    groups = parameter_groups(network, weight_decay=0.05)
    members = [parameter for group in groups for parameter in group["params"]]
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert {id(p) for p in members} == {id(p) for p in trainable}
    assert len(members) == len(trainable)
    for group in groups:
        for parameter in group["params"]:
            is_matrix = parameter.ndim > 1 and parameter is not network.encoder.cls_token
            assert (group["weight_decay"] > 0) == is_matrix
