"""Decoders with a sense of place: what is near counts more, from the first step on.

Plain attention has to learn from noise which of 625 patches are neighbours, and stays at the mean image for hundreds of
steps; these do not. Both take tokens of any choice of patches and predict every patch, or those that are asked for.

Shapes: B batch, L patches, K tokens, M predicted patches, P values of a patch, D width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from jetmae.model.patches import sincos_positions, take_patches
from jetmae.model.timm_blocks import LAYER_NORM_EPS
from jetmae.model.tokens import Tokens
from jetmae.model.vit import initialise

KERNEL = 7  # patches, as in ConvNeXt
CONV_MLP_RATIO = 2.0
FIRST_REACHES = (0.5, 1.0, 2.5, 10.0)  # patches after which attention of a head falls to 1/e, before training


class ConvDecoder(nn.Module):
    """ConvNeXt blocks (arXiv:2201.03545) on the grid of patches: tokens lie in their places, the others are empty."""

    def __init__(self, encoder_dim: int, *, grid: tuple[int, int], patch_values: int, dim: int, depth: int):
        super().__init__()
        self.grid = grid
        self.decoder_embed, self.cls_embed = nn.Linear(encoder_dim, dim), nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(dim, *grid)[:, 1:], requires_grad=False)
        self.decoder_blocks = nn.ModuleList(ConvBlock(dim, grid) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(dim, patch_values)
        initialise(self)

    def forward(
        self, tokens_BKD: Float[Tensor, "B tokens D"], tokens: Tokens, asked_BM: Int[Tensor, "B M"] | None
    ) -> Float[Tensor, "B M P"]:
        """From encoder tokens (B, 1 + K, D), cls first, to the patches that are asked for, or to all of them."""
        everywhere_BLD = self.mask_token + self.decoder_pos_embed + self.cls_embed(tokens_BKD[:, :1])
        own_BKD = self.decoder_embed(tokens_BKD[:, 1:])
        if tokens.real_BK is not None:
            own_BKD = own_BKD * tokens.real_BK[..., None]
        places_BKD = tokens.kept_BK[..., None].expand_as(own_BKD)
        grid_BLD = everywhere_BLD.scatter_add(1, places_BKD, own_BKD)
        for block in self.decoder_blocks:
            grid_BLD = block(grid_BLD)
        if asked_BM is not None:
            grid_BLD = take_patches(grid_BLD, asked_BM)
        prediction_BMP: Tensor = self.decoder_pred(self.decoder_norm(grid_BLD))
        return prediction_BMP


class ConvBlock(nn.Module):
    """Depthwise 7 x 7 convolution, then norm and MLP of each patch, beside a residual path."""

    def __init__(self, dim: int, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid
        self.depthwise = nn.Conv2d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.widen, self.narrow = nn.Linear(dim, int(CONV_MLP_RATIO * dim)), nn.Linear(int(CONV_MLP_RATIO * dim), dim)

    def forward(self, x_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        image = x_BLD.transpose(1, 2).unflatten(2, self.grid)
        mixed_BLD = self.depthwise(image).flatten(2).transpose(1, 2)
        changed_BLD: Tensor = self.narrow(F.gelu(self.widen(self.norm(mixed_BLD))))
        return x_BLD + changed_BLD


class LocalAttentionDecoder(nn.Module):
    """Patches attend to the visible tokens alone, each head with a learned penalty on distance (ALiBi in 2-d)."""

    distance_LL: Tensor

    def __init__(
        self, encoder_dim: int, *, grid: tuple[int, int], patch_values: int, dim: int, depth: int, heads: int,
        mlp_ratio: float
    ):  # fmt: skip
        super().__init__()
        self.decoder_embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(dim, *grid)[:, 1:], requires_grad=False)
        self.register_buffer("distance_LL", distances(*grid), persistent=False)
        self.decoder_blocks = nn.ModuleList(LocalAttentionBlock(dim, heads, mlp_ratio) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(dim, patch_values)
        initialise(self)

    def forward(
        self, tokens_BKD: Float[Tensor, "B tokens D"], tokens: Tokens, asked_BM: Int[Tensor, "B M"] | None
    ) -> Float[Tensor, "B M P"]:
        """From encoder tokens (B, 1 + K, D), cls first, to the patches that are asked for, or to all of them."""
        positions_BLD = self.decoder_pos_embed.expand(len(tokens_BKD), -1, -1)
        if asked_BM is None:
            asked_BM = torch.arange(positions_BLD.shape[1], device=tokens_BKD.device).expand(len(tokens_BKD), -1)
        own_BKD = self.decoder_embed(tokens_BKD)
        seen_BKD = torch.cat([own_BKD[:, :1], own_BKD[:, 1:] + take_patches(positions_BLD, tokens.kept_BK)], dim=1)
        distance_BMK = F.pad(self.distance_LL[asked_BM[:, :, None], tokens.kept_BK[:, None]], (1, 0))  # none to cls
        x_BMD = self.mask_token + take_patches(positions_BLD, asked_BM)
        for block in self.decoder_blocks:
            x_BMD = block(x_BMD, seen_BKD, distance_BMK, tokens.attention_mask())
        prediction_BMP: Tensor = self.decoder_pred(self.decoder_norm(x_BMD))
        return prediction_BMP


class LocalAttentionBlock(nn.Module):
    """Cross-attention with a penalty of exp(log_slope) per patch of distance and head, then an MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads, hidden = heads, int(mlp_ratio * dim)
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=LAYER_NORM_EPS) for _ in range(2))
        self.query, self.key_value, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        reaches = torch.tensor([FIRST_REACHES[head % len(FIRST_REACHES)] for head in range(heads)])
        self.log_slope = nn.Parameter(-reaches.log())
        self.widen, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(
        self,
        x_BMD: Float[Tensor, "B M D"],
        seen_BKD: Float[Tensor, "B keys D"],
        distance_BMK: Float[Tensor, "B M keys"],
        attention_mask: Bool[Tensor, "B 1 1 keys"] | None,
    ) -> Float[Tensor, "B M D"]:
        """`distance_BMK` in patches, from each asked patch to cls (0) and to each token."""
        x_BMD = x_BMD + self.proj(self._attend(self.norm1(x_BMD), seen_BKD, distance_BMK, attention_mask))
        changed_BMD: Tensor = self.narrow(F.gelu(self.widen(self.norm2(x_BMD))))
        return x_BMD + changed_BMD

    def _attend(self, x_BMD: Tensor, seen_BKD: Tensor, distance_BMK: Tensor, mask: Tensor | None) -> Tensor:
        query = self.query(x_BMD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(seen_BKD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        penalty_BHMK = -self.log_slope.exp()[:, None, None] * distance_BMK[:, None].to(query.dtype)
        if mask is not None:
            penalty_BHMK = penalty_BHMK.masked_fill(~mask, float("-inf"))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=penalty_BHMK).transpose(1, 2).flatten(2)


def distances(rows: int, columns: int) -> Float[Tensor, "L L"]:
    """Between the centres of all pairs of patches, in patches."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places_L2 = torch.stack([y.flatten(), x.flatten()], dim=1).float()
    return torch.cdist(places_L2, places_L2)
