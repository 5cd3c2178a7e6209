"""A batch on its way into the network: sparse, and packed into one tensor, so that it crosses to a device at once.

Packing and unpacking stand side by side here: whoever changes the order of the bytes changes both.

Shapes: B jets, C channels, nnz stored values, N noise columns.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from jetmae.data.shards import SparseJets


@dataclass(frozen=True)
class Batch:
    """Some jets of one split.

    `packed` (bytes,) uint8: nnz float32 values, then B x C uint16 counts, then nnz uint16 places.
    """

    split: str
    packed: UInt8[Tensor, " bytes"]
    jets: int
    nonzeros: int
    ids_B: Int64[Tensor, " B"]
    label_B: Shaped[Tensor, " B"] | None
    noise_BN: Float32[Tensor, "B N"]
    counts_B: Bool[Tensor, " B"]
    """(B,) bool: False for the surplus entries of the last evaluation batch"""
    step: int = 0
    """the optimizer step that it is for, counted from 0; 0 in evaluation"""

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on a device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return replace(self, **moved)


def make_batch(
    split: str,
    jets: SparseJets,
    ids_B: NDArray[np.int64],
    noise_BN: NDArray[np.float32],
    counts_B: NDArray[np.bool_] | None = None,
    *,
    step: int = 0,
) -> Batch:
    """The batch of these jets; without `counts_B` all of them count."""
    return Batch(
        split=split,
        packed=torch.from_numpy(pack(jets)),
        jets=len(jets),
        nonzeros=len(jets.value),
        ids_B=torch.from_numpy(np.asarray(ids_B)),
        label_B=None if jets.label is None else torch.from_numpy(jets.label),
        noise_BN=torch.from_numpy(noise_BN),
        counts_B=torch.ones(len(jets), dtype=torch.bool) if counts_B is None else torch.from_numpy(counts_B),
        step=step,
    )


def pack(jets: SparseJets) -> NDArray[np.uint8]:
    """Values, counts and places as bytes, one after the other."""
    return np.concatenate([part.ravel().view(np.uint8) for part in (jets.value, jets.count_NC, jets.index)])


def unpack(batch: Batch, channels: int) -> tuple[Float32[Tensor, " nnz"], Int64[Tensor, "B C"], Int64[Tensor, " nnz"]]:
    """Values (nnz,) float32, counts (B, C) int64 and places (nnz,) int64 of a batch, on its device."""
    value_bytes, count_bytes = batch.nonzeros * 4, batch.jets * channels * 2
    value, count, index = batch.packed.split([value_bytes, count_bytes, batch.nonzeros * 2])
    return value.view(torch.float32), _as_integers(count).view(batch.jets, channels), _as_integers(index)


def _as_integers(two_bytes: Tensor) -> Tensor:
    """Unsigned 16-bit integers as int64; through int16, which every device supports."""
    return two_bytes.view(torch.int16).long() & 0xFFFF
