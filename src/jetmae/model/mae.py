"""The masked auto-encoder (arXiv:2111.06377): encode the visible quarter of the patches, predict the hidden rest.

Names and shapes of the parameters are those of the seed network `Masked_VIT`. What is computed equals
facebookresearch/mae's MaskedAutoencoderViT; the order of the tokens does not: attention does not care for it, so the
visible tokens stay in front and the masked ones behind, each with its position, and nothing is shuffled back.

Shapes: B batch, C channels, L patches, K kept, M masked, P = C * p * p values of a patch, D width, W whole
jets, F observables.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from jetmae.model.decoders import ConvDecoder, LocalAttentionDecoder
from jetmae.model.patches import sincos_positions, take_patches
from jetmae.model.timm_blocks import LAYER_NORM_EPS, last_block, transformer_block
from jetmae.model.tokens import Tokens
from jetmae.model.vit import Encoder, initialise

OBSERVABLES_HIDDEN = 128
FIRST_DEVIATION = 0.05  # of the last layer's initial weights, where a prediction has an offset


class Decoder(nn.Module):
    """A narrower transformer over visible and mask tokens that predicts the pixels of the masked patches."""

    def __init__(
        self, encoder_dim: int, *, grid: tuple[int, int], patch_values: int, dim: int, depth: int, heads: int,
        mlp_ratio: float
    ):  # fmt: skip
        super().__init__()
        self.decoder_embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(dim, *grid), requires_grad=False)
        blocks = [transformer_block(dim, heads, mlp_ratio) for _ in range(depth - 1)]
        self.decoder_blocks = nn.ModuleList([*blocks, last_block(dim, heads, mlp_ratio)])
        self.decoder_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(dim, patch_values)
        initialise(self)

    def forward(
        self, tokens_BKD: Float[Tensor, "B tokens D"], tokens: Tokens, asked_BM: Int[Tensor, "B M"] | None
    ) -> Float[Tensor, "B M P"]:
        """From encoder tokens (B, 1 + K, D), cls first, to the patches that are asked for, or to all of them.

        Values are ordered (p, p, C).
        """
        positions_BLD = self.decoder_pos_embed.expand(len(tokens_BKD), -1, -1)
        if asked_BM is None:
            asked_BM = torch.arange(positions_BLD.shape[1] - 1, device=tokens_BKD.device).expand(len(tokens_BKD), -1)
        with_cls_BK = torch.cat([torch.zeros_like(tokens.kept_BK[:, :1]), tokens.kept_BK + 1], dim=1)
        visible_BKD = self.decoder_embed(tokens_BKD) + take_patches(positions_BLD, with_cls_BK)
        hidden_BMD = self.mask_token + take_patches(positions_BLD, asked_BM + 1)
        tokens_BLD = torch.cat([visible_BKD, hidden_BMD], dim=1)
        mask = tokens.attention_mask()
        if mask is not None:
            mask = F.pad(mask, (0, asked_BM.shape[1]), value=True)
        for block in self.decoder_blocks[:-1]:
            tokens_BLD = block(tokens_BLD, attn_mask=mask)
        asked_BMD = self.decoder_blocks[-1](tokens_BLD, mask, with_cls_BK.shape[1])
        prediction_BMP: Tensor = self.decoder_pred(self.decoder_norm(asked_BMD))
        return prediction_BMP


@dataclass(frozen=True)
class View:
    """What an encoder sees of a batch, and what is asked of the decoder.

    `asked_BM` are the ids of the patches to predict, None: all. `hidden_BKG` says of each token which groups of
    channels are hidden in it, None: none.
    """

    tokens: Tokens
    asked_BM: Int[Tensor, "B M"] | None = None
    hidden_BKG: Bool[Tensor, "B K G"] | None = None


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder, and, where they are asked for, a vector for each hidden group and a head for observables."""

    offset_LP: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        decoder_dim: int,
        decoder_depth: int,
        decoder_heads: int,
        drop_path: float = 0.0,
        decoder: str = "attention",
        patch_values: int | None = None,
        groups: int = 0,
        has_offset: bool = False,
        observables: int = 0,
    ):
        """Random weights; the additions to the seed are off.

        Args:
            patch_values: numbers predicted of each patch; None: its pixels.
            groups: of channels that masks may hide in a patch; 0: only whole patches are hidden.
            has_offset: something known is added to the prediction, see `set_offset`.
            observables: numbers regressed from the whole jet; 0: none.
        """
        super().__init__()
        channels, height, width = image_shape
        grid, patch_values = (height // patch_size, width // patch_size), patch_values or channels * patch_size**2
        self.encoder = Encoder(
            image_shape,
            patch_size=patch_size,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
        )
        self.decoder = make_decoder(
            decoder,
            dim,
            grid=grid,
            patch_values=patch_values,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
            mlp_ratio=mlp_ratio,
        )
        self.has_offset = has_offset
        if has_offset:
            self.register_buffer("offset_LP", torch.zeros(grid[0] * grid[1], patch_values))
        self.hidden_groups = nn.Parameter(torch.zeros(groups, dim)) if groups else None
        self.observables_head = observables_head(dim, observables) if observables else None

    def forward(
        self, patches_BLP: Float[Tensor, "B L P"], view: View, whole: tuple[Tensor, Tokens | None] | None = None
    ) -> tuple[Float[Tensor, "B M values"], Float[Tensor, "W F"] | None]:
        """The asked patches (B, M, values), in the order of the target.

        `whole` are patches (W, L, P) of jets of which nothing is hidden, and the tokens that are read of them. From
        them come observables (W, F). All of it is one call, so that every weight has a part in every step: ZeRO 3 keeps
        the last gradient of a weight that has none.
        """
        added_BKD = None
        if view.hidden_BKG is not None and self.hidden_groups is not None:
            added_BKD = view.hidden_BKG.to(self.hidden_groups.dtype) @ self.hidden_groups
        tokens_BKD = self.encoder(patches_BLP, view.tokens, added_BKD)
        prediction_BMP: Tensor = self.decoder(tokens_BKD, view.tokens, view.asked_BM)
        if self.has_offset:
            offset = self.offset_LP if view.asked_BM is None else self.offset_LP[view.asked_BM]
            prediction_BMP = prediction_BMP + offset
        if whole is None or self.observables_head is None:
            return prediction_BMP, None
        whole_patches, whole_tokens = whole
        features_WF = cls_and_mean(self.encoder(whole_patches, whole_tokens), whole_tokens)
        return prediction_BMP, self.observables_head(features_WF)

    def set_offset(self, offset_LP: Float[Tensor, "L P"]) -> None:
        """What is added to every prediction. The last layer begins small, so that training begins near this."""
        self.offset_LP.copy_(offset_LP)
        with torch.no_grad():
            self.decoder.get_parameter("decoder_pred.weight").mul_(FIRST_DEVIATION)


def make_decoder(
    kind: str, encoder_dim: int, *, grid: tuple[int, int], patch_values: int, dim: int, depth: int, heads: int,
    mlp_ratio: float
) -> nn.Module:  # fmt: skip
    """The decoder of this kind: attention, attention-local or conv; `heads` and `mlp_ratio` are for attention."""
    if kind == "conv":
        return ConvDecoder(encoder_dim, grid=grid, patch_values=patch_values, dim=dim, depth=depth)
    attention = LocalAttentionDecoder if kind == "attention-local" else Decoder
    return attention(
        encoder_dim, grid=grid, patch_values=patch_values, dim=dim, depth=depth, heads=heads, mlp_ratio=mlp_ratio
    )


def observables_head(dim: int, observables: int) -> nn.Module:
    """From cls and the mean of the patch tokens (2 * dim) to observables."""
    head = nn.Sequential(
        nn.LayerNorm(2 * dim),
        nn.Linear(2 * dim, OBSERVABLES_HIDDEN),
        nn.GELU(),
        nn.Linear(OBSERVABLES_HIDDEN, observables),
    )
    initialise(head)
    return head


def cls_and_mean(tokens_BKD: Float[Tensor, "B tokens D"], tokens: Tokens | None) -> Float[Tensor, "B F"]:
    """The cls token and the mean of the real patch tokens, (B, 2 * D)."""
    if tokens is None:
        return torch.cat([tokens_BKD[:, 0], tokens_BKD[:, 1:].mean(dim=1)], dim=1)
    weights_BK = tokens.weights().to(tokens_BKD.dtype)
    sum_BD = (tokens_BKD[:, 1:] * weights_BK[..., None]).sum(dim=1)
    return torch.cat([tokens_BKD[:, 0], sum_BD / weights_BK.sum(dim=1, keepdim=True).clamp(min=1)], dim=1)


def reconstruction_loss(
    prediction_BMP: Float[Tensor, "*B M P"],
    target_BMP: Float[Tensor, "*B M P"],
    *,
    norm_pix_loss: bool = False,
    channel_weights_C: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error over the masked pixels, a scalar in float32.

    Args:
        norm_pix_loss: compare with each target patch shifted and scaled to mean 0 and variance 1 (MAE, section 4).
        channel_weights_C: weight of each channel; they are divided by their mean, so that equal ones change nothing.
    """
    prediction_BMP, target_BMP = prediction_BMP.float(), target_BMP.float()
    if norm_pix_loss:
        target_BMP = normalised_patches(target_BMP)
    squared_error = (prediction_BMP - target_BMP) ** 2
    if channel_weights_C is not None:
        weights_C = channel_weights_C / channel_weights_C.mean()
        squared_error = squared_error.unflatten(-1, (-1, len(weights_C))) * weights_C
    return squared_error.mean()


def normalised_patches(target_BMP: Float[Tensor, "*B M P"]) -> Float[Tensor, "*B M P"]:
    """Each patch with mean 0 and (unbiased) variance 1 over all its values; the epsilon is MAE's."""
    variance, mean = torch.var_mean(target_BMP, dim=-1, keepdim=True)
    return (target_BMP - mean) / (variance + 1e-6).sqrt()
