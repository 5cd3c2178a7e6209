"""Signal or background from an image: the encoder on its patches, pooled to features, and a head with one logit.

Shapes: B batch, C channels, H W image, L patches, K patch tokens, D width, F features, R rings.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from jetmae.model.patches import patchify
from jetmae.model.tokens import Tokens, distance_from_centre
from jetmae.model.vit import Encoder

RING_EDGES = (2.1, 5.0, 9.0)  # patches from the centre: core, inner, outer, and what is beyond the jet
PATCH_MEAN_HIDDEN = 64  # the seed's classifier: 625 patch means -> 64 -> 1


class Pooling(nn.Module):
    """Features (B, F) from tokens (B, 1 + K, D), cls first; filling does not count.

    `mean`: average of the patch tokens (F = D). `cls`: the cls token (F = D). `annuli`: averages over rings around the
    image's centre, 0 for an empty one, and the cls token (F = 5 D): where in the jet something is, a single average
    forgets. `energy`: average weighted with the energy of each patch (F = D). `patch_mean`: average over the width of
    each patch token, the seed's choice (F = L). Of an untrained encoder that is 0, for its last LayerNorm leaves
    nothing of such a mean; nor does a gradient come back, so that training from scratch hardly begins with it.
    """

    ring_RL: Tensor

    def __init__(self, kind: str, *, grid: tuple[int, int], dim: int):
        super().__init__()
        self.kind = kind
        self.num_features = {"annuli": (2 + len(RING_EDGES)) * dim, "patch_mean": grid[0] * grid[1]}.get(kind, dim)
        if kind == "annuli":
            ring_L = torch.bucketize(distance_from_centre(*grid), torch.tensor(RING_EDGES))
            rings_RL = torch.stack([ring_L == r for r in range(len(RING_EDGES) + 1)])
            self.register_buffer("ring_RL", rings_RL.float(), persistent=False)

    def forward(
        self,
        tokens_BKD: Float[Tensor, "B tokens D"],
        tokens: Tokens | None,
        energy_BL: Float[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B F"]:
        if self.kind == "cls":
            return tokens_BKD[:, 0]
        patches_BKD = tokens_BKD[:, 1:]
        if self.kind == "patch_mean":
            return patches_BKD.mean(dim=2)
        if tokens is None and self.kind == "mean":
            return patches_BKD.mean(dim=1)
        weights_BRK = self._weights(tokens, energy_BL, patches_BKD)
        sums_BRD = weights_BRK @ patches_BKD
        means_BF = (sums_BRD / weights_BRK.sum(dim=2, keepdim=True).clamp(min=1e-6)).flatten(1)
        return torch.cat([means_BF, tokens_BKD[:, 0]], dim=1) if self.kind == "annuli" else means_BF

    def _weights(self, tokens: Tokens | None, energy_BL: Tensor | None, patches_BKD: Tensor) -> Tensor:
        """Of each patch token in each average, (B, R, K)."""
        size = patches_BKD.shape[:2]
        real_BK = torch.ones(size, device=patches_BKD.device) if tokens is None else tokens.weights()
        weights_BRK = real_BK[:, None]
        if self.kind == "annuli":
            ring_RBK = self.ring_RL[:, None].expand(-1, *size) if tokens is None else self.ring_RL[:, tokens.kept_BK]
            weights_BRK = weights_BRK * ring_RBK.transpose(0, 1)
        elif self.kind == "energy":
            if energy_BL is None:
                raise ValueError("pooling energy needs the energy of each patch")
            energy_BK = energy_BL if tokens is None else energy_BL.gather(1, tokens.kept_BK)
            weights_BRK = weights_BRK * energy_BK[:, None]
        return weights_BRK.to(patches_BKD.dtype)


class FeatureScaling(nn.Module):
    """Shifts and scales features to mean 0 and variance 1 over the training split.

    The fixed constants stand for the BatchNorm without affine parameters of MAE's linear probing: the same remedy for
    features of unequal scale, but exact and independent of batches and ranks.
    """

    feature_mean_F: Tensor
    feature_std_F: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("feature_mean_F", torch.zeros(features))
        self.register_buffer("feature_std_F", torch.ones(features))

    def set_statistics(self, features_NF: Float[Tensor, "N F"]) -> None:
        """Take mean and standard deviation from the training features (N, F); a constant feature keeps scale 1."""
        # Some columns at a time: float64 of all of them would be twice the features, which may fill the memory.
        parts = [torch.std_mean(part.double(), dim=0, correction=0) for part in features_NF.split(32, dim=1)]
        std_F, mean_F = map(torch.cat, zip(*parts, strict=True))
        self.feature_mean_F.copy_(mean_F)
        self.feature_std_F.copy_(torch.where(std_F > 1e-6 * mean_F.abs().clamp(min=1.0), std_F, 1.0))

    def forward(self, features_BF: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """In float32: features are scaled before they lose precision to that of a head."""
        return (features_BF.float() - self.feature_mean_F.float()) / self.feature_std_F.float()


class Classifier(nn.Module):
    """Encoder, pooling and head; logits above 0 say class 1 (the signal)."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        grid: tuple[int, int],
        patch_size: int,
        pooling: str,
        normalise_features: bool = False,
    ):
        super().__init__()
        self.encoder, self.patch_size = encoder, patch_size
        self.pooling = Pooling(pooling, grid=grid, dim=encoder.pos_embed.shape[2])
        self.num_features = self.pooling.num_features
        self.scaling = FeatureScaling(self.num_features) if normalise_features else None
        self.head = _make_head(self.num_features, pooling)
        initialise_head(self.head)

    def forward(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        tokens: Tokens | None = None,
        energy_BL: Float[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, " B"]:
        """Logits (B,)."""
        logits_B1: Tensor = self.head(self.scaled(self.features(images_BCHW, tokens, energy_BL)))
        return logits_B1.squeeze(-1)

    def scaled(self, features_BF: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """Features as the head gets them."""
        return features_BF if self.scaling is None else self.scaling(features_BF).to(features_BF.dtype)

    def set_statistics(self, features_NF: Float[Tensor, "N F"]) -> None:
        """Scale by these training features (N, F), if features are scaled."""
        if self.scaling is not None:
            self.scaling.set_statistics(features_NF)

    def set_head(self, weights_F: NDArray[np.float64], bias: float) -> None:
        """Make a linear head this one."""
        if not isinstance(self.head, nn.Linear):
            raise TypeError(f"a head of {type(self.head).__name__} cannot be set to a linear one")
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weights_F)[None])
            self.head.bias.fill_(bias)

    def features(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        tokens: Tokens | None = None,
        energy_BL: Float[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B F"]:
        """What the head sees, (B, F), before it is scaled."""
        tokens_BKD = self.encoder(patchify(images_BCHW, self.patch_size), tokens)
        features_BF: Tensor = self.pooling(tokens_BKD, tokens, energy_BL)
        return features_BF


def _make_head(features: int, pooling: str) -> nn.Module:
    if pooling == "patch_mean":
        return nn.Sequential(nn.Linear(features, PATCH_MEAN_HIDDEN), nn.ReLU(), nn.Linear(PATCH_MEAN_HIDDEN, 1))
    return nn.Linear(features, 1)


class LinearProbe(nn.Module):
    """One linear layer on frozen features, which are scaled first."""

    def __init__(self, features: int):
        super().__init__()
        self.scaling = FeatureScaling(features)
        self.linear = nn.Linear(features, 1)
        initialise_head(self.linear)

    def set_statistics(self, features_NF: Float[Tensor, "N F"]) -> None:
        """Scale by these training features (N, F)."""
        self.scaling.set_statistics(features_NF)

    def forward(self, features_BF: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
        """Logits (B,) from float32 features."""
        logits_B1: Tensor = self.linear(self.scaling(features_BF).to(self.linear.weight.dtype))
        return logits_B1.squeeze(-1)


def initialise_head(head: nn.Module) -> None:
    """Small weights, so that training starts at even odds whatever the features."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.01 if module.out_features == 1 else 0.02)
            nn.init.zeros_(module.bias)
