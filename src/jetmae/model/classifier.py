"""Signal or background from an image: the encoder on all patches, pooled to features, and a head with one logit.

Shapes: B batch, C channels, H W image, L patches, D width, F features.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jetmae.model.patches import patchify
from jetmae.model.vit import Encoder

POOLINGS = ("mean", "cls", "patch_mean")
PATCH_MEAN_HIDDEN = 64  # the seed's classifier: 625 patch means -> 64 -> 1


def pool(tokens_BLD: Float[Tensor, "B L D"], pooling: str) -> Float[Tensor, "B F"]:
    """Features (B, F) from tokens (B, 1 + L, D), cls first.

    `mean`: average of the patch tokens (F = D). `cls`: the cls token (F = D). `patch_mean`: average over the width of
    each patch token, the seed's choice (F = L). Of an untrained encoder that is 0, for its last LayerNorm leaves
    nothing of such a mean; nor does a gradient come back, so that training from scratch hardly begins with it.
    """
    if pooling == "cls":
        return tokens_BLD[:, 0]
    return tokens_BLD[:, 1:].mean(dim=1 if pooling == "mean" else 2)


class Classifier(nn.Module):
    """Encoder, pooling and head; logits above 0 say class 1 (the signal)."""

    def __init__(self, encoder: Encoder, *, patch_size: int, pooling: str):
        super().__init__()
        self.encoder, self.patch_size, self.pooling = encoder, patch_size, pooling
        num_patches, dim = encoder.pos_embed.shape[1] - 1, encoder.pos_embed.shape[2]
        self.num_features = num_patches if pooling == "patch_mean" else dim
        self.head = _make_head(self.num_features, pooling)
        initialise_head(self.head)

    def forward(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """Logits (B,)."""
        logits_B1: Tensor = self.head(self.features(images_BCHW))
        return logits_B1.squeeze(-1)

    def features(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """What the head sees, (B, F)."""
        return pool(self.encoder(patchify(images_BCHW, self.patch_size)), self.pooling)


def _make_head(features: int, pooling: str) -> nn.Module:
    if pooling == "patch_mean":
        return nn.Sequential(nn.Linear(features, PATCH_MEAN_HIDDEN), nn.ReLU(), nn.Linear(PATCH_MEAN_HIDDEN, 1))
    return nn.Linear(features, 1)


class LinearProbe(nn.Module):
    """One linear layer on frozen features, shifted and scaled to mean 0 and variance 1 over the training split.

    The fixed constants stand for the BatchNorm without affine parameters of MAE's linear probing: the same remedy for
    features of unequal scale, but exact and independent of batches and ranks.
    """

    feature_mean_F: Tensor
    feature_std_F: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("feature_mean_F", torch.zeros(features))
        self.register_buffer("feature_std_F", torch.ones(features))
        self.linear = nn.Linear(features, 1)
        initialise_head(self.linear)

    def set_statistics(self, features_NF: Float[Tensor, "N F"]) -> None:
        """Take mean and standard deviation from the training features (N, F); a constant feature keeps scale 1."""
        # Some columns at a time: float64 of all of them would be twice the features, which may fill the memory.
        parts = [torch.std_mean(part.double(), dim=0, correction=0) for part in features_NF.split(32, dim=1)]
        std_F, mean_F = map(torch.cat, zip(*parts, strict=True))
        self.feature_mean_F.copy_(mean_F)
        self.feature_std_F.copy_(torch.where(std_F > 1e-6 * mean_F.abs().clamp(min=1.0), std_F, 1.0))

    def forward(self, features_BF: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
        """Logits (B,) from float32 features, which are scaled before they lose precision to that of the weights."""
        scaled_BF = (features_BF - self.feature_mean_F.float()) / self.feature_std_F.float()
        logits_B1: Tensor = self.linear(scaled_BF.to(self.linear.weight.dtype))
        return logits_B1.squeeze(-1)


def initialise_head(head: nn.Module) -> None:
    """Small weights, so that training starts at even odds whatever the features."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.01 if module.out_features == 1 else 0.02)
            nn.init.zeros_(module.bias)
