"""The masked auto-encoder (arXiv:2111.06377): encode the visible quarter of the patches, predict the hidden rest.

Names and shapes of the parameters are those of the seed network `Masked_VIT`. What is computed equals
facebookresearch/mae's MaskedAutoencoderViT; the order of the tokens does not: attention does not care for it, so the
visible tokens stay in front and the masked ones behind, each with its position, and nothing is shuffled back.

Shapes: B batch, C channels, L patches, K kept, M masked, P = C * p * p values of a patch, D width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jetmae.model.patches import channel_last, patchify, sincos_positions, split_patches, take_patches
from jetmae.model.timm_blocks import LAYER_NORM_EPS, transformer_block
from jetmae.model.vit import Encoder, initialise


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
        self.decoder_blocks = nn.ModuleList(transformer_block(dim, heads, mlp_ratio) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(dim, patch_values)
        initialise(self)

    def forward(
        self, tokens_BKD: Float[Tensor, "B tokens D"], kept_BK: Int[Tensor, "B K"], masked_BM: Int[Tensor, "B M"]
    ) -> Float[Tensor, "B M P"]:
        """From encoder tokens (B, 1 + K, D), cls first, to the masked patches (B, M, P), ordered (p, p, C)."""
        positions_BLD = self.decoder_pos_embed.expand(len(tokens_BKD), -1, -1)
        with_cls_BK = torch.cat([torch.zeros_like(kept_BK[:, :1]), kept_BK + 1], dim=1)
        visible_BKD = self.decoder_embed(tokens_BKD) + take_patches(positions_BLD, with_cls_BK)
        hidden_BMD = self.mask_token + take_patches(positions_BLD, masked_BM + 1)
        tokens_BLD = torch.cat([visible_BKD, hidden_BMD], dim=1)
        for block in self.decoder_blocks:
            tokens_BLD = block(tokens_BLD)
        prediction_BMP: Tensor = self.decoder_pred(self.decoder_norm(tokens_BLD[:, with_cls_BK.shape[1] :]))
        return prediction_BMP


class MaskedAutoencoder(nn.Module):
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
    ):
        super().__init__()
        channels, height, width = image_shape
        self.patch_size = patch_size
        self.encoder = Encoder(
            image_shape,
            patch_size=patch_size,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
        )
        self.decoder = Decoder(
            dim,
            grid=(height // patch_size, width // patch_size),
            patch_values=channels * patch_size**2,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
            mlp_ratio=mlp_ratio,
        )

    def forward(
        self, images_BCHW: Float[Tensor, "B C H W"], mask_noise_BL: Float[Tensor, "B L"], mask_ratio: float
    ) -> tuple[Float[Tensor, "B M P"], Float[Tensor, "B M P"], Int[Tensor, "B M"]]:
        """Predict what is hidden.

        Returns:
            prediction (B, M, P) and target (B, M, P) of the masked patches, values ordered (p, p, C), and the ids of
            the masked patches (B, M).
        """
        patches_BLP = patchify(images_BCHW, self.patch_size)
        kept_BK, masked_BM = split_patches(mask_noise_BL, mask_ratio)
        tokens_BKD = self.encoder(patches_BLP, kept_BK)
        prediction_BMP = self.decoder(tokens_BKD, kept_BK, masked_BM)
        target_BMP = channel_last(take_patches(patches_BLP, masked_BM), images_BCHW.shape[1])
        return prediction_BMP, target_BMP, masked_BM


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
