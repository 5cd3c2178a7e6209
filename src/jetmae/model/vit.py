"""The Vision Transformer encoder, shared by reconstruction and classification.

Shapes: B batch, L patches, K kept patches, P values of a patch, D width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jetmae.model.patches import sincos_positions, take_patches
from jetmae.model.timm_blocks import LAYER_NORM_EPS, DropPath, transformer_block
from jetmae.model.tokens import Tokens


class PatchProjection(nn.Conv2d):
    """A convolution with stride = kernel, applied to patches that are cut already: a matrix product.

    Embedding only the visible patches saves three quarters of its work; as a Conv2d it keeps the seed's weight shape.
    """

    def forward(self, patches_BLP: Float[Tensor, "B L P"]) -> Float[Tensor, "B L D"]:
        return F.linear(patches_BLP, self.weight.flatten(1), self.bias)


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, patch_size: int, dim: int):
        super().__init__()
        self.proj = PatchProjection(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches_BLP: Float[Tensor, "B L P"]) -> Float[Tensor, "B L D"]:
        tokens_BLD: Tensor = self.proj(patches_BLP)
        return tokens_BLD


class Encoder(nn.Module):
    """Patch embedding, cls token, fixed positions, pre-norm blocks, final norm."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
    ):
        super().__init__()
        channels, height, width = image_shape
        grid = (height // patch_size, width // patch_size)
        self.patch_embed = PatchEmbed(channels, patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos_positions(dim, *grid), requires_grad=False)
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]  # deeper blocks are dropped more often
        self.blocks = nn.ModuleList(transformer_block(dim, heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        initialise(self)

    def forward(
        self,
        patches_BLP: Float[Tensor, "B L P"],
        tokens: Tokens | None = None,
        added_BKD: Float[Tensor, "B K D"] | None = None,
    ) -> Float[Tensor, "B tokens D"]:
        """Tokens (B, 1 + K, D), cls first, of the kept patches, or of all (B, 1 + L, D).

        `added_BKD` is added to the embedded patches: what there is to say of them beside their values.
        """
        positions_BLD = self.pos_embed[:, 1:].expand(len(patches_BLP), -1, -1)
        if tokens is not None:
            patches_BLP, positions_BLD = (take_patches(x, tokens.kept_BK) for x in (patches_BLP, positions_BLD))
        tokens_BLD = self.patch_embed(patches_BLP) + positions_BLD
        if added_BKD is not None:
            tokens_BLD = tokens_BLD + added_BKD
        cls_B1D = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches_BLP), -1, -1)
        tokens_BLD = torch.cat([cls_B1D, tokens_BLD], dim=1)
        attention_mask = None if tokens is None else tokens.attention_mask()
        for block in self.blocks:
            tokens_BLD = block(tokens_BLD, attn_mask=attention_mask)
        normed_BLD: Tensor = self.norm(tokens_BLD)
        return normed_BLD


def drop_paths(model: nn.Module) -> list[DropPath]:
    """The model's stochastic-depth layers in forward order."""
    return [module for module in model.modules() if isinstance(module, DropPath)]


def set_drop_path_noise(model: nn.Module, noise_BN: Float[Tensor, "B N"]) -> None:
    """Give each stochastic-depth layer its column of uniform noise (B, number of layers)."""
    for layer, noise_B in zip(drop_paths(model), noise_BN.unbind(1), strict=True):
        layer.noise_B = noise_B


def initialise(module: nn.Module) -> None:
    """MAE's initial weights: Xavier-uniform matrices, zero biases, tokens normal with standard deviation 0.02."""
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(child.weight.view(child.weight.shape[0], -1))
            if child.bias is not None:
                nn.init.zeros_(child.bias)
    for name in ("cls_token", "mask_token"):
        if hasattr(module, name):
            nn.init.normal_(getattr(module, name), std=0.02)
