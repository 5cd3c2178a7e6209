"""The non-zero pixels of a batch, each with its place, on the device that needs them.

Augmentation, dense images and patch sums all start from here: work on 2 % of the pixels is cheap.

Shapes: n stored values, C channels, H x W image.
"""

from dataclasses import dataclass

from jaxtyping import Float32, Int64
from torch import Tensor


@dataclass(frozen=True)
class SparsePixels:
    """Stored values of some jets, in any order.

    A place p < H * W is a pixel; p = H * W + t stands for all pixels of tower t (data/shards.py). A tower and a pixel
    of it are never both there.
    """

    value_n: Float32[Tensor, " n"]
    """(n,) in the source's units, never 0"""
    jet_n: Int64[Tensor, " n"]
    channel_n: Int64[Tensor, " n"]
    place_n: Int64[Tensor, " n"]
    jets: int
    """number of jets, also those without a value"""
