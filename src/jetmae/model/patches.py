"""Images to patches and back, fixed positions, and which patches are hidden.

Shapes: B batch, C channels, H W image, L patches, P = C * p * p values of a patch, K kept patches, M masked patches.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def patchify(images_BCHW: Float[Tensor, "B C H W"], patch_size: int) -> Float[Tensor, "B L P"]:
    """Cut images into patches, row by row: (B, C, H, W) -> (B, L, C * p * p), channel outermost within a patch."""
    B, C, H, W = images_BCHW.shape
    p = patch_size
    patches = images_BCHW.reshape(B, C, H // p, p, W // p, p)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(B, (H // p) * (W // p), C * p * p)


def unpatchify(
    patches_BLP: Float[Tensor, "B L P"], image_shape: tuple[int, int, int], patch_size: int
) -> Float[Tensor, "B C H W"]:
    """The inverse of `patchify`: (B, L, C * p * p) -> (B, C, H, W)."""
    C, H, W = image_shape
    p = patch_size
    patches = patches_BLP.reshape(-1, H // p, W // p, C, p, p)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, C, H, W)


def channel_last(patches_BLP: Float[Tensor, "B L P"], channels: int) -> Float[Tensor, "B L P"]:
    """Reorder each patch from (C, p, p) to (p, p, C): the order in which `decoder_pred` of the seed predicts."""
    pixels: Tensor = patches_BLP.unflatten(-1, (channels, -1))
    return pixels.transpose(-1, -2).flatten(-2)


def channel_first(patches_BLP: Float[Tensor, "B L P"], channels: int) -> Float[Tensor, "B L P"]:
    """The inverse of `channel_last`."""
    pixels: Tensor = patches_BLP.unflatten(-1, (-1, channels))
    return pixels.transpose(-1, -2).flatten(-2)


def split_patches(noise_BL: Float[Tensor, "B L"], mask_ratio: float) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B M"]]:
    """Choose the hidden patches of each image: the ids kept (B, K) and masked (B, M).

    The int(L * (1 - mask_ratio)) patches with the smallest noise are kept, as in facebookresearch/mae.
    """
    num_kept = int(noise_BL.shape[1] * (1 - mask_ratio))
    shuffled_BL = noise_BL.argsort(dim=1, stable=True)
    return shuffled_BL[:, :num_kept], shuffled_BL[:, num_kept:]


def take_patches(tokens_BLD: Float[Tensor, "B L D"], ids_BK: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
    """tokens_BLD[b, ids_BK[b, k]] -> (B, K, D)."""
    return tokens_BLD.gather(1, ids_BK[..., None].expand(-1, -1, tokens_BLD.shape[2]))


def sincos_positions(dim: int, rows: int, columns: int) -> Float[Tensor, "1 L D"]:
    """Fixed 2-d sine-cosine positions (1, 1 + rows * columns, dim), zeros for the cls token in front.

    The first half of the width encodes the column, the second the row, each as dim/4 sines then dim/4 cosines with
    wavelengths 2 pi 10000^(4k/dim): the table of MAE (arXiv:2111.06377) and MoCo v3.
    """
    frequency = 1.0 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4.0))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [np.outer(axis.ravel(), frequency) for axis in (column, row)]
    table = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((1, dim)), table])).float()[None]
